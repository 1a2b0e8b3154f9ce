"""scikit-learn's 1,797 handwritten digits, rotated, and the loop that records a training on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import Tensor, nn

import aa_core as aa
from sample_runs.problems import DigitsMLP

TRAIN, BATCH = 1400, 64
SPLIT_SEED = 0


class Plan(NamedTuple):
    """One stage: its data and how long it trains."""

    name: str
    note: str
    rotation: int = 0
    """Degrees."""
    label_shift: int = 0
    """Added to every label, modulo 10."""
    steps: int = 60


def pictures(rotation: int) -> tuple[Tensor, Tensor]:
    """All digits as uint8 pictures [1797, 8, 8] rotated by that many degrees, and their labels."""
    digits = load_digits()
    turned = rotate(digits.images, rotation, axes=(1, 2), reshape=False, order=1)
    return torch.from_numpy(np.rint(turned.clip(0, 16) * 255 / 16).astype(np.uint8)), torch.from_numpy(digits.target)


def split() -> tuple[Tensor, Tensor]:
    """Rows for training and rows for the evaluation, the same in all runs."""
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return order[:TRAIN], order[TRAIN:]


def evaluation(rotations: tuple[int, ...] = (0, 45, 90)) -> aa.Evaluation:
    """The held-out digits at each rotation, with metadata to filter by."""
    _, rows = split()
    seen = [pictures(rotation) for rotation in rotations]
    x, y = torch.cat([x[rows] for x, _ in seen]), torch.cat([y[rows] for _, y in seen])
    metadata = pd.DataFrame(
        {
            "rotation": np.repeat(rotations, len(rows)),
            "digit": y.numpy(),
            "ink": x.float().mean((1, 2)).round().int().numpy(),
            "source_row": np.tile(rows.numpy(), len(rotations)),
        }
    )
    names = [str(d) for d in range(10)]
    return aa.Evaluation(x, y, metadata=metadata, class_names=names, display={"kind": "image", "shape": [8, 8]})


def batches(plan: Plan, generator: torch.Generator) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Shuffled epochs of the training digits of a stage, as (ids, pictures, labels)."""
    train, _ = split()
    x, y = pictures(plan.rotation)
    stream = torch.cat(
        [train[torch.randperm(TRAIN, generator=generator)] for _ in range(plan.steps * BATCH // TRAIN + 1)]
    )
    for rows in stream.split(BATCH)[: plan.steps]:
        yield [f"digit-{r}-at-{plan.rotation}" for r in rows.tolist()], x[rows], (y[rows] + plan.label_shift) % 10


def record(
    path: Path,
    title: str,
    plans: list[Plan],
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    make_schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    *,
    activation: str = "gelu",
    seed: int = 0,
    judged_at: tuple[int, ...] = (0, 45, 90),
) -> None:
    """Train a 64-64-10 MLP in float64 through the stages and record it at `path`, replacing what is there.

    judged_at: rotations of the evaluation digits, degrees.
    """
    shutil.rmtree(path, ignore_errors=True)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = {"hidden": 64, "activation": activation}
    model, loss_fn = DigitsMLP(**config), nn.functional.cross_entropy
    optimizer = make_optimizer(list(model.parameters()))
    schedule = make_schedule(optimizer) if make_schedule else None
    generator = torch.Generator().manual_seed(seed + 1)
    with aa.Recorder(
        path,
        model,
        optimizer,
        loss_fn,
        evaluation=evaluation(judged_at),
        title=title,
        problem="digits-mlp",
        config=config,
    ) as recorder:
        for plan in plans:
            described = {"rotation": plan.rotation, "label_shift": plan.label_shift}
            with recorder.stage(plan.name, note=plan.note, metadata=described):
                for ids, x, y in batches(plan, generator):
                    recorder.batch(x, y, ids=ids)
                    optimizer.zero_grad()
                    loss_fn(model(x), y).backward()
                    optimizer.step()
                    if schedule:
                        schedule.step()
