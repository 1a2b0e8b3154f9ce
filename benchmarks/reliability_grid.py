"""`python -m benchmarks.reliability_grid`: small trainings, smooth to exploding; what was said of each, and the truth.

Writes benchmarks/results/reliability.json and docs/reliability.md; with `page` only the page, from the stored figures.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import aa_core as aa
from aa_core.confidence.agreement import agreement
from aa_core.confidence.calibrate import calibrate
from aa_core.confidence.calibration import Scores
from aa_core.confidence.reliability import disagreement
from aa_core.confidence.verdict import earned
from aa_core.curvature import gradient_and_curvature
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import NonFiniteError
from aa_core.plain import plain
from aa_core.propagator import Training
from aa_core.registry import load_problem
from aa_core.replay import advance, load, prepare
from aa_core.state import Snapshot, as_rays, norm, subtract
from benchmarks.reliability_fit import FITTED, HELD_OUT
from benchmarks.reliability_page import page
from sample_runs.digits import Plan, record
from sample_runs.machine import machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
SGD = ((0.01, 0.0), (0.1, 0.0), (0.01, 0.9), (0.02, 0.9), (0.05, 0.9), (0.1, 0.9), (0.2, 0.9), (0.4, 0.9))
ADAMW = (0.001, 0.003, 0.01)
LENGTHS = (20, 40)
"""Steps a stage; six stages."""
EXAMPLES = 200
SAMPLED_STEPS = 8


class Config(NamedTuple):
    """One training of the grid."""

    optimizer: str
    lr: float
    momentum: float
    activation: str
    steps: int
    plan: str
    seed: int


def configs() -> list[Config]:
    """Each setting once a seed; a setting that sees rotations with one seed sees a mislabelled stage with the other."""
    settings = [("SGD", lr, momentum) for lr, momentum in SGD] + [("AdamW", lr, 0.0) for lr in ADAMW]
    grid = [(*s, activation) for activation in ("gelu", "relu", "tanh") for s in settings]
    return [
        Config(*setting, LENGTHS[i % 2], ("rotated", "mislabelled")[(i // 2 + seed) % 2], seed)
        for i, setting in enumerate(grid)
        for seed in (FITTED, HELD_OUT)
    ]


def plans(config: Config) -> list[Plan]:
    """Six stages: three rotations twice; or upright and turned digits, the third stage with shifted labels."""
    if config.plan == "rotated":
        return [Plan(f"stage {i}", "", rotation=(0, 45, 90)[i % 3], steps=config.steps) for i in range(6)]
    return [
        Plan(f"stage {i}", "", rotation=45 * (i in (1, 4)), label_shift=int(i == 2), steps=config.steps)
        for i in range(6)
    ]


def train(config: Config, path: Path) -> aa.Trajectory:
    """Record the training of a configuration."""

    def optimizer(params: list[Any]) -> torch.optim.Optimizer:
        if config.optimizer == "AdamW":
            return torch.optim.AdamW(params, lr=config.lr, weight_decay=0.01)
        return torch.optim.SGD(params, lr=config.lr, momentum=config.momentum)

    record(path, "grid", plans(config), optimizer, activation=config.activation, seed=config.seed)
    return aa.open_run(path)


def measure_run(config: Config) -> dict[str, Any]:
    """All that is known of one training: a full calibration, and figures that might predict it."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, Path(folder) / "run")
        problem = load_problem("digits-mlp", run.header.problem.config)
        evaluation = run.evaluation
        assert evaluation is not None
        gamma = aa.log_likelihood(evaluation.x, evaluation.y)[slice(0, EXAMPLES)]
        cache = EmbeddingCache(None)
        found = calibrate(run, problem, gamma, cache=cache)
        sweeps: dict[tuple[str, str], list[Any]] = {}
        for e in found.estimators:
            sweeps.setdefault((e.method, e.curvature), []).append(e.means)
        apart = {sweep: _disagreement(np.array(means, float)) for sweep, means in sweeps.items()}
        estimators = [
            {
                "method": e.method,
                "curvature": e.curvature,
                "readout": e.readout,
                **apart[e.method, e.curvature],
                "earned": earned(e.pairs, e.stages),
                **_short(e.pairs, e.stages),
            }
            for e in found.estimators
        ]
        growth = {
            c: max(e.growth for e in aa.embed_stages(run, problem, curvature=c, cache=cache)) for c in ("exact", "ggn")
        }
        return {
            **config._asdict(),
            "growth": growth,
            "noise_of_mean": found.noise_of_mean,
            "noise_of_value": found.noise_of_value,
            "below_noise": found.below_noise,
            "truth": found.truth,
            "estimators": estimators,
            "path_share": _short(found.path_share.pairs, found.path_share.stages),
            "step_effects": measure_steps(run, problem, gamma.mean()),
            **measure_motion(run, problem),
        }


