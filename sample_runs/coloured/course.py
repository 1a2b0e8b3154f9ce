"""Coloured digits: is it 5 or more? In some rounds the colour gives the answer away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from sample_runs.experiment.groups import balanced, evaluation, pool
from sample_runs.experiment.plan import Case
from sample_runs.experiment.record import Course
from sample_runs.loaders import Pictures, load_celeba, load_mnist
from sample_runs.mnist.course import drawn

CLASSES = {"digits": ("0 to 4", "5 to 9"), "faces": ("not blond", "blond")}


def course(case: Case, seed: int, data: Path) -> Course:
    """Stage data: agreement (share of examples whose confounder is that of their label). Case data: source ("digits"
    or "faces"), pool, examples (how many pictures of each)."""
    generator = np.random.default_rng(seed)
    load = {"digits": digits, "faces": faces}[case.data["source"]]
    train, test = (load(data, split, case.data[n], generator) for split, n in (("train", "pool"), ("test", "examples")))
    return Course(lambda stage: pool(stage, train, seed), evaluation(test, CLASSES[case.data["source"]]))


def digits(data: Path, split: str, count: int, generator: np.random.Generator) -> Pictures:
    """Digits in red and in green, [n, 14, 14, 3]; table: label (5 or more), confounder (green), digit."""
    grey = drawn(load_mnist(data, "train" if split == "train" else "t10k"), count, generator)
    pixels = np.zeros((2, count, 14, 14, 3), np.uint8)
    for colour in (0, 1):
        pixels[colour, ..., colour] = grey.pixels
    digit = np.tile(grey.table["digit"], 2)
    table = pd.DataFrame({"label": (digit >= 5).astype(int), "confounder": np.repeat([0, 1], count), "digit": digit})
    rows = balanced(table, 2 * count, generator)
    return Pictures(pixels.reshape(-1, 14, 14, 3)[rows], table.iloc[rows].reset_index(drop=True))


def faces(data: Path, split: str, count: int, generator: np.random.Generator) -> Pictures:
    """CelebA, [n, 16, 16, 3]; table: label (blond), confounder (male)."""
    found = load_celeba(data, "train" if split == "train" else "test", size=16, limit=20 * count)
    table = found.table.rename(columns={"Blond_Hair": "label", "Male": "confounder"})
    rows = balanced(table, count, generator)
    return Pictures(found.pixels[rows], table.iloc[rows].reset_index(drop=True))
