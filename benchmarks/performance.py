"""What the engine costs, as ratios to plain training: python -m benchmarks.performance writes docs/performance.md.

Everything that is compared is timed in turn in one process, by CPU time, and the median of the rounds is taken.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core import threads
from aa_core.counterfactuals.fleet import stack, step_together
from aa_core.curvature import gradient_and_curvature
from aa_core.effects.cache import EmbeddingCache
from aa_core.propagator import Training
from aa_core.replay import advance, load, prepare
from benchmarks import batch_cost, convolution_cost, growth, memory_cost, reading_cost, recorder_cost
from benchmarks.growth_picture import curves
from benchmarks.performance_cases import (
    BATCH,
    LANES,
    MODELS,
    ROUNDS,
    STAGES,
    STEPS,
    against,
    batch,
    mlp,
    on,
    plain,
    recorded,
    summary,
)
from benchmarks.performance_page import page
from sample_runs.machine import machine

TOGETHER = "retraining without each stage"
ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "performance.json", ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "images" / "growth.svg"


def measure(name: str, folder: Path) -> dict[str, Any]:
    """All ratios for one model."""
    build, draw = MODELS[name]
    torch.manual_seed(0)
    model, batches = build(), [batch(draw, k) for k in range(STEPS[name])]
    built = build()
    built.load_state_dict(model.state_dict())
    run = recorded(folder / name, model, batches)
    problem = aa.Problem(built, nn.functional.cross_entropy, device="cpu")
    training, gamma = prepare(run, problem), aa.log_likelihood(*batch(draw, 999, 200))
    skips = [aa.Counterfactual.skip(s.name) for s in run.stages]
    ways: dict[str, Callable[[], Any]] = {
        "plain replay": lambda: deque(advance(run, training, load(run, training, 0), run.steps), maxlen=1),
        "floor: gradient and one curvature product a step": lambda: floor(run, training),
        "adjoint of one query: effects of all steps and stages": lambda: aa.step_effects(run, problem, gamma.mean()),
        "adjoint of 8 queries at once, a query": lambda: aa.step_effects(run, problem, gamma[list(range(8))]),
        "embeddings of all stages, boundary": lambda: aa.embed_stages(run, problem, cache=EmbeddingCache(None)),
        "retraining without each stage, one by one": lambda: [aa.retrain(run, problem, what) for what in skips],
        "retraining without each stage, retrain_all": lambda: aa.retrain_all(run, problem, skips),
    }
    ratios = against(lambda: plain(model, batches), ways)
    ratios["adjoint of 8 queries at once, a query"] = [r / 8 for r in ratios["adjoint of 8 queries at once, a query"]]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": summary(ratios),
        "together": summary(together(run, training)),
        "double": double(name, folder, run, problem),
        "ahead": threads.spare(problem.device),
        "clock": clocked(model, batches, run, problem, gamma),
    }


def clocked(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    run: aa.Trajectory,
    problem: aa.Problem,
    gamma: aa.Performance,
) -> dict[str, dict[str, dict[str, float]]]:
    """By the clock, with torch on one processor: where it is the only one, and where another is free."""
    skips = [aa.Counterfactual.skip(s.name) for s in run.stages]
    without = [[b for k, b in enumerate(batches) if k not in s.steps] for s in run.stages]
    tasks: dict[str, tuple[int, Callable[[], Any]]] = {
        "adjoint of one query": (1, lambda: aa.step_effects(run, problem, gamma.mean())),
        "adjoint of 8 queries at once, a query": (8, lambda: aa.step_effects(run, problem, gamma[list(range(8))])),
        "embeddings of all stages": (1, lambda: aa.embed_stages(run, problem, cache=EmbeddingCache(None))),
        TOGETHER: (1, lambda: aa.retrain_all(run, problem, skips)),
    }
    found = {}
    for name, (queries, task) in tasks.items():
        ways = {how: partial(on, n, task) for n, how in enumerate(("one thread", "two threads"), 1)}
        if name == TOGETHER:
            ways["`aa.retrain` of one after another"] = lambda: [aa.retrain(run, problem, what) for what in skips]
            ways["the user's own loop, each from the first step"] = lambda: [plain(model, rest) for rest in without]
        ratios = against(lambda: plain(model, batches), ways, time.perf_counter)
        found[name] = summary({how: [r / queries for r in each] for how, each in ratios.items()})
    return found


def together(run: aa.Trajectory, training: Training) -> dict[str, list[float]]:
    """One step of several models in one batch, as a ratio to the same step of each by itself."""
    step, at = run.step_input(0, training.problem.device), load(run, training, 0)

    def ratios(lanes: int) -> list[float]:
        stacked = stack(training.problem, [at] * lanes)
        batch = {"": lambda: step_together(training, stacked, step)}
        return against(lambda: [training.step(at, step) for _ in range(lanes)], batch)[""]

    return {str(lanes): ratios(lanes) for lanes in LANES}


def double(name: str, folder: Path, run: aa.Trajectory, problem: aa.Problem) -> dict[str, float]:
    """The adjoint of the same steps in float64: its time over that in float32, and how far the effects of all steps lie
    apart, relative to those in float64 (Euclidean norms)."""
    build, draw = MODELS[name]
    torch.manual_seed(0)
    model, batches = build().double(), [_doubled(batch(draw, k)) for k in range(STEPS[name])]
    other = aa.Problem(copy.deepcopy(model), nn.functional.cross_entropy, device="cpu")
    precise = recorded(folder / f"{name} float64", model, batches)
    asked = batch(draw, 999, 200)
    single, gamma = aa.log_likelihood(*asked).mean(), aa.log_likelihood(*_doubled(asked)).mean()
    ways = {"": lambda: aa.step_effects(precise, other, gamma)}
    time = against(lambda: aa.step_effects(run, problem, single), ways)[""]
    found, expected = (aa.step_effects(*each).effects for each in ((run, problem, single), (precise, other, gamma)))
    return {"time": statistics.median(time), "apart": float((found - expected).norm() / expected.norm())}


def compiled() -> dict[str, str]:
    """What torch says to a second derivative of a compiled model; empty if it takes it."""
    model, (x, y) = torch.compile(mlp(), backend="aot_eager"), batch(MODELS["MLP"][1], 0)
    params = list(model.parameters())
    try:
        slopes = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), params, create_graph=True)
        torch.autograd.grad(slopes, params, [torch.ones_like(p) for p in params])
    except RuntimeError as error:
        return {"says": str(error)}
    return {"says": ""}


def _doubled(drawn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Numbers in float64; tokens stay whole numbers."""
    x, y = drawn
    return (x.double() if x.is_floating_point() else x), y


