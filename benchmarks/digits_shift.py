"""Cost and accuracy of every estimator on the shipped run digits-shift, against real retraining, in one process."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import aa_core as aa
from aa_core.confidence.agreement import relative_error_of_means
from aa_core.confidence.calibrate import SWEEPS
from aa_core.effects.cache import EmbeddingCache
from aa_core.effects.embedding import READOUTS
from aa_core.registry import load_problem
from aa_core.replay import advance, load, prepare

RUN = Path(__file__).parents[1] / "sample_runs" / "digits-shift" / "run"
ROUNDS = 7
SAMPLED_STEPS = 36


def measure() -> dict[str, Any]:
    """All figures; nothing is written."""
    torch.set_num_threads(1)
    run = aa.open_run(RUN)
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    evaluation = run.evaluation
    assert evaluation is not None and evaluation.metadata is not None
    upright = torch.from_numpy(np.flatnonzero(evaluation.metadata["rotation"] == 0))
    gamma = aa.log_likelihood(evaluation.x, evaluation.y)[upright]
    return {
        "run": run.digest,
        "steps": run.steps,
        "stages": len(run.stages),
        "parameters": sum(p.numel() for p in problem.model.parameters()),
        "examples": len(gamma),
        "costs": _costs(run, problem, gamma),
        "accuracy": _accuracy(run, problem, gamma),
        "steps_accuracy": _steps_accuracy(run, problem, gamma.mean()),
    }


def _costs(run: aa.Trajectory, problem: aa.Problem, gamma: aa.Performance) -> dict[str, dict[str, float]]:
    """CPU time of each task as a ratio to one plain replay, measured in turn: median, lowest, highest of the rounds."""
    training = prepare(run, problem)
    tasks: dict[str, Callable[[], Any]] = {
        "adjoint: effects of all steps on the mean": lambda: aa.step_effects(run, problem, gamma.mean()),
        **{
            f"embeddings of all stages: {m}, {c}": lambda m=m, c=c: aa.embed_stages(
                run, problem, method=m, curvature=c, cache=EmbeddingCache(None)
            )
            for m, c in SWEEPS
        },
        "retraining without each stage in turn": lambda: [
            aa.retrain(run, problem, aa.Counterfactual.skip(s.name)) for s in run.stages
        ],
    }
    cached = EmbeddingCache(None)
    aa.embed_stages(run, problem, cache=cached)
    tasks["reading all examples from cached embeddings"] = lambda: aa.stage_effects(run, problem, gamma, cache=cached)
    ratios: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            plain = _seconds(lambda: deque(advance(run, training, load(run, training, 0), run.steps), maxlen=1))
            ratios[name].append(_seconds(task) / plain)
    return {n: {"median": statistics.median(r), "min": min(r), "max": max(r)} for n, r in ratios.items()}


def _accuracy(run: aa.Trajectory, problem: aa.Problem, gamma: aa.Performance) -> list[dict[str, Any]]:
    """Every estimator of stage effects against leaving each stage out for real, over all stage x example pairs."""
    recorded = aa.final_model(run, problem).performance(gamma)
    truth = np.stack(
        [
            (recorded - aa.retrain(run, problem, aa.Counterfactual.skip(s.name)).performance(gamma)).numpy()
            for s in run.stages
        ]
    )
    rows, cache = [], EmbeddingCache(None)
    for method, curvature in SWEEPS:
        found = aa.stage_effects(run, problem, gamma, method=method, curvature=curvature, cache=cache)  # type: ignore[arg-type]
        for readout in READOUTS:
            estimate = found.readings[readout].numpy()  # type: ignore[index]
            row = {"method": method, "curvature": curvature, "readout": readout}
            row |= aa.agreement(estimate, truth)._asdict()
            rows.append({**row, "relative_error_of_stage_means": relative_error_of_means(estimate, truth)})
    return rows


def _steps_accuracy(run: aa.Trajectory, problem: aa.Problem, mean: aa.Performance) -> dict[str, Any]:
    """Step effects against leaving single steps out for real, on steps spread evenly over the run."""
    steps = np.linspace(0, run.steps - 1, SAMPLED_STEPS).round().astype(int).tolist()
    recorded = aa.final_model(run, problem).performance(mean)
    estimate = aa.step_effects(run, problem, mean).effects[steps, 0].numpy()
    truth = np.array(
        [float(recorded - aa.retrain(run, problem, aa.Counterfactual.skip_steps(k)).performance(mean)) for k in steps]
    )
    return {"steps": steps, **aa.agreement(estimate, truth)._asdict()}


def _seconds(task: Callable[[], Any]) -> float:
    """CPU seconds, which other processes on the machine disturb least."""
    start = time.process_time()
    task()
    return time.process_time() - start
