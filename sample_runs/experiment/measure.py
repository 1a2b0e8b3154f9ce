"""Estimates of a recorded case against really training without each stage."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import aa_core as aa
from aa_core.confidence.calibrate import SWEEPS, calibrate
from aa_core.confidence.calibration import Calibration, Scores
from aa_core.confidence.verdict import earned
from aa_core.counterfactuals.fleet import retrain_all
from aa_core.curvature import Curvature
from aa_core.effects.cache import EmbeddingCache
from aa_core.effects.embedding import Method, Readout, read
from aa_core.replay import advance, load, prepare
from aa_core.run_performance import run_performance
from sample_runs.experiment.plan import Case, Finding, Judged
from sample_runs.experiment.results import Found, LeftOut, Means, Together, Trained

SAMPLED_STEPS = 12
POINTS = 150
TOGETHER = 3
"""How many stages are skipped together."""
ENGINE: tuple[Method, Curvature, Readout] = ("boundary", "exact", "linear")
"""The engine's default, before any calibration."""


class Asked(NamedTuple):
    """A recorded case, and the one cache of its embeddings."""

    run: aa.Trajectory
    problem: aa.Problem
    case: Case
    cache: EmbeddingCache


class Measured(NamedTuple):
    """What is stored with the project, and what is shipped with a run."""

    trained: Trained
    calibration: Calibration


def measure(run: aa.Trajectory, problem: aa.Problem, case: Case, seed: int) -> Measured:
    """All figures of one run.

    Cost: every sweep of `calibrate`, two retrainings without each stage, six trainings for the noise floor, and one
    without each of SAMPLED_STEPS steps.
    """
    asked = Asked(run, problem, case, EmbeddingCache(None))
    label = judged(run, Judged(name="all"))
    plain = _plain_seconds(asked)
    costs = {f"{m}, {c}": _timed(lambda m=m, c=c: _sweep(asked, m, c))[1] / plain for m, c in SWEEPS}
    verdict = replace(_effects(asked, label, ENGINE).reliability, calibration=None).verdict
    calibration = calibrate(run, problem, label, cache=asked.cache)
    default, engine = calibration.default, calibration.find(*ENGINE)
    assert default is not None and engine is not None
    chosen = (default.method, default.curvature, default.readout)
    models, seconds = _timed(
        lambda: {s.name: aa.retrain(run, problem, aa.Counterfactual.skip(s.name)) for s in run.stages}
    )
    costs["retraining without each stage"] = seconds / plain
    means = tuple(_means(asked, models, chosen, j) for j in case.performances)
    steps, seconds = _timed(lambda: aa.step_effects(run, problem, label.mean()))
    costs["all steps, one mean"] = seconds / plain
    trained = Trained(
        case=case.name,
        seed=seed,
        run=run.digest,
        steps=run.steps,
        parameters=sum(p.numel() for p in problem.model.parameters()),
        examples=len(label),
        stages=calibration.stages,
        accuracy=_accuracy(asked),
        verdict=verdict.trust,
        earned=earned(engine.pairs, engine.stages),
        default=default.name,
        below_noise=calibration.below_noise,
        estimators=(*calibration.estimators, calibration.path_share),
        held=_held(asked, models, label),
        single_steps=_single_steps(asked, label.mean(), steps),
        single_steps_verdict=steps.reliability.verdict.trust,
        costs=costs,
        means=means,
        found=tuple(_found(f, calibration.stages, means) for f in case.findings),
        together=_together(asked, chosen),
        left_out=_left_out(asked),
        points=_points(asked, models, chosen, label),
    )
    return Measured(trained, calibration)


def judged(run: aa.Trajectory, by: Judged) -> aa.Performance:
    """The log-likelihood of the label (or the confounder) on every evaluation example that it is about."""
    evaluation = run.evaluation
    assert evaluation is not None and evaluation.metadata is not None
    table = evaluation.metadata
    rows = np.flatnonzero(np.logical_and.reduce([table[c] == v for c, v in by.where.items()] or [np.ones(len(table))]))
    if by.confounder is None:
        return run_performance(run, "log-likelihood", rows.tolist())
    classes = torch.tensor(table[by.confounder].tolist())
    return aa.confounder_log_likelihood(evaluation.x, classes)[torch.from_numpy(rows)]


