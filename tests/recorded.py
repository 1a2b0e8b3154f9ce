"""A small recorded training run, for the tests of the recorder and of what reads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from aa_core.recording.recorder import Recorder
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.journal import decode_journal
from aa_core.runs.trajectory import Trajectory, open_run
from tests.core.job_run import wait

LOSS = nn.CrossEntropyLoss()


class Net(nn.Module):
    """Batch norm (buffers), a frozen parameter, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x * self.frozen)


def make(optimizer: type = torch.optim.Adam, **settings: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    return model, optimizer([p for p in model.parameters() if p.requires_grad], **({"lr": 0.01} | settings))


def data(n: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def batches(steps: int, size: int = 8) -> Iterator[Tensor]:
    for k in range(steps):
        yield torch.arange(k * size, (k + 1) * size) % 32


def evaluation() -> Evaluation:
    x, y = data(4)
    return Evaluation(x, y, pd.DataFrame({"group": ["a", "b", "a", None], "age": [1, 2, 3, 4]}), ("p", "q", "r"))


def train(recorder: Recorder | None, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x, y = data()
    for ids in batches(steps):
        if recorder is not None:
            recorder.batch(x[ids], y[ids], ids=ids)
        optimizer.zero_grad()
        LOSS(model(x[ids]), y[ids]).backward()
        optimizer.step()


def as_killed(run: Path, copy: Path) -> Path:
    """A copy of a run whose recorder is at work, as kill -9 leaves it: the log first, which names whole files only."""

    def unwritten(folder: str, names: list[str]) -> list[str]:
        return [n for n in names if n.startswith(".") or (folder == str(run) and n == "log")]

    shutil.copytree(run / "log", copy / "log", ignore=unwritten)
    return shutil.copytree(run, copy, ignore=unwritten, dirs_exist_ok=True)


def settled(run: Path) -> Path:
    """The run, once no commit of its recorder is underway."""
    wait(lambda: open_run(run).chain.journal.underway is None)
    return run


class Late:
    """Stands for the recorder's thread, and writes each commit only when it is waited for: as late as may be."""

    def __init__(self, *_: object) -> None:
        self._task: Callable[[], Any] | None = None

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Late:
        self._task = lambda: task(*arguments)
        return self

    def done(self) -> bool:
        return False

    def result(self) -> Any:
        assert self._task is not None
        found, self._task = self._task(), None
        return found

    def shutdown(self) -> None:
        if self._task is not None:
            self.result()


def record(path: Path, first: int = 7, second: int = 5, **settings: object) -> Trajectory:
    """A sealed run of two stages with a checkpoint every third step."""
    model, optimizer = make()
    settings = {"evaluation": evaluation(), "checkpoint_every": 3, "title": "small"} | settings
    with Recorder(path, model, optimizer, LOSS, **settings) as recorder:  # type: ignore[arg-type]
        with recorder.stage("first", note="the first", metadata={"k": [1, 2]}):
            train(recorder, model, optimizer, first)
        with recorder.stage("second"):
            train(recorder, model, optimizer, second)
    return open_run(path)


def steps_of(journal: Path, first: int = 0) -> list[bytes]:
    """The bytes of each step from `first` on: the examples that come before it, and its line."""
    data = journal.read_bytes()
    stops = [0, *(step.stop for step in decode_journal(data, first, "journal").steps)]
    return [data[a:b] for a, b in pairwise(stops)]
