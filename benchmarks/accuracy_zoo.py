"""`python -m benchmarks.accuracy_zoo`: what could be more accurate, and at what cost, tried on small trainings.

Writes benchmarks/results/accuracy.json and docs/accuracy.md; with `page` only the page, from the stored figures; with
the name of a part (runs, architectures, elsewhere) that part is measured anew.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import aa_core as aa
from aa_core.confidence.agreement import agreement
from aa_core.confidence.reliability import disagreement
from aa_core.effects.embedding import READOUTS, read
from aa_core.effects.statistics import Shift, statistics_changes
from aa_core.registry import load_problem
from aa_core.replay import advance, load, prepare
from aa_core.state import Params, Snapshot
from benchmarks import accuracy_architectures
from benchmarks.accuracy_candidates import DROPPED, KEPT, Embedded
from benchmarks.accuracy_page import page
from benchmarks.reliability_grid import RESULTS as GRID
from benchmarks.reliability_grid import Config, compact, train
from sample_runs.machine import machine

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "accuracy.json", ROOT / "docs" / "accuracy.md"
EXAMPLES = 200
ZOO = (
    Config("SGD", 0.01, 0.9, "gelu", 40, "rotated", 0),
    Config("SGD", 0.05, 0.9, "relu", 20, "rotated", 0),
    Config("AdamW", 0.001, 0.0, "gelu", 40, "rotated", 0),
    Config("SGD", 0.02, 0.9, "tanh", 20, "mislabelled", 0),
    Config("SGD", 0.1, 0.0, "gelu", 40, "rotated", 0),
    Config("AdamW", 0.01, 0.0, "gelu", 20, "rotated", 0),
    Config("SGD", 0.02, 0.9, "gelu", 40, "rotated", 0),
    Config("AdamW", 0.003, 0.0, "gelu", 20, "mislabelled", 0),
    Config("SGD", 0.01, 0.9, "relu", 40, "mislabelled", 0),
    Config("SGD", 0.05, 0.9, "gelu", 40, "rotated", 0),
    Config("AdamW", 0.001, 0.0, "relu", 20, "mislabelled", 0),
    Config("SGD", 0.01, 0.9, "tanh", 20, "rotated", 0),
    Config("AdamW", 0.003, 0.0, "tanh", 40, "rotated", 0),
    Config("SGD", 0.1, 0.9, "gelu", 20, "rotated", 0),
)

ELSEWHERE = ("comments", "xray")
"""Runs that ship, of other architectures."""


def measure_run(config: Config) -> dict[str, Any]:
    """Every candidate on a run of the zoo."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, Path(folder) / "run")
        return {**config._asdict(), **measure(run, load_problem("digits-mlp", run.header.problem.config))}


def measure_architecture(name: str, config: Config) -> dict[str, Any]:
    """Every candidate on a run of another architecture."""
    with tempfile.TemporaryDirectory() as folder:
        run, problem = accuracy_architectures.train(name, config, Path(folder) / "run")
        return {"architecture": name, **config._asdict(), **measure(run, problem)}


def measure_shipped(name: str) -> dict[str, Any]:
    """Every candidate on a run that ships."""
    run = aa.open_run(ROOT / "sample_runs" / name / "run")
    return {"run": name, **measure(run, load_problem(run.header.problem.name, run.header.problem.config))}


def measure(run: aa.Trajectory, problem: aa.Problem) -> dict[str, Any]:
    """Every candidate by every readout against really leaving each stage out; costs in plain trainings (CPU time)."""
    evaluation = run.evaluation
    assert evaluation is not None
    gamma = aa.log_likelihood(evaluation.x, evaluation.y)[slice(0, EXAMPLES)]
    training = prepare(run, problem)
    first, skips = load(run, training, 0), [aa.Counterfactual.skip(s.name) for s in run.stages]
    states, plain = _timed(lambda: [first, *advance(run, training, first, run.steps)])
    models, one_by_one = _timed(lambda: [aa.retrain(run, problem, what) for what in skips])
    _, together = _timed(lambda: aa.retrain_all(run, problem, skips))
    recorded = aa.final_model(run, problem).performance(gamma)
    truth = torch.stack([recorded - m.performance(gamma) for m in models]).numpy()
    rows, spread = [], {}
    for name, sweep in {**KEPT, **DROPPED}.items():
        embedded, seconds = _timed(lambda sweep=sweep: sweep(run, training, states))  # type: ignore[misc]
        readings = read_all(run, problem, gamma, states, embedded)
        spread[name] = disagreement({r: torch.from_numpy(readings[r]) for r in READOUTS})[0]
        extra = EXTRA if name in KEPT else {}
        readings |= {r: how(run, problem, gamma, states, embedded, readings) for r, how in extra.items()}
        rows += [
            {"candidate": name, "readout": r, "cost": seconds / plain, **compare(e, truth)} for r, e in readings.items()
        ]
    costs = {"one by one": one_by_one / plain, "together": together / plain}
    return {"spread": spread["exact"], "retraining": costs, "rows": rows}


