"""What the adjoint of convolutional networks costs with our second derivative of a convolution and with torch's own."""

from __future__ import annotations

import copy
import statistics
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import aa_core as aa
from aa_core import curvature
from benchmarks.performance_cases import MODELS, ROUNDS, against, batch, pictures, plain, recorded, seconds, summary

SIDE, STEPS = 32, 12


def layers(*widths: int) -> nn.Module:
    """3x3 convolutions of colour pictures, the second and later ones by two pixels at a time."""
    found: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        found += [nn.Conv2d(before, after, 3, stride=2 if found else 1, padding=1), nn.ReLU()]
    return nn.Sequential(*found, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


NETWORKS = {
    "the CNN above": MODELS["CNN"],
    "layers of 16, 32": (partial(layers, 16, 32), lambda n: pictures(n, 3, SIDE, SIDE)),
    "layers of 32, 32, 64": (partial(layers, 32, 32, 64), lambda n: pictures(n, 3, SIDE, SIDE)),
}


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """By network: the adjoint of one query by the clock, as a ratio to the same with torch's own; and a plain step."""
    return {name: _of(name, folder / "convolutions" / str(i)) for i, name in enumerate(NETWORKS)}


def _of(name: str, folder: Path) -> dict[str, Any]:
    build, draw = NETWORKS[name]
    torch.manual_seed(0)
    model, batches = build(), [batch(draw, k) for k in range(STEPS)]
    problem = aa.Problem(copy.deepcopy(model), nn.functional.cross_entropy, device="cpu")
    run, gamma = recorded(folder, model, batches), aa.log_likelihood(*batch(draw, 999, 64)).mean()
    ours = partial(aa.step_effects, run, problem, gamma)

    def torchs() -> None:
        with mock.patch.object(curvature, "Convolutions", nullcontext):
            ours()

    ratios = summary(against(torchs, {"adjoint": ours}, time.perf_counter))
    train = partial(plain, model, batches)
    to_plain = summary(against(train, {"to plain": ours}, time.perf_counter))
    step = statistics.median(seconds(train, time.perf_counter) for _ in range(ROUNDS)) / STEPS
    return {**ratios, **to_plain, "plain_ms": 1e3 * step}
