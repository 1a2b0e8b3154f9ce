"""What a counterfactual would have changed, without retraining."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from aa_core.confidence.calibration import find_calibration, prefer
from aa_core.confidence.reliability import assess
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.intervention import intervene
from aa_core.curvature import Curvature
from aa_core.effects.attribution import Attribution, distances, finite, provenance, readings_of
from aa_core.effects.cache import EmbeddingCache
from aa_core.effects.embedding import ASSUMED, Method, Readout, check_request, embed_stages
from aa_core.effects.statistics import Shift, statistics_changes
from aa_core.effects.tangent import intervention_tangent, midway, recorded
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.records import RunLike
from aa_core.replay import Progress, prepare, silent, snapshot_before

LIMITS_OF_SKIPS = "the limits of the verdict were measured on skipped stages and steps, not on changes of this kind"


def predict(
    run: RunLike,
    problem: Problem,
    what: Counterfactual,
    performance: Performance,
    *,
    method: Method | None = None,
    readout: Readout | None = None,
    curvature: Curvature | None = None,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> Tensor:
    """The effects of `estimate` alone, [values]."""
    chosen: dict[str, Any] = {"method": method, "readout": readout, "curvature": curvature}
    return estimate(run, problem, what, performance, cache=cache, progress=progress, **chosen).effects[0]


def estimate(
    run: RunLike,
    problem: Problem,
    what: Counterfactual,
    performance: Performance,
    *,
    method: Method | None = None,
    readout: Readout | None = None,
    curvature: Curvature | None = None,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> Attribution:
    """The effect of a counterfactual without retraining: gamma(recorded) - gamma(counterfactual).

    Skipped stages: the sum of their embeddings, from the cache where they are known. Steps, scales and changed
    hyperparameters: the touched steps are taken exactly, block by block, from the recorded state in which each block
    began, and the difference at its end is propagated. Training examples: what they taught in each step, propagated
    from there. See `aa_core.effects.tangent.intervention_tangent`.

    Where none of method, readout and curvature is given, they are those that a stored calibration of this performance
    prefers among boundary and midpoint (training examples: boundary alone), else boundary, linear and exact.

    Returns:
        Attribution of one unit, the counterfactual; positive = training as recorded did better.
    """
    training = prepare(run, problem)
    chosen, methods = (method, curvature, readout), what.methods
    method, curvature, readout = prefer(
        run, performance.basis, what.semantics, chosen, *methods, problem=problem.fingerprint
    )
    check_request(method, curvature, readout, what.semantics)
    what.check_method(method)
    performance.check_differentiable()
    intervention = intervene(run, what)
    if what.skips_stages:
        names = tuple(s.name for s in what.resolve(run.stages))
        parts = embed_stages(
            run,
            problem,
            names,
            method=method,
            curvature=curvature,
            semantics=what.semantics,
            cache=cache,
            progress=progress,
        )
        changes = [(e.params, e.growth) for e in parts]
        total = {n: torch.stack([e.params[n] for e in parts]).sum(0) for n in parts[0].params}
        known, trained = [e.statistics for e in parts], total
    else:
        place = midway if method == "midpoint" else recorded
        tangent, growth = intervention_tangent(intervention, training, curvature, progress, place)
        changes, total = [(tangent.judged, growth)], tangent.judged
        known, trained = [], tangent.params
    if len(known) != 1:  # statistics are no sums
        known = list(statistics_changes(run, training, [Shift(min(intervention.steps), intervention.absent, trained)]))
    final = snapshot_before(run, training, run.steps)
    readings = readings_of([total], performance, problem, final, known)
    found = assess(run, training, max(g for _, g in changes), what.semantics, curvature, readings)
    return Attribution(
        units=pd.DataFrame({"counterfactual": [what.name]}),
        labels=performance.labels,
        effects=finite(readings[readout]),
        unit=performance.unit,
        reliability=replace(
            found,
            assumptions=(
                f"{what.manner}: {what.meaning}",
                *found.assumptions[1:],
                *ASSUMED.get(method, ()),
                *([] if what.skips_stages else [LIMITS_OF_SKIPS]),
            ),
            estimator=None if what.examples else (method, curvature, readout),
            calibration=find_calibration(run, performance.basis, what.semantics, problem.fingerprint)
            if what.skips_stages
            else None,
            **distances(changes, final.state.judged),
        ),
        readings=readings,
        provenance={
            **provenance(
                run,
                problem,
                performance,
                what.manner,
                curvature,
                method="examples" if what.examples else method,
                readout=readout,
            ),
            "counterfactual": what.name,
        },
    )
