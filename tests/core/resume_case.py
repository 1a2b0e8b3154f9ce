"""Trainings that can be recorded, stopped anywhere and resumed, in many ways to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import aa_core as aa
from tests import zoo

STAGES = (("a", range(0, 5)), ("b", range(5, 9)), ("a", range(9, 14)))
Parameters = Iterator[nn.Parameter]
Make = Callable[[Parameters], torch.optim.Optimizer]


class Net(nn.Module):
    """Buffers, random numbers, and a second head that rests in some steps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(zoo.FEATURES, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.3))
        self.head, self.other = nn.Linear(5, zoo.CLASSES), nn.Linear(5, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.head(h) + self.other(h)


class Pairs:
    """A data set: dataset[id] is (x, y)."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = zoo.examples(8, seed=index // 8, dtype=torch.float32)
        return x[index % 8], y[index % 8]


@dataclass(frozen=True)
class Kind:
    """A way to train."""

    optimizer: Make = lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)
    dtype: torch.dtype = torch.float32
    model: Callable[[], nn.Module] = Net
    micro_batches: int = 1
    clip: float | None = None
    decay: float | None = None
    scale: float | None = None
    spoil: frozenset[int] = frozenset()
    """Steps whose gradient overflows."""
    augment: bool = True
    """Whether the loop draws random numbers of its own."""
    settings: dict[str, Any] = field(default_factory=dict)


def matrices() -> nn.Module:
    return nn.Sequential(nn.Linear(zoo.FEATURES, 5, bias=False), nn.Dropout(0.2), nn.Linear(5, zoo.CLASSES, bias=False))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(zoo.FEATURES, 5), nn.BatchNorm1d(5), nn.Linear(5, zoo.CLASSES))


F64 = torch.float64
KINDS = {
    "SGD with momentum, float32": Kind(),
    "SGD with momentum, float64": Kind(dtype=F64, clip=0.5),
    "SGD, dampened": Kind(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, dampening=0.3)),
    "SGD, plain": Kind(lambda p: torch.optim.SGD(p, lr=0.05), micro_batches=2),
    "AdamW, float32": Kind(lambda p: torch.optim.AdamW(p, lr=0.01)),
    "AdamW, float64": Kind(lambda p: torch.optim.AdamW(p, lr=0.01), F64, micro_batches=2, clip=0.3),
    "Adam with amsgrad": Kind(lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True)),
    "RMSprop": Kind(lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True)),
    "Adagrad": Kind(lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.5)),
    "Adamax": Kind(lambda p: torch.optim.Adamax(p, lr=0.01)),
    "RAdam": Kind(lambda p: torch.optim.RAdam(p, lr=0.01, foreach=False)),
    "Muon": Kind(lambda p: torch.optim.Muon(p, lr=0.01), model=matrices),
    "averaged weights": Kind(decay=0.8),
    "a scaler that skips steps": Kind(model=matrices, scale=2.0**12, spoil=frozenset({2, 3, 9}), augment=False),
    "a scaler that skips the last steps of stages": Kind(
        model=normalised, scale=2.0**12, spoil=frozenset({1, 4, 7, 8, 13}), augment=False
    ),
    "an evaluation set": Kind(settings={"evaluation": aa.Evaluation(*zoo.examples(4, seed=50)), "title": "small"}),
    "referenced examples": Kind(settings={"dataset": aa.DatasetReference("pairs", Pairs())}, augment=False),
}


THOROUGH = ("SGD with momentum, float32", "AdamW, float64")


class Training:
    """What a script sets up, whatever was recorded before."""

    def __init__(self, kind: Kind, seed: int) -> None:
        torch.manual_seed(seed)
        self.kind, self.model = kind, kind.model().to(kind.dtype)
        self.optimizer = kind.optimizer(self.model.parameters())
        self.scaler = None if kind.scale is None else torch.amp.GradScaler("cpu", kind.scale, growth_interval=3)
        average = get_ema_multi_avg_fn(kind.decay or 0.0)
        self.average = None if kind.decay is None else AveragedModel(self.model, multi_avg_fn=average)

    def recorder(self, path: Path) -> aa.Recorder:
        averaging = None if self.average is None else aa.Averaging(self.average, self.kind.decay or 0.0)
        return aa.Recorder(
            path,
            self.model,
            self.optimizer,
            zoo.cross_entropy,
            checkpoint_every=3,
            clip_norm=self.kind.clip,
            scaler=self.scaler,
            averaging=averaging,
            if_exists="resume",
            **self.kind.settings,
        )

    def run(self, path: Path, after: Callable[[int], object] = lambda k: None) -> str:
        """From wherever it stopped to its end; the digest of the recording."""
        with self.recorder(path) as recorder:
            first = attempts(path) if self.kind.spoil else recorder.steps
            for name, steps in STAGES:
                with recorder.stage(name, note=f"stage {name}"):
                    for k in steps[max(first - steps.start, 0) :]:
                        self.step(recorder, k)
                        after(k)
        return aa.open_run(path).digest

    def step(self, recorder: aa.Recorder, k: int) -> None:
        if isinstance(self.model, Net):
            self.model.other.requires_grad_(k not in (0, 1, 5, 6))
        self.optimizer.zero_grad()
        for j in range(self.kind.micro_batches):
            x, y = zoo.examples(8, seed=k + 100 * j, dtype=self.kind.dtype)
            x = x + 0.1 * torch.randn_like(x) if self.kind.augment else x
            recorder.batch(x, y, ids=range(8 * k, 8 * k + 8), weight=1 / self.kind.micro_batches)
            loss = zoo.cross_entropy(self.model(x), y) / self.kind.micro_batches
            (self.scaler.scale(loss) if self.scaler else loss).backward()
        self.update(k)

    def update(self, k: int) -> None:
        if self.kind.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.kind.clip)
        if k in self.kind.spoil:
            next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(torch.inf)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)


def attempts(path: Path) -> int:
    """How many batches were tried, up to the last that is known: a scaler skips some."""
    run = aa.open_run(path)
    ids = run.example_ids(run.record(run.steps - 1).stored[-1].rows) if run.steps else None
    return int(ids[0]) // 8 + 1 if ids else 0
