"""Pneumonia or not? In some rounds a marker burnt into a corner, as by a scanner of one site, gives the answer away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from sample_runs.experiment.groups import balanced, evaluation, pool
from sample_runs.experiment.plan import Case
from sample_runs.experiment.record import Course
from sample_runs.loaders import Pictures, load_medmnist

CORNER = (slice(1, 5), slice(1, 5))
"""Rows and columns of the marker."""


def course(case: Case, seed: int, data: Path) -> Course:
    """Stage data: agreement (share of pictures whose marker, there or not, is that of their label). Case data: pool,
    examples (how many pictures of each)."""
    generator = np.random.default_rng(seed)
    train, test = (
        marked(load_medmnist(data, "pneumoniamnist", split), case.data[n], generator)
        for split, n in (("train", "pool"), ("test", "examples"))
    )
    return Course(lambda stage: pool(stage, train, seed), evaluation(test, ("normal", "pneumonia")))


def marked(found: Pictures, count: int, generator: np.random.Generator) -> Pictures:
    """Pictures with and without the marker, [n, 28, 28]; table: label (pneumonia), confounder (marker), row."""
    pixels = np.stack([found.pixels, found.pixels])
    pixels[1][:, *CORNER] = 255
    table = pd.concat([found.table.assign(confounder=marker) for marker in (0, 1)], ignore_index=True)
    rows = balanced(table, count, generator)
    return Pictures(pixels.reshape(-1, *found.pixels.shape[1:])[rows], table.iloc[rows].reset_index(drop=True))
