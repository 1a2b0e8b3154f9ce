"""How far the other estimators of the same stage effects lie from the one that was asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

from aa_core.confidence.agreement import NO_AGREEMENT, Agreement, agreement
from aa_core.curvature import Curvature
from aa_core.effects.attribution import Attribution, stage_effects
from aa_core.effects.cache import EmbeddingCache
from aa_core.effects.embedding import READOUTS, Method
from aa_core.errors import NonFiniteError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.records import RunLike
from aa_core.replay import Progress, silent


def with_disagreement(
    found: Attribution,
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> Attribution:
    """The same stage effects; their reliability names how well every method, curvature and readout agrees with them.

    Agreement among estimators is no truth: all are first order. Where they differ, at most one of them is right.
    Cost: a sweep for each of the nine embeddings that is not cached yet.
    """
    stages, semantics = found.units["stage"].tolist(), found.provenance["semantics"]
    others: dict[str, Agreement] = {}
    for method, curvature in product(get_args(Method), get_args(Curvature)):
        names = {readout: f"{method}, {curvature}, {readout}" for readout in READOUTS}
        try:
            readings = stage_effects(
                run,
                problem,
                performance,
                stages=stages,
                method=method,
                curvature=curvature,
                semantics=semantics,
                cache=cache,
                progress=progress,
            ).readings
        except NonFiniteError:
            others |= dict.fromkeys(names.values(), NO_AGREEMENT)
        else:
            others |= {names[r]: agreement(values.numpy(), found.effects.numpy()) for r, values in readings.items()}
    return replace(found, reliability=replace(found.reliability, others=others))
