"""What reading every evaluation example from cached embeddings costs, in forward passes of all of them, one a stage.

By the clock, with torch on one processor: where it is the only one, and where another is free."""

from __future__ import annotations

import copy
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import aa_core as aa
from aa_core.effects import embedding
from aa_core.effects.cache import EmbeddingCache
from benchmarks.performance_cases import MODELS, STAGES, against, batch, on, recorded, summary

EXAMPLES = (200, 2_000)
WHOLE = f"{EXAMPLES[-1]:,} examples, in one piece: one thread"


def measure(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """By model and number of examples: all three readouts of all stages, against as many forward passes."""
    return {name: _of(name, folder / "reading" / name) for name in MODELS}


def _of(name: str, folder: Path) -> dict[str, dict[str, float]]:
    build, draw = MODELS[name]
    torch.manual_seed(0)
    model = build()
    problem = aa.Problem(copy.deepcopy(model), nn.functional.cross_entropy, device="cpu")
    run, cache = recorded(folder, model, [batch(draw, k) for k in range(2 * STAGES)]), EmbeddingCache(None)
    aa.embed_stages(run, problem, cache=cache)
    params, found = run.load(run.steps).state.params, {}
    for n in EXAMPLES:
        gamma = aa.log_likelihood(*batch(draw, 999, n))
        read = partial(aa.stage_effects, run, problem, gamma, cache=cache)
        ways = {
            f"{n:,} examples: {how}": partial(on, k, read) for k, how in enumerate(("one thread", "two threads"), 1)
        }
        if n == EXAMPLES[-1]:
            ways[WHOLE] = partial(on, 1, partial(_whole, read))
        found |= summary(against(partial(_forward, gamma.mean(), problem, params), ways, time.perf_counter))
    return found


def _forward(gamma: aa.Performance, problem: aa.Problem, params: Any) -> None:
    for _ in range(STAGES):
        gamma(problem, params, {})


def _whole(read: Any) -> None:
    with mock.patch.object(embedding, "_pieces", lambda *_: 1):
        read()
