"""What recording adds to steps of some 25 to 60 ms, while every example is new and once all are known."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import aa_core as aa
from benchmarks.performance_cases import MODELS, batch

STEPS, ROUNDS = 100, 3
BATCHES = {"MLP": 2048, "CNN": 1536, "transformer": 64}
"""Examples a step; the time that a plain one takes is measured with it."""


def measure(folder: Path) -> dict[str, Any]:
    """By model: a plain step, what recording adds to it in the first pass and in later ones, and bytes."""
    return {name: _of(name, folder / "recorder" / name) for name in MODELS}


class _Loop(NamedTuple):
    """The user's own."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()


def _loop(model: nn.Module) -> _Loop:
    return _Loop(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


def _of(name: str, folder: Path) -> dict[str, float]:
    build, draw = MODELS[name]
    batches = [batch(draw, k, BATCHES[name]) for k in range(STEPS)]
    rounds = [_round(build, batches, folder) for _ in range(ROUNDS)]
    middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    example = sum(t[0].numel() * t[0].element_size() for t in batches[0])
    return {**middle, "batch": BATCHES[name], "bytes_of_an_example": example}


def _round(build: Callable[[], nn.Module], batches: list[tuple[Tensor, Tensor]], path: Path) -> dict[str, float]:
    """Two passes over the batches, a stage each; every step is taken without and with the recorder, in turn."""
    alone, watched = _loop(build()), _loop(build())
    plain, recorded = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    with aa.Recorder(path, watched.model, watched.optimizer, nn.functional.cross_entropy) as recorder:
        for stage in (0, 1):
            with recorder.stage(f"pass {stage + 1}"):
                for x, y in batches:
                    plain[stage] += _seconds(lambda x=x, y=y: alone.step(x, y))
                    recorded[stage] += _seconds(lambda x=x, y=y: (recorder.batch(x, y), watched.step(x, y)))
    names = ("new", "new_cpu", "known", "known_cpu")
    added = dict(zip(names, (recorded / plain - 1).flatten().tolist(), strict=True))
    steps = 2 * len(batches)
    written = sum(f.stat().st_size for f in (path / "steps").iterdir())
    shutil.rmtree(path)  # else the next round waits for the disk, on which this one still is to be
    return {"plain_ms": float(plain[:, 0].sum()) / steps * 1e3, "bytes": written / steps, **added}


def _seconds(task: Callable[[], Any]) -> Tensor:
    """(that the loop waits, CPU time of all threads)."""
    start = time.perf_counter(), time.process_time()
    task()
    return torch.tensor((time.perf_counter() - start[0], time.process_time() - start[1]), dtype=torch.float64)
