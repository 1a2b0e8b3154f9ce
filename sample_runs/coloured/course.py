"""Coloured digits: is it 5 or more? In some rounds the colour gives the answer away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

import aa_core as aa
from sample_runs.experiment.groups import balanced, described, with_agreement
from sample_runs.experiment.plan import Case, Stage
from sample_runs.experiment.record import Course, Pool
from sample_runs.loaders import Pictures, load_celeba, load_mnist
from sample_runs.mnist.course import drawn


def course(case: Case, seed: int, data: Path) -> Course:
    """Stage data: agreement (share of examples whose confounder is that of their label). Case data: source ("digits"
    or "faces"), pool, examples (how many pictures of each)."""
    generator = np.random.default_rng(seed)
    load = {"digits": digits, "faces": faces}[case.data["source"]]
    train, test = (load(data, split, case.data[n], generator) for split, n in (("train", "pool"), ("test", "examples")))
    return Course(lambda stage: pool(stage, train, seed), evaluation(test))


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


def pool(stage: Stage, train: Pictures, seed: int) -> Pool:
    """Half of the pictures, with the agreement asked for."""
    rows = with_agreement(train.table, stage.data["agreement"], np.random.default_rng(seed))
    labels = torch.from_numpy(train.table["label"].to_numpy()[rows].astype(np.int64))
    return Pool(torch.from_numpy(train.pixels[rows]), labels, [f"train-{r}" for r in rows])


def evaluation(test: Pictures) -> aa.Evaluation:
    """All test pictures: every group is equally common."""
    y = torch.from_numpy(test.table["label"].to_numpy().astype(np.int64))
    display = {"kind": "image", "shape": list(test.pixels.shape[1:])}
    return aa.Evaluation(
        torch.from_numpy(test.pixels), y, metadata=described(test.table), class_names=("0", "1"), display=display
    )