def floor(run: aa.Trajectory, training: Any) -> None:
    """What an exact adjoint cannot do without: at each step the gradient with its graph, and one product."""
    at = load(run, training, 0)
    vectors = [torch.randn(1, *p.shape) for p in at.state.params.values()]
    for k in range(run.steps):
        data = run.step_input(k, training.problem.device)
        gradient_and_curvature(training.problem, at, data, "exact")[2](vectors)


def main() -> None:
    """Measure all, or the parts that are named, anew; with `page` only write the page from the stored figures."""
    if sys.argv[1:] != ["page"]:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            parts: dict[str, Callable[[], Any]] = {
                **{name: partial(measure, name, Path(folder)) for name in MODELS},
                "compile": compiled,
                "batches": lambda: batch_cost.measure(Path(folder)),
                "convolutions": lambda: convolution_cost.measure(Path(folder)),
                "reading": lambda: reading_cost.measure(Path(folder)),
                "recorder": lambda: recorder_cost.measure(Path(folder)),
                "memory": lambda: memory_cost.measure(Path(folder)),
                "growth": lambda: growth.measure(Path(folder)),
            }
            figures = json.loads(RESULTS.read_text()) | {
                "setting": {
                    "steps": STEPS,
                    "stages": STAGES,
                    "batch": BATCH,
                    "rounds": ROUNDS,
                    "convolution_steps": convolution_cost.STEPS,
                    "recorder_steps": recorder_cost.STEPS,
                    "growth_rounds": growth.ROUNDS,
                },
            }
            for name in sys.argv[1:] or parts:
                busy = os.getloadavg()[0] / (os.cpu_count() or 1)
                figures[name] = {
                    "date": datetime.now(UTC).date().isoformat(),
                    "machine": machine(),
                    "load": round(busy, 1),
                    "figures": parts[name](),
                }
                RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    figures = json.loads(RESULTS.read_text())
    PAGE.write_text(page(figures))
    PICTURE.write_text(curves(figures["growth"]["figures"]))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