def measure_steps(run: aa.Trajectory, problem: aa.Problem, mean: aa.Performance) -> dict[str, Any]:
    """Effects of single steps against leaving a few out for real."""
    steps = np.linspace(0, run.steps - 1, SAMPLED_STEPS).round().astype(int).tolist()
    try:
        estimate = aa.step_effects(run, problem, mean)
    except NonFiniteError:
        return {"growth": math.inf}
    recorded = aa.final_model(run, problem).performance(mean)
    truth = [
        float(recorded - aa.retrain(run, problem, aa.Counterfactual.skip_steps(k)).performance(mean)) for k in steps
    ]
    found = agreement(estimate.effects[steps, 0].numpy(), np.array(truth))
    return {"growth": estimate.reliability.growth, **found._asdict()}


def measure_motion(run: aa.Trajectory, problem: aa.Problem) -> dict[str, Any]:
    """How far stages moved the parameters; sharpness, and the remainder's bound."""
    training = prepare(run, problem)
    states = [first := load(run, training, 0), *advance(run, training, first, run.steps)]
    moved = [_norm(subtract(states[s.stop].state, states[s.start].state)) for s in run.stages]
    path = [sum(_norm(subtract(states[k + 1].state, states[k].state)) for k in s.steps) for s in run.stages]
    curved = sharpness(run, training, states)
    total = sum(
        h["lr"] / (1 - h.get("momentum", 0.0))
        for k in range(run.stages[0].stop, run.steps)
        for h in run.record(k).hyper
    )
    return {
        "moved": max(moved) / _norm(states[-1].state),
        "displacement": max(path),
        "sharpness": curved,
        "total_lr": total,
        "log10_bound": math.log10(path[0] ** 2) + curved * total / math.log(10),
    }


def sharpness(
    run: aa.Trajectory, training: Training, states: list[Snapshot], samples: int = 4, rounds: int = 12
) -> float:
    """Lambda: the largest |eigenvalue| of the Hessian by power iteration, the largest over some recorded steps."""
    found = [
        _power_iteration(training, states[k], run.step_input(k, training.problem.device), rounds)
        for k in torch.linspace(0, run.steps - 1, samples).long().tolist()
    ]
    return max(found)


def _power_iteration(training: Training, at: Snapshot, data: Any, rounds: int) -> float:
    product = gradient_and_curvature(training.problem, at, data, "exact")[2]
    generator = torch.Generator().manual_seed(0)
    vector = [
        torch.randn(1, *p.shape, generator=generator, dtype=torch.float64).to(p) for p in at.state.params.values()
    ]
    size = 0.0
    for _ in range(rounds):
        length = torch.cat([v.flatten() for v in vector]).norm()
        vector = product([v / length for v in vector])
        size = float(torch.cat([v.flatten() for v in vector]).norm())
    return size


def _short(pairs: Scores, stages: Scores) -> dict[str, Any]:
    return {
        "pearson": pairs.pearson,
        "sign": pairs.sign,
        "relative_error": pairs.relative_error,
        "stage_sign": stages.sign,
        "stage_error": stages.relative_error,
    }


def _disagreement(means: np.ndarray) -> dict[str, float]:
    """How far the three readouts lie apart, from their [readouts, stages] of means."""
    spread, signs = disagreement({i: torch.from_numpy(row)[:, None] for i, row in enumerate(means)})
    return {"spread": spread, "signs_agree": signs}


def _norm(state: Any) -> float:
    return float(norm(as_rays(state))[0])


def compact(figures: dict[str, Any]) -> str:
    """JSON with one line a run, and four significant digits."""
    head = {name: value for name, value in figures.items() if name != "runs"}
    lines = ",\n".join(json.dumps(plain(_short_numbers(run)), allow_nan=False) for run in figures["runs"])
    return f'{json.dumps(plain(head))[:-1]}, "runs": [\n{lines}\n]}}\n'


def _short_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _short_numbers(v) for name, v in value.items()}
    return [_short_numbers(v) for v in value] if isinstance(value, list | tuple) else value


def _described(runs: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The runs with what they were measured on."""
    date = datetime.now(UTC).date().isoformat()
    return {"date": date, "machine": machine(), "cpu_minutes": seconds / 60, "runs": runs}


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] != ["page"]:
        with tempfile.TemporaryDirectory() as workspace:
            os.environ["AA_WORKSPACE"] = workspace
            runs: list[dict[str, Any]] = []
            start = time.process_time()
            for config in configs():
                runs.append(measure_run(config))
                print(len(runs), *config, f"{time.process_time() - start:.0f} s", flush=True)
                RESULTS.write_text(compact(_described(runs, time.process_time() - start)))
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
