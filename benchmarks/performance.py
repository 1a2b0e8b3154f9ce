"""What the engine costs, as ratios to plain training: python -m benchmarks.performance writes docs/performance.md.

Everything that is compared is timed in turn in one process, by CPU time, and the median of the rounds is taken.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import aa_core as aa
from aa_core.curvature import gradient_and_curvature
from aa_core.effects.cache import EmbeddingCache
from aa_core.replay import advance, load, prepare
from benchmarks import growth, memory_cost, recorder_cost
from benchmarks.performance_cases import (
    BATCH,
    MODELS,
    ROUNDS,
    STAGES,
    STEPS,
    against,
    batch,
    plain,
    recorded,
    summary,
)
from benchmarks.performance_page import page
from sample_runs.machine import machine

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "performance.json", ROOT / "docs" / "performance.md"


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
    cached = EmbeddingCache(None)
    aa.embed_stages(run, problem, cache=cached)
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
    forward = gamma.mean()
    reading = against(
        lambda: [forward(problem, run.load(run.steps).state.params, {}) for _ in run.stages],
        {"reading all examples from cached embeddings": lambda: aa.stage_effects(run, problem, gamma, cache=cached)},
    )
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": summary(ratios),
        "forward passes": summary(reading),
    }


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
                "recorder": lambda: recorder_cost.measure(Path(folder)),
                "memory": lambda: memory_cost.measure(Path(folder)),
                "growth": lambda: growth.measure(Path(folder)),
            }
            figures = json.loads(RESULTS.read_text()) | {
                "machine": machine(),
                "setting": {
                    "steps": STEPS,
                    "stages": STAGES,
                    "batch": BATCH,
                    "rounds": ROUNDS,
                    "recorder_steps": recorder_cost.STEPS,
                    "growth_rounds": growth.ROUNDS,
                },
            }
            for name in sys.argv[1:] or parts:
                busy = os.getloadavg()[0] / (os.cpu_count() or 1)
                figures[name] = {
                    "date": datetime.now(UTC).date().isoformat(),
                    "load": round(busy, 1),
                    "figures": parts[name](),
                }
                RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
