"""How time grows with steps, parameters, stages, queries and examples: the exponent of the best power law."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from benchmarks.performance_cases import batch, pictures, recorded, seconds

ROUNDS, SIDE = 2, 64
Task = Callable[[], Any]


def build(width: int = 256) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIDE, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 10))


def draw(n: int) -> Any:
    return pictures(n, SIDE)


def measure(folder: Path) -> dict[str, Any]:
    """By what grows: sizes, CPU seconds (the least of the rounds), and p of seconds ~ size^p."""
    runs: dict[tuple[int, int, int], tuple[aa.Trajectory, aa.Problem]] = {}

    def run(steps: int = 48, width: int = 256, stages: int = 4) -> tuple[aa.Trajectory, aa.Problem]:
        if (steps, width, stages) not in runs:
            path, batches = folder / f"growth {steps} {width} {stages}", [batch(draw, k, 32) for k in range(steps)]
            problem = aa.Problem(build(width), nn.functional.cross_entropy, device="cpu")
            runs[steps, width, stages] = recorded(path, build(width), batches, stages), problem
        return runs[steps, width, stages]

    def adjoint(queries: int = 1, **size: int) -> Task:
        gamma = aa.log_likelihood(*batch(draw, 999, 200))
        asked = gamma.mean() if queries == 1 else gamma[list(range(queries))]
        return lambda: aa.step_effects(*run(**size), asked)

    def embed(**size: int) -> Task:
        return lambda: aa.embed_stages(*run(**size), cache=EmbeddingCache(None))

    def read(examples: int) -> Task:
        cache, gamma = EmbeddingCache(None), aa.log_likelihood(*batch(draw, 999, examples))
        aa.embed_stages(*run(), cache=cache)
        return lambda: aa.stage_effects(*run(), gamma, cache=cache)

    curves: dict[str, tuple[tuple[int, ...], Callable[[int], Task]]] = {
        "steps, adjoint": ((24, 48, 96), lambda n: adjoint(steps=n)),
        "parameters, adjoint": ((128, 256, 512), lambda n: adjoint(width=n)),
        "queries, adjoint": ((2, 4, 8), lambda n: adjoint(queries=n)),
        "steps, embeddings": ((24, 48, 96), lambda n: embed(steps=n)),
        "stages, embeddings": ((2, 4, 8), lambda n: embed(stages=n)),
        "examples, reading": ((2000, 4000, 8000), read),
    }
    return {name: _curve(name, sizes, task) for name, (sizes, task) in curves.items()}


def _curve(name: str, sizes: tuple[int, ...], task: Callable[[int], Task]) -> dict[str, Any]:
    tasks = [task(n) for n in sizes]
    rounds = [[seconds(t) for t in tasks] for _ in range(ROUNDS + 1)][1:]
    found = np.min(rounds, 0)
    counted = [sum(p.numel() for p in build(n).parameters()) for n in sizes] if name.startswith("parameters") else sizes
    exponent = float(np.polyfit(np.log(counted), np.log(found), 1)[0])
    return {"sizes": list(counted), "seconds": found.round(4).tolist(), "exponent": exponent}
