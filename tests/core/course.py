"""A training that uses a few examples again and again, recorded, and the same training in plain torch with weights."""

from __future__ import annotations

import atexit
import copy
import functools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.runs.trajectory import Trajectory
from tests import zoo

N = 12
"""Training examples; example 11 is used in the last step alone."""
STEPS = (4, 4)
Weights = Callable[[int, Tensor], Tensor]
"""(step, examples) -> the weight of each one's loss."""


@dataclass(frozen=True, eq=False)
class Course:
    """A recorded training, and all that is needed to train again without the engine."""

    run: Trajectory
    problem: aa.Problem
    start: nn.Module
    optimizer: Callable[[list[Any]], torch.optim.Optimizer]
    losses: Callable[[Tensor, Tensor], Tensor]
    """One loss an example; the recorded loss is its mean."""
    clip: float | None

    def trained(self, weights: Weights) -> nn.Module:
        """Plain torch: each example's loss times its weight, divided by the recorded size of the batch."""
        model = copy.deepcopy(self.start)
        optimizer = self.optimizer(list(model.parameters()))
        for k in range(sum(STEPS)):
            optimizer.zero_grad()
            for rows, share in batches(k):
                x, y = data()
                part = self.losses(model(x[rows]), y[rows]) * weights(k, rows)
                (share * part.sum() / len(rows)).backward()
            clipped(model, self.clip)
            optimizer.step()
        return model

    def gamma(self, weights: Weights) -> Tensor:
        """The log-likelihoods of `queries` after such a training."""
        x, y = zoo.examples(3, seed=9)
        model = self.trained(weights).eval()
        return model(x).log_softmax(1)[torch.arange(3), y].detach()

    def derivative(self, chosen: Callable[[int, Tensor], Tensor], h: float = 1e-5) -> Tensor:
        """d gamma / d weight of the (step, example) pairs chosen, by central differences."""
        up, down = (self.gamma(lambda k, rows, s=s: 1 + s * chosen(k, rows).double()) for s in (h, -h))
        return (up - down) / (2 * h)


def data() -> tuple[Tensor, Tensor]:
    return zoo.examples(N, seed=3)


def batches(k: int) -> list[tuple[Tensor, float]]:
    """Two micro-batches of different sizes and weights; which examples depends on the step alone."""
    rows = torch.randperm(N - 1, generator=torch.Generator().manual_seed(k))
    if k == sum(STEPS) - 1:
        rows[2] = N - 1
    return [(rows[:5], 0.75), (rows[5:8], 0.25)]


def clipped(model: nn.Module, limit: float | None) -> None:
    if limit is not None:
        nn.utils.clip_grad_norm_(model.parameters(), limit)


def queries() -> aa.Performance:
    return aa.log_likelihood(*zoo.examples(3, seed=9))


def cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def ids_of(rows: Tensor) -> list[str]:
    return [f"e{i}" for i in rows.tolist()]


def take(
    model: nn.Module,
    optimizer: Callable[[list[Any]], torch.optim.Optimizer],
    loss_fn: Callable[[Tensor, Tensor], Tensor] = zoo.cross_entropy,
    losses: Callable[[Tensor, Tensor], Tensor] = cross_entropies,
    clip: float | None = None,
) -> Course:
    """Train and record; the examples' ids are "e0" to "e11"."""
    start = copy.deepcopy(model.double())
    trained, first = copy.deepcopy(start), 0
    stepper, (x, y) = optimizer(list(trained.parameters())), data()
    folder = Path(tempfile.mkdtemp(prefix="course-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with aa.Recorder(folder / "run", trained, stepper, loss_fn, checkpoint_every=3, clip_norm=clip) as recorder:
        for name, steps in zip("ab", STEPS, strict=True):
            with recorder.stage(name):
                for k in range(first, first + steps):
                    stepper.zero_grad()
                    for rows, share in batches(k):
                        recorder.batch(x[rows], y[rows], ids=ids_of(rows), weight=share)
                        (loss_fn(trained(x[rows]), y[rows]) * share).backward()
                    clipped(trained, clip)
                    stepper.step()
            first += steps
    return Course(aa.open_run(folder / "run"), aa.Problem(start, loss_fn, device="cpu"), start, optimizer, losses, clip)


@functools.cache
def taken(optimizer: str, model: str = "mlp") -> Course:
    """A course with an optimizer and a model of the zoo; taken once per session."""
    torch.manual_seed(2)
    return take({**zoo.MODELS, **MIXING}[model](), zoo.OPTIMIZERS[optimizer])


MIXING = {
    "batchnorm": lambda: nn.Sequential(
        nn.Linear(zoo.FEATURES, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, zoo.CLASSES)
    )
}
"""Models whose outputs for one example depend on the others in the batch."""
