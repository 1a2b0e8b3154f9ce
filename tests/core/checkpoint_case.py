"""Small trainings of which checkpoints are kept, for the tests of runs that have nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.state import Params
from tests import zoo
from tests.core.cases import squares

Kept = dict[str, Tensor]
LENGTHS = {"a": 6, "b": 8, "c": 10}


def data(seed: int, n: int = 12) -> tuple[Tensor, Tensor]:
    return zoo.examples(n, seed=seed)


def build(path: Path, optimizer: str = "SGD", *, every: int | None = None, **options: Any) -> aa.CheckpointRun:
    """Three stages of full-batch training from torch.optim, kept at their ends and `every` so many steps.

    options: of the optimizer; `model`, `loss_fn`, `lengths`, `slots` (whether optimizer states are kept),
    `resumes` (whether one optimizer trained them all), `stage` (more arguments of each SegmentStage).
    """
    torch.manual_seed(0)
    model = options.pop("model", zoo.linear)().double()
    loss_fn, lengths = options.pop("loss_fn", squares), options.pop("lengths", LENGTHS)
    slots, more, resumes = options.pop("slots", True), options.pop("stage", {}), options.pop("resumes", True)
    made = getattr(torch.optim, optimizer)(model.parameters(), **options)

    def kept() -> aa.Checkpoint:
        states = (model.state_dict(), made.state_dict() if slots else None)
        return aa.Checkpoint(*copy.deepcopy(states))

    initial, stages = kept(), []
    for index, (name, length) in enumerate(lengths.items()):
        x, y = data(index)
        checkpoints = {}
        for k in range(1, length + 1):
            made.zero_grad()
            loss_fn(model(x), y).backward()
            made.step()
            if k == length or (every and k % every == 0):
                checkpoints[k] = kept()
        described = {"optimizer": optimizer, "hyper": options, "data": (x, y), "resumes": resumes and index > 0} | more
        stages.append(aa.SegmentStage(name, checkpoints, **described))
    evaluation = aa.Evaluation(*data(9, 5))
    return aa.from_checkpoints(path, model, loss_fn, initial, stages, evaluation=evaluation, title="kept")


def problem(model: Callable[[], nn.Module] = zoo.linear, loss_fn: Any = squares) -> aa.Problem:
    return aa.Problem(model().double(), loss_fn, device="cpu")


def gamma() -> aa.Performance:
    return aa.log_likelihood(*data(9, 5))


def effects(run: aa.CheckpointRun, asked: aa.Problem | None = None, **options: Any) -> aa.Attribution:
    return aa.segment_effects(run, asked or problem(), gamma(), cache=EmbeddingCache(None), **options)


def vector(params: Params) -> Tensor:
    return torch.cat([t.flatten() for t in params.values()])
