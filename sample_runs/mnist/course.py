"""MNIST at 14 x 14: rounds of digits that are turned, mislabelled, or lack or repeat a digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import rotate
from torch import Tensor

import aa_core as aa
from sample_runs.experiment.plan import Case, Stage
from sample_runs.experiment.record import Course, Pool
from sample_runs.loaders import Pictures, load_mnist

FIGURE_5 = {"another 4": 4, "a 9": 9, "a 2": 2}


def halved(pixels: np.ndarray) -> np.ndarray:
    """[n, 28, 28] -> [n, 14, 14]: means of 2 x 2 pixels."""
    return pixels.reshape(len(pixels), 14, 2, 14, 2).mean((2, 4)).round().astype(np.uint8)


def turned(pixels: np.ndarray, degrees: int) -> Tensor:
    """The pictures rotated."""
    if not degrees:
        return torch.from_numpy(pixels)
    return torch.from_numpy(rotate(pixels, degrees, axes=(1, 2), reshape=False, order=1))


def drawn(pictures: Pictures, count: int, generator: np.random.Generator) -> Pictures:
    """Some of them, at half the size."""
    rows = np.sort(generator.choice(len(pictures.pixels), count, replace=False))
    return Pictures(halved(pictures.pixels[rows]), pictures.table.iloc[rows].reset_index(drop=True))


def course(case: Case, seed: int, data: Path) -> Course:
    """Stage data: rotation (degrees), label_shift, without (a digit that is left out), insert (a digit of which one
    picture is in every batch, `copies` times). Case data: pool, examples, rotations of the evaluation."""
    generator = np.random.default_rng(seed)
    train = drawn(load_mnist(data, "train"), case.data["pool"], generator)
    test = drawn(load_mnist(data, "t10k"), case.data["examples"], generator)
    return Course(lambda stage: pool(stage, train), evaluation(case, train, test))


def pool(stage: Stage, train: Pictures) -> Pool:
    """The training digits of a stage."""
    told, digits = stage.data, train.table["digit"].to_numpy()
    rows = np.flatnonzero(digits != told.get("without"))
    inserted = np.full(told.get("copies", 0), first(train, told.get("insert")))
    rows = np.concatenate([inserted, rows]).astype(np.int64)
    rotation, shift = told.get("rotation", 0), told.get("label_shift", 0)
    labels = torch.from_numpy((digits[rows] + shift) % 10)
    ids = [f"mnist-train-{r}-at-{rotation}" for r in train.table["row"].to_numpy()[rows]]
    ids[: len(inserted)] = ["inserted"] * len(inserted)
    return Pool(turned(train.pixels[rows], rotation), labels, ids, always=len(inserted))


def first(pictures: Pictures, digit: int | None) -> int:
    """The first picture of a digit."""
    return int(np.argmax(pictures.table["digit"] == digit))


def evaluation(case: Case, train: Pictures, test: Pictures) -> aa.Evaluation:
    """The test digits at each rotation; where a digit is inserted, that very picture before them."""
    rotations = case.data["rotations"]
    digits, rows = (np.tile(test.table[c], len(rotations)) for c in ("digit", "row"))
    x = torch.cat([turned(test.pixels, degrees) for degrees in rotations])
    table = pd.DataFrame({"digit": digits, "rotation": np.repeat(rotations, len(test.table)), "test_row": rows})
    if (inserted := next((s.data["insert"] for s in case.stages if "insert" in s.data), None)) is not None:
        row = first(train, inserted)
        x = torch.cat([torch.from_numpy(train.pixels[[row]]), x])
        same = pd.DataFrame({"digit": [inserted], "rotation": [0], "test_row": [-1]})
        table = pd.concat([same, table], ignore_index=True)
        table["figure_5"] = _figure_5(table["digit"].to_numpy())
    names = [str(d) for d in range(10)]
    y = torch.from_numpy(table["digit"].to_numpy().copy())
    return aa.Evaluation(x, y, metadata=table, class_names=names, display={"kind": "image", "shape": [14, 14]})


def _figure_5(digits: np.ndarray) -> list[str]:
    """The roles of four examples; the others have none."""
    roles = ["the same 4"] + [""] * (len(digits) - 1)
    for role, digit in FIGURE_5.items():
        roles[1 + int(np.argmax(digits[1:] == digit))] = role
    return roles
