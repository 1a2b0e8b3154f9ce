"""A label and a confounder: groups of examples in which they agree or not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

import aa_core as aa
from sample_runs.experiment.plan import Stage
from sample_runs.experiment.record import Pool
from sample_runs.loaders import Pictures

LABEL, CONFOUNDER = "label", "confounder"


def balanced(table: pd.DataFrame, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rows, `count` in all (or as many as there are), equally many of every label and confounder."""
    groups = list(table.groupby([LABEL, CONFOUNDER]).indices.values())
    least = min(count // len(groups), *map(len, groups))
    return np.concatenate([generator.choice(rows, least, replace=False) for rows in groups])


def with_agreement(table: pd.DataFrame, share: float, generator: np.random.Generator) -> np.ndarray:
    """Half of the rows of a balanced table, in which so many of every label have the confounder of the label."""
    chosen = []
    for (label, confounder), rows in table.groupby([LABEL, CONFOUNDER]).indices.items():
        wanted = share if label == confounder else 1 - share
        chosen.append(generator.permutation(rows)[: round(wanted * len(rows))])
    return np.concatenate(chosen)


def described(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns `agrees` (yes, no) and `group`."""
    agrees = np.where(table[LABEL] == table[CONFOUNDER], "yes", "no")
    group = [f"label {a}, confounder {b}" for a, b in zip(table[LABEL], table[CONFOUNDER], strict=True)]
    return table.assign(agrees=agrees, group=group)


def pool(stage: Stage, train: Pictures, seed: int) -> Pool:
    """Half of the pictures, with the agreement that the stage asks for."""
    rows = with_agreement(train.table, stage.data["agreement"], np.random.default_rng(seed))
    labels = torch.from_numpy(train.table[LABEL].to_numpy()[rows].astype(np.int64))
    return Pool(torch.from_numpy(train.pixels[rows]), labels, [f"train-{r}" for r in rows])


def evaluation(test: Pictures, class_names: tuple[str, ...]) -> aa.Evaluation:
    """All test pictures: every group is equally common."""
    y = torch.from_numpy(test.table[LABEL].to_numpy().astype(np.int64))
    display = {"kind": "image", "shape": list(test.pixels.shape[1:])}
    return aa.Evaluation(
        torch.from_numpy(test.pixels), y, metadata=described(test.table), class_names=class_names, display=display
    )
