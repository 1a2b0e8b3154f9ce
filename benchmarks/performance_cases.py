"""What the costs are measured on: models, the user's own loop, its recording, and how two things are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core import threads

ROUNDS, STAGES, BATCH, CLASSES = 5, 4, 64, 10
LANES = (2, 4, 8)
"""How many models take a step together."""
STEPS = {"MLP": 240, "CNN": 240, "transformer": 16}


class Encoder(nn.Module):
    """Two layers of attention over 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 128)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.out = nn.Linear(128, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        for layer in self.layers:
            h = layer(h)
        return self.out(h.mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 384), nn.GELU(), nn.Linear(384, 256), nn.GELU(), nn.Linear(256, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 26),
        nn.GELU(),
        nn.Linear(26, CLASSES),
    )


def pictures(n: int, *shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(n, *shape, generator=generator)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Callable[[torch.Generator], Tensor]]]] = {
    "MLP": (mlp, lambda n: pictures(n, 256)),
    "CNN": (cnn, lambda n: pictures(n, 1, 16, 16)),
    "transformer": (Encoder, lambda n: lambda generator: torch.randint(0, 200, (n, 16), generator=generator)),
}


def batch(draw: Callable[[int], Callable[[torch.Generator], Tensor]], k: int, n: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(k)
    return draw(n)(generator), torch.randint(0, CLASSES, (n,), generator=generator)


def plain(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """The user's own loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def recorded(path: Path, model: nn.Module, batches: list[tuple[Tensor, Tensor]], stages: int = STAGES) -> aa.Trajectory:
    """The same loop, recorded in stages of equal length."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    length = len(batches) // stages
    with aa.Recorder(path, model, optimizer, nn.functional.cross_entropy) as recorder:
        for stage in range(stages):
            with recorder.stage(f"stage {stage + 1}"):
                for x, y in batches[stage * length : (stage + 1) * length]:
                    recorder.batch(x, y)
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()
    return aa.open_run(path)


def against(
    base: Callable[[], Any], ways: dict[str, Callable[[], Any]], clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Time of each as a ratio to the base before and after it; the first round only warms up. CPU time by default."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    before = seconds(base, clock)
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            taken, after = seconds(way, clock), seconds(base, clock)
            found[name].append(2 * taken / (before + after))
            before = after
    return {name: ratios[1:] for name, ratios in found.items()}


def seconds(task: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    task()
    return clock() - start


def on(processors: int, task: Callable[[], Any]) -> Any:
    """The task as a machine with so many processors would have it, of which torch takes one."""
    with mock.patch.object(threads, "processors", lambda: processors):
        return task()


def summary(ratios: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {n: {"median": statistics.median(r), "min": min(r), "max": max(r)} for n, r in ratios.items()}
