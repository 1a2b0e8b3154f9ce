"""What the adjoint costs with other batches and more parameters: most of what an optimizer adds, examples share."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import aa_core as aa
from aa_core.memory import spare_memory
from benchmarks import memory_cost
from benchmarks.performance_cases import MODELS, ROUNDS, against, batch, on, plain, recorded, seconds, summary

CASES: tuple[tuple[str, Callable[[], nn.Module], Callable[[int], Any], int, int], ...] = (
    *(("MLP", *MODELS["MLP"], examples, 240) for examples in (64, 128, 256, 512)),
    *(("MLP", memory_cost.build, memory_cost.draw, examples, 200) for examples in (16, 64)),
)
"""(model, how to make it, how to draw inputs, examples a batch, steps)"""


def measure(folder: Path) -> list[dict[str, Any]]:
    """The adjoint of one query by the clock, as a ratio to plain training; in one thread and in two."""
    return [_of(folder / "batches" / str(i), *case) for i, case in enumerate(CASES)]


def _of(
    folder: Path, name: str, build: Callable[[], nn.Module], draw: Callable[[int], Any], examples: int, steps: int
) -> dict[str, Any]:
    torch.manual_seed(0)
    model, batches = build(), [batch(draw, k, examples) for k in range(steps)]
    problem = aa.Problem(copy.deepcopy(model), nn.functional.cross_entropy, device="cpu")
    run, gamma = recorded(folder, model, batches), aa.log_likelihood(*batch(draw, 999, 200)).mean()
    task, train = partial(aa.step_effects, run, problem, gamma), partial(plain, model, batches)
    ways = {how: partial(on, n, task) for n, how in enumerate(("one thread", "two threads"), 1)}
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "examples": examples,
        "budget": spare_memory(problem.device),
        "plain_ms": 1e3 * statistics.median(seconds(train, time.perf_counter) for _ in range(ROUNDS)) / steps,
        "ratios": summary(against(train, ways, time.perf_counter)),
    }
