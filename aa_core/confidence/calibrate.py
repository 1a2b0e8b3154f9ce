"""Really train without every stage once, and see which estimator can be believed on this run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from aa_core.confidence.agreement import agreement
from aa_core.confidence.calibration import Calibration, Figures, Scores, store_calibration
from aa_core.confidence.noise import NoiseFloor, noise_floor
from aa_core.counterfactuals.counterfactual import Counterfactual, Semantics
from aa_core.counterfactuals.fleet import retrain_all
from aa_core.counterfactuals.retrain import final_model
from aa_core.curvature import Curvature
from aa_core.effects.cache import EmbeddingCache
from aa_core.effects.embedding import Method, embed_stages, read
from aa_core.effects.path_shares import path_shares
from aa_core.errors import RequestError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.recording.machine import environment
from aa_core.records import RunLike
from aa_core.replay import Progress, silent
from aa_core.version import __version__

SWEEPS: tuple[tuple[Method, Curvature], ...] = (
    *product(("boundary", "additive"), get_args(Curvature)),  # type: ignore[arg-type]
    ("midpoint", "exact"),  # by ggn it is boundary, by none the same
)
PART = 1000
"""Progress counts thousandths of a part: the retrainings, the noise floor, each sweep."""


class _Asked(NamedTuple):
    """What every part of a calibration needs to know."""

    run: RunLike
    problem: Problem
    performance: Performance
    semantics: Semantics
    cache: EmbeddingCache | None


def calibrate(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    semantics: Semantics = "freeze",
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Compare every estimator of stage effects with retraining, store what was found, and return it.

    Every stage is really left out once; embeddings are taken by every method and curvature of SWEEPS and read by
    every readout. Effects that the noise floor could explain are left out of the figures.

    Cost: one retraining a stage and six trainings for the noise floor, batched where that is faster; seven sweeps.
    """
    performance.check_differentiable()
    names = [s.name for s in run.stages if len(s)]
    if not names:
        raise RequestError("the run has no stages to calibrate on")
    asked = _Asked(run, problem, performance, semantics, cache)
    parts = _parts(progress, len(SWEEPS) + 2)
    truth = _truth(asked, names, next(parts))
    first = Counterfactual.skip(names[0], semantics=semantics)
    noise = noise_floor(run, problem, performance, what=first, repeats=2, progress=next(parts))
    estimates = [
        ((method, curvature, readout), values)
        for method, curvature in SWEEPS
        for readout, values in _readings(asked, method, curvature, next(parts)).items()
    ]
    shares = path_shares(run, problem, performance).shares.numpy()
    found = Calibration(
        run=run.digest,
        problem=problem.fingerprint,
        performance=performance.name,
        evaluation=performance.digest,
        values=len(performance),
        unit=performance.unit,
        semantics=semantics,
        stages=tuple(names),
        truth=tuple(truth.mean(1).tolist()),
        noise_of_mean=noise.mean_effect,
        noise_of_value=float(noise.effects.max()),
        below_noise=int((np.abs(truth) <= noise.effects.numpy()).sum()),
        estimators=tuple(_figures(name, values, truth, noise) for name, values in estimates),
        path_share=_figures(("path share", "", ""), shares, truth, noise),
        code=__version__,
        environment=environment(problem.device),
    )
    store_calibration(found)
    return found


def _truth(asked: _Asked, names: list[str], progress: Progress) -> np.ndarray:
    """[stages, values]: gamma(recorded) - gamma(without the stage)."""
    run, problem, performance = asked.run, asked.problem, asked.performance
    recorded = final_model(run, problem).performance(performance)
    skipped = [Counterfactual.skip(name, semantics=asked.semantics) for name in names]
    return _plain([recorded - m.performance(performance) for m in retrain_all(run, problem, skipped, progress)])


def _readings(asked: _Asked, method: Method, curvature: Curvature, progress: Progress) -> dict[str, np.ndarray]:
    """[stages, values] by readout."""
    run, problem, options = asked.run, asked.problem, {"semantics": asked.semantics, "cache": asked.cache}
    embeddings = embed_stages(run, problem, method=method, curvature=curvature, progress=progress, **options)  # type: ignore[arg-type]
    final = final_model(run, problem)
    changes, statistics = [e.params for e in embeddings], [e.statistics for e in embeddings]
    found = read(changes, asked.performance, problem, final.params, final.buffers, statistics)
    return {name: values.double().cpu().numpy() for name, values in found.items()}


def _plain(rows: list[Tensor]) -> np.ndarray:
    return torch.stack(rows).double().cpu().numpy()


def _figures(name: tuple[str, str, str], estimate: np.ndarray, truth: np.ndarray, noise: NoiseFloor) -> Figures:
    """Agreement over the pairs that are above the noise; over means, over the means that are."""
    method, curvature, readout = name
    of_value = noise.effects.numpy()
    return Figures(
        method=method,
        curvature=curvature,
        readout=readout,
        pairs=_scores(estimate, truth, np.abs(truth) > of_value),
        examples=_scores(estimate.mean(0), truth.mean(0), np.abs(truth.mean(0)) > of_value),
        stages=_scores(estimate.mean(1), truth.mean(1), np.abs(truth.mean(1)) > noise.mean_effect),
        means=tuple(m if np.isfinite(m) else None for m in estimate.mean(1).tolist()),
    )


def _scores(estimate: np.ndarray, truth: np.ndarray, kept: np.ndarray) -> Scores:
    """Undefined throughout for an estimate that overflowed: it must not look good on the rest."""
    if np.isfinite(estimate).all():
        return Scores.of(agreement(estimate[kept], truth[kept]))
    return Scores(n=int(kept.sum()), pearson=None, spearman=None, sign=None, slope=None, relative_error=None)


def _parts(progress: Progress, count: int) -> Iterator[Progress]:
    """One Progress for each part of the work, in the order in which they are asked for."""
    for i in range(count):
        yield lambda done, total, i=i: progress(PART * i + PART * done // max(total, 1), PART * count)  # type: ignore[misc]