def _effects(asked: Asked, gamma: aa.Performance, estimator: tuple[str, str, str]) -> aa.Attribution:
    method, curvature, readout = estimator
    return aa.stage_effects(
        asked.run,
        asked.problem,
        gamma,
        method=method,  # type: ignore[arg-type]
        curvature=curvature,  # type: ignore[arg-type]
        readout=readout,  # type: ignore[arg-type]
        cache=asked.cache,
    )


def _means(asked: Asked, models: dict[str, aa.TrainedModel], chosen: tuple[str, str, str], by: Judged) -> Means:
    gamma = judged(asked.run, by).mean(by.name)
    recorded = aa.final_model(asked.run, asked.problem).performance(gamma)
    return Means(
        name=by.name,
        unit=gamma.unit,
        engine=_column(_effects(asked, gamma, ENGINE).effects),
        calibrated=_column(_effects(asked, gamma, chosen).effects),
        truth=tuple(float(recorded - model.performance(gamma)) for model in models.values()),
        share=_column(aa.path_shares(asked.run, asked.problem, gamma).shares),
    )


def _column(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(values[:, 0].tolist())


def _found(finding: Finding, stages: tuple[str, ...], means: tuple[Means, ...]) -> Found:
    of = next(m for m in means if m.name == finding.performance)
    claims = {n: holds(finding, pd.Series(getattr(of, n), stages)) for n in ("engine", "calibrated", "truth")}
    return Found(says=finding.says, **claims)


def holds(finding: Finding, effects: pd.Series) -> bool:
    """Whether the claim is true of these effects, by stage."""
    named = list(finding.stages)
    match finding.kind:
        case "highest":
            return set(effects.nlargest(len(named)).index) == set(named)
        case "lowest":
            return set(effects.nsmallest(len(named)).index) == set(named)
        case "positive":
            return bool((effects[named] > 0).all())
        case _:
            return bool((effects[named] < 0).all())


def _single_steps(asked: Asked, mean: aa.Performance, found: aa.Attribution) -> Scores:
    """Step effects against leaving single steps out, spread evenly over the run."""
    run, problem = asked.run, asked.problem
    steps = np.linspace(0, run.steps - 1, SAMPLED_STEPS).round().astype(int).tolist()
    recorded = aa.final_model(run, problem).performance(mean)
    models = retrain_all(run, problem, [aa.Counterfactual.skip_steps(k) for k in steps])
    truth = np.array([float(recorded - model.performance(mean)) for model in models])
    return Scores.of(aa.agreement(found.effects[steps, 0].numpy(), truth))


def _together(asked: Asked, chosen: tuple[str, str, str]) -> tuple[Together, ...]:
    """Skip the stages with positive effects that stand out, then those with negative ones, and see it move."""
    by = next((p for p in asked.case.performances if p.name == asked.case.together), None)
    if by is None:
        return ()
    gamma = judged(asked.run, by).mean(by.name)
    effects = pd.Series(_column(_effects(asked, gamma, chosen).effects), [s.name for s in asked.run.stages])
    sets = {
        f"the {TOGETHER} highest": effects.nlargest(TOGETHER).index,
        f"the {TOGETHER} lowest": effects.nsmallest(TOGETHER).index,
    }
    return tuple(
        _skipped(asked, gamma, chosen, name, tuple(sorted(s, key=effects.index.get_loc))) for name, s in sets.items()
    )


def _skipped(
    asked: Asked, gamma: aa.Performance, chosen: tuple[str, str, str], name: str, stages: tuple[str, ...]
) -> Together:
    """The estimate is the sum of the stages' boundary embeddings, read as calibration chose."""
    what, (_, curvature, readout) = aa.Counterfactual.skip(*stages), chosen
    options: dict[str, Any] = {"curvature": curvature, "readout": readout, "cache": asked.cache}
    estimate = float(aa.predict(asked.run, asked.problem, what, gamma, **options)[0])
    recorded = float(aa.final_model(asked.run, asked.problem).performance(gamma))
    without = float(aa.retrain(asked.run, asked.problem, what).performance(gamma))
    return Together(
        chosen=name,
        performance=gamma.labels[0],
        stages=stages,
        recorded=recorded,
        without=without,
        estimate=estimate,
        truth=recorded - without,
    )


def _left_out(asked: Asked) -> tuple[LeftOut, ...]:
    """The effect of one training example on the mean of every performance."""
    wanted, run, problem = asked.case.left_out, asked.run, asked.problem
    if wanted is None:
        return ()
    used = torch.cat([m.rows for k in range(run.steps) for m in run.record(k).micro_batches]).unique()
    row = next(int(r) for r in used if run.example_ids(torch.tensor([r])) == [wanted])
    what = aa.Counterfactual.without_examples(row)
    without, recorded = aa.retrain(run, problem, what), aa.final_model(run, problem)
    rows = []
    for by in asked.case.performances:
        gamma = judged(run, by).mean(by.name)
        estimate = float(aa.predict(run, problem, what, gamma)[0])
        truth = float(recorded.performance(gamma) - without.performance(gamma))
        rows.append(LeftOut(id=wanted, performance=by.name, estimate=estimate, truth=truth))
    return tuple(rows)


def _held(asked: Asked, models: dict[str, aa.TrainedModel], label: aa.Performance) -> Scores | None:
    """The engine's default against really retrained models, both with the buffers of the recorded one."""
    final = aa.final_model(asked.run, asked.problem)
    if not final.buffers:
        return None
    recorded, (method, curvature, readout) = final.performance(label), ENGINE
    embeddings = aa.embed_stages(asked.run, asked.problem, method=method, curvature=curvature, cache=asked.cache)
    found = read([e.params for e in embeddings], label, asked.problem, final.params, final.buffers)[readout]
    truth = [recorded - replace(model, buffers=final.buffers).performance(label) for model in models.values()]
    return Scores.of(aa.agreement(found.numpy(), torch.stack(truth).numpy()))


def _points(
    asked: Asked, models: dict[str, aa.TrainedModel], chosen: tuple[str, str, str], label: aa.Performance
) -> tuple[tuple[float, float], ...]:
    """Some pairs of stage and example, evenly spread over them."""
    estimate = _effects(asked, label, chosen).effects.flatten()
    recorded = aa.final_model(asked.run, asked.problem).performance(label)
    truth = torch.cat([recorded - model.performance(label) for model in models.values()])
    picked = np.linspace(0, len(estimate) - 1, min(POINTS, len(estimate))).round().astype(int)
    return tuple((float(estimate[i]), float(truth[i])) for i in picked)


def _accuracy(asked: Asked) -> float:
    """Share of the targets (labels, or next tokens) that the final model puts first."""
    evaluation, final = asked.run.evaluation, aa.final_model(asked.run, asked.problem)
    assert evaluation is not None
    with torch.no_grad():
        outputs = final.problem.outputs(final.params, dict(final.buffers), evaluation.x)
    return float((outputs.argmax(-1) == evaluation.y).double().mean())


def _plain_seconds(asked: Asked) -> float:
    """CPU seconds of one plain replay of the training: the median of three, after one to warm up."""
    run, training = asked.run, prepare(asked.run, asked.problem)

    def replay() -> None:
        deque(advance(run, training, load(run, training, 0), run.steps), maxlen=1)

    return sorted(_timed(replay)[1] for _ in range(4))[1]


def _sweep(asked: Asked, method: Any, curvature: Any) -> None:
    """Fill the cache."""
    aa.embed_stages(asked.run, asked.problem, method=method, curvature=curvature, cache=asked.cache)


def _timed(task: Callable[[], Any]) -> tuple[Any, float]:
    """(what the task returns, its CPU seconds)."""
    start = time.process_time()
    done = task()
    return done, time.process_time() - start
