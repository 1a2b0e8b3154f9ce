"""`python -m benchmarks.checkpoints_only`: what checkpoints alone can tell, against exact propagation and retraining.

Writes benchmarks/results/checkpoints-only.json and docs/checkpoints-only.md; with `page` only the page, from the stored
figures.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

import aa_core as aa
from aa_core.checkpoints_only.segments import SegmentCurvature
from aa_core.confidence.agreement import agreement
from aa_core.confidence.calibration import Scores
from aa_core.confidence.verdict import SEGMENTS, earned
from aa_core.effects.cache import EmbeddingCache
from aa_core.effects.embedding import READOUTS
from aa_core.registry import load_problem
from benchmarks.checkpoints_page import KEPT, page
from benchmarks.reliability_grid import EXAMPLES, Config, compact, configs, train
from sample_runs.machine import machine
from sample_runs.record import NAMES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "checkpoints-only.json"
PAGE = ROOT / "docs" / "checkpoints-only.md"
ACTIVATIONS = ("gelu", "relu")
"""Of the grid's three: enough for the limits, in two thirds of the time."""
CURVATURES: tuple[SegmentCurvature, ...] = get_args(SegmentCurvature)


def measure_config(config: Config, folder: Path) -> dict[str, Any]:
    """One training of the grid."""
    run = train(config, folder / "run")
    evaluation = run.evaluation
    assert evaluation is not None
    gamma = aa.log_likelihood(evaluation.x, evaluation.y)[slice(0, EXAMPLES)]
    return {**config._asdict(), **measure(run, gamma, folder)}


def measure_shipped(name: str, folder: Path) -> dict[str, Any]:
    """A shipped run, on all its evaluation examples."""
    run = aa.open_run(ROOT / "sample_runs" / name / "run")
    evaluation = run.evaluation
    assert evaluation is not None
    gamma = aa.log_likelihood(evaluation.x, evaluation.y)
    return {
        "run": name,
        "digest": run.digest,
        **measure(run, gamma, folder),
        "examples": rank_examples(run, gamma, folder),
    }


def rank_examples(run: aa.Trajectory, gamma: aa.Performance, folder: Path) -> dict[str, dict[str, Any]]:
    """Per stage: effects of its training examples on the mean, against those of the recorded run."""
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    known, mean, found = aa.open_checkpoints(folder / "known"), gamma.mean(), {}
    for stage in run.stages:
        exact = aa.example_effects(run, problem, mean, stages=[stage.name]).effects[:, 0].numpy()
        estimate = aa.segment_example_effects(known, problem, mean, stage.name).effects[:, 0].numpy()
        figures = agreement(estimate, exact)
        found[stage.name] = {"n": figures.n, "pearson": figures.pearson, "spearman": figures.spearman}
    return found


def measure(run: aa.Trajectory, gamma: aa.Performance, folder: Path) -> dict[str, Any]:
    """Every segment-wise estimate and the exact boundary ones, against really leaving each stage out."""
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    recorded = aa.final_model(run, problem).performance(gamma)
    without = [aa.retrain(run, problem, aa.Counterfactual.skip(s.name)).performance(gamma) for s in run.stages]
    truth = torch.stack([recorded - gamma_without for gamma_without in without]).numpy()
    exact = aa.stage_effects(run, problem, gamma, cache=EmbeddingCache(None)).readings
    whole = aa.forget_steps(run, folder / "known")
    known = dict(zip(KEPT, (whole, without_optimizer(whole, problem, folder / "less")), strict=True))
    estimators = []
    for kept, curvature in product(KEPT, CURVATURES):
        found = aa.segment_effects(known[kept], problem, gamma, curvature=curvature, cache=EmbeddingCache(None))
        for readout in READOUTS:
            figures = compare(found.readings[readout].numpy(), truth, exact[readout].numpy())
            about = found.reliability
            name = {"method": SEGMENTS, "curvature": curvature, "readout": readout, "kept": kept}
            estimators.append(
                {**name, "spread": about.readout_spread, "signs_agree": about.signs_agree, "moved": about.moved}
                | figures
            )
    return {
        "moved": estimators[0]["moved"],
        "truth": truth.mean(1).tolist(),
        "exact": {readout: compare(values.numpy(), truth, values.numpy()) for readout, values in exact.items()},
        "estimators": estimators,
    }


def without_optimizer(known: aa.CheckpointRun, problem: aa.Problem, path: Path) -> aa.CheckpointRun:
    """The same run, had only `model.state_dict()` been kept."""
    stages = []
    for stage, entry in zip(known.stages, known.header.stages, strict=True):
        batch = known.stage_batch(stage.name, torch.arange(len(known.stage_examples(stage.name).digests)))
        hyper = {n: v for n, v in entry.hyper.items() if n not in ("beta1", "beta2", "maximize", "nesterov")}
        betas = {"betas": (entry.hyper["beta1"], entry.hyper["beta2"])} if "beta1" in entry.hyper else {}
        states = {stop - stage.start: known.load(stop).state.params for stop in entry.checkpoints}
        stages.append(
            aa.SegmentStage(
                stage.name,
                states,
                entry.optimizer,
                hyper | betas,
                (batch.inputs, batch.targets),
                batch_size=entry.batch_size,
                resumes=entry.resumes,
            )
        )
    initial = known.load(0).state.params
    return aa.from_checkpoints(path, problem.model, problem.loss_fn, initial, stages)


def compare(estimate: np.ndarray, truth: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Against retraining, and the correlation with what exact propagation says in the same readout."""
    pairs, stages = Scores.of(agreement(estimate, truth)), Scores.of(agreement(estimate.mean(1), truth.mean(1)))
    return {
        "pearson": pairs.pearson,
        "sign": pairs.sign,
        "relative_error": pairs.relative_error,
        "stage_sign": stages.sign,
        "stage_error": stages.relative_error,
        "earned": earned(pairs, stages),
        "with_exact": Scores.of(agreement(estimate, exact)).pearson,
        "means": estimate.mean(1).tolist(),
    }


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] != ["page"]:
        RESULTS.write_text(compact(measure_all()))
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


def measure_all() -> dict[str, Any]:
    """The shipped runs, and those of the grid."""
    runs: list[dict[str, Any]] = []
    start = time.process_time()
    wanted = [c for c in configs() if c.activation in ACTIVATIONS]
    tasks = [*((measure_shipped, name) for name in NAMES), *((measure_config, config) for config in wanted)]
    for task, what in tasks:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["AA_WORKSPACE"] = folder
            runs.append(task(what, Path(folder)))  # type: ignore[operator]
        print(len(runs), what, f"{time.process_time() - start:.0f} s", flush=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "cpu_minutes": (time.process_time() - start) / 60,
        "shipped": runs[: len(NAMES)],
        "runs": runs[len(NAMES) :],
    }


if __name__ == "__main__":
    main()
