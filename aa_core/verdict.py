"""What an estimate may be trusted for: sizes, ranks, signs, or nothing. Said by limits that were measured.

A verdict is right, by definition, if against real retraining the estimate has at least

    sign   the sign of 90 % of the stages' means
    rank   that, and over all stage x example pairs r >= 0.9 and 90 % of the signs
    size   that, and r >= 0.95, and the stages' means off by 20 % of their mean size or less

The limits were fitted on one half of the runs of benchmarks/reliability_grid.py and tried on the other: docs/reliability.md.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

from aa_core.agreement import Agreement
from aa_core.calibration import Figures, Scores

Trust = Literal["size", "rank", "sign", "nothing"]
LADDER: tuple[Trust, ...] = get_args(Trust)
"""From the most to the least."""
Estimator = tuple[str, str, str]
"""Method, curvature, readout."""

SPREAD_LIMITS: dict[Estimator, tuple[float, float, float]] = {}
"""Stages: up to which spread of the three readouts sizes, ranks and signs were right, per estimator. 0: never."""
GROWTH_LIMITS: tuple[float, float, float] = (0.0, 0.0, 0.0)
"""Single steps, which have one readout: up to which growth of the adjoint."""
NEVER = (0.0, 0.0, 0.0)
HELD_OUT: dict[Trust, float] = {"size": 0.0, "rank": 0.0, "sign": 0.0, "nothing": 1.0}
"""How often each verdict on stages was right, on runs that the limits were not fitted on."""
TRIED = 0
"""Estimates that this was tried on."""

MEANING: dict[Trust, str] = {
    "size": "trust signs, ranks and sizes",
    "rank": "trust signs and ranks, not sizes",
    "sign": "trust the signs of the stages' means, neither ranks nor sizes",
    "nothing": "trust nothing, not even signs",
}


class Verdict(NamedTuple):
    """How far to go with an estimate, and why."""

    trust: Trust
    reason: str
    verified: bool = False
    """Whether real retraining of this very run says so."""

    @property
    def words(self) -> str:
        """The verdict as a sentence or two."""
        if self.verified:
            return f"Checked by retraining: {MEANING[self.trust]}. {self.reason}."
        if self.trust == "size":
            return f"No warning sign: {MEANING['size']}. {self.reason}. Retrain to confirm."
        opening = "Do not trust this estimate" if self.trust == "nothing" else "Treat with care"
        return f"{opening}: {MEANING[self.trust]}. {self.reason}. Retrain to know."


def earned(pairs: Agreement | Scores, stages: Agreement | Scores) -> Trust:
    """The trust that an estimate turned out to deserve, from its agreement with the truth; see the definition above."""
    if not _least(stages.sign, 0.9):
        return "nothing"
    if not (_least(pairs.pearson, 0.9) and _least(pairs.sign, 0.9)):
        return "sign"
    return "size" if _least(pairs.pearson, 0.95) and _most(stages.relative_error, 0.2) else "rank"


def judge_calibrated(figures: Figures) -> Verdict:
    """The verdict of a real retraining of every stage."""
    pairs, stages = figures.pairs, figures.stages
    reason = (
        f"Over {pairs.n} pairs of stage and example r = {_number(pairs.pearson)}, the sign is right for "
        f"{_percent(pairs.sign)}, and the stages' means are off by {_percent(stages.relative_error)}"
    )
    return Verdict(earned(pairs, stages), reason, verified=True)


def judge_readouts(estimator: Estimator, spread: float, signs_agree: float) -> Verdict:
    """The verdict on stage effects from how far the three readouts of the same embeddings lie apart."""
    if signs_agree < 1:
        return Verdict("nothing", f"For {1 - signs_agree:.0%} of the stages the three readouts disagree even in sign")
    trust = _within(spread, SPREAD_LIMITS.get(estimator, NEVER))
    return Verdict(trust, f"The three readouts lie {spread:.0%} apart{_experience(estimator, trust)}")


def _experience(estimator: Estimator, trust: Trust) -> str:
    """What the limit of a verdict is, and how often it was right."""
    limits = SPREAD_LIMITS.get(estimator, NEVER)
    if not any(limits):
        return f", but {', '.join(estimator)} was not right often enough to be trusted, however close they lay"
    if trust == "nothing":
        return f"; beyond {limits[2]:.0%} even signs were wrong too often"
    return f"; up to {limits[LADDER.index(trust)]:.0%} this was right in {HELD_OUT[trust]:.0%} of {TRIED} trials"


def judge_growth(growth: float) -> Verdict:
    """The verdict on effects of single steps from how much the adjoint grew on its way back."""
    trust = _within(growth, GROWTH_LIMITS)
    return Verdict(trust, f"A small change of the state grew up to {growth:.2g} times in training")


def _within(figure: float, limits: tuple[float, float, float]) -> Trust:
    """The most that a figure allows; NaN allows nothing."""
    return next((trust for trust, limit in zip(LADDER, limits, strict=False) if figure <= limit), "nothing")


def _least(figure: float | None, bound: float) -> bool:
    return figure is not None and figure >= bound


def _most(figure: float | None, bound: float) -> bool:
    return figure is not None and figure <= bound


def _number(figure: float | None) -> str:
    return "undefined" if figure is None or math.isnan(figure) else f"{figure:.2f}"


def _percent(figure: float | None) -> str:
    return "an unknown share" if figure is None or math.isnan(figure) else f"{figure:.0%}"