def read_all(
    run: aa.Trajectory, problem: aa.Problem, gamma: aa.Performance, states: list[Snapshot], embedded: Embedded
) -> dict[str, np.ndarray]:
    """[stages, examples] by readout."""
    final, moved = states[-1], [embedded[s.name] for s in run.stages]
    shifts = [Shift(s.start, frozenset(s.steps), e) for s, e in zip(run.stages, moved, strict=True)]
    statistics = statistics_changes(run, prepare(run, problem), shifts)
    found = read(moved, gamma, problem, final.state.params, final.buffers, statistics)
    return {readout: values.double().numpy() for readout, values in found.items()}


def blend(*given: Any) -> np.ndarray:
    """Displaced where a stage's three means agree, link where they lie as far apart as they are large."""
    readings: dict[str, np.ndarray] = given[-1]
    means = np.stack([readings[r].mean(1) for r in READOUTS])
    weight = np.clip(np.ptp(means, 0) / np.abs(means).mean(0), 0, 1)[:, None]
    return (1 - weight) * readings["displaced"] + weight * readings["link"]


def bent(*given: Any) -> np.ndarray:
    """Displaced where a stage moved the performance along its slope, linear where curvature is as large as that."""
    readings: dict[str, np.ndarray] = given[-1]
    slope, displaced = (readings[r].mean(1) for r in ("linear", "displaced"))
    weight = np.clip(np.abs(slope - displaced) / np.abs(slope), 0, 1)[:, None]
    return (1 - weight) * readings["displaced"] + weight * readings["linear"]


def clipped(
    run: aa.Trajectory,
    problem: aa.Problem,
    gamma: aa.Performance,
    states: list[Snapshot],
    embedded: Embedded,
    _: dict[str, np.ndarray],
) -> np.ndarray:
    """Displaced by no more than the stage itself moved the parameters."""
    shorter = {}
    for s in run.stages:
        before, after = states[s.start].state.params, states[s.stop].state.params
        moved, length = _norm({n: after[n] - before[n] for n in after}), _norm(embedded[s.name])
        shorter[s.name] = {n: e * min(1.0, moved / length) for n, e in embedded[s.name].items()}
    return read_all(run, problem, gamma, states, shorter)["displaced"]


EXTRA: dict[str, Callable[..., np.ndarray]] = {"blend": blend, "bent": bent, "displaced, clipped": clipped}
"""Readouts that were tried beside those of the engine."""


def compare(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Pearson r and equal signs over all stage x example pairs; error of the stages' means over their mean size."""
    if not np.isfinite(estimate).all():
        return {"pearson": None, "sign": None, "error": None}
    pairs, means = agreement(estimate, truth), agreement(estimate.mean(1), truth.mean(1))
    return {"pearson": pairs.pearson, "sign": pairs.sign, "error": means.relative_error}


def _norm(params: Params) -> float:
    return float(torch.cat([p.flatten() for p in params.values()]).norm())


def _timed(task: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its CPU seconds."""
    start = time.process_time()
    found = task()
    return found, time.process_time() - start


def written(figures: dict[str, Any]) -> str:
    """JSON with one line a run."""
    return "{" + ",\n".join(f'"{part}": {compact(of_part).strip()}' for part, of_part in figures.items()) + "}\n"


def stored() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The zoo's figures, and the runs of the grid."""
    return json.loads(RESULTS.read_text()), json.loads(GRID.read_text())["runs"]


def main() -> None:
    torch.set_num_threads(1)
    figures = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    parts: dict[str, list[Callable[[], dict[str, Any]]]] = {
        "runs": [partial(measure_run, config) for config in ZOO],
        "architectures": [
            partial(measure_architecture, name, config)
            for name in accuracy_architectures.ARCHITECTURES
            for config in accuracy_architectures.SETTINGS
        ],
        "elsewhere": [partial(measure_shipped, name) for name in ELSEWHERE],
    }
    for part in [p for p in sys.argv[1:] or parts if p != "page"]:
        with tempfile.TemporaryDirectory() as workspace:
            os.environ["AA_WORKSPACE"] = workspace
            found = []
            for measured in parts[part]:
                found.append(measured())
                print(part, len(found), "of", len(parts[part]), flush=True)
        figures[part] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "runs": found}
        RESULTS.write_text(written(figures))
    PAGE.write_text(page(*stored()))


if __name__ == "__main__":
    main()
