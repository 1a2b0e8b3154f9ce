"""What an estimate may be trusted for: sizes, ranks, signs, or nothing. Said by limits that were measured.

A verdict is right, by definition, if against real retraining the estimate has at least

    sign   the sign of 90 % of the stages' means
    rank   that, and over all stage x example pairs r >= 0.9 and 90 % of the signs
    size   that, and r >= 0.95, and the stages' means off by 20 % of their mean size or less

The limits were fitted on half of the runs of benchmarks/reliability_grid.py and tried on the rest: docs/reliability.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:  # what is drawn before there is an engine has these words, and needs no torch
    from aa_core.confidence.agreement import Agreement
    from aa_core.confidence.calibration import Figures, Scores

Trust = Literal["size", "rank", "sign", "nothing"]
LADDER: tuple[Trust, ...] = get_args(Trust)
"""From the most to the least."""
Estimator = tuple[str, str, str]
"""Method, curvature, readout."""

Limits = tuple[float, float, float]
"""For size, rank and sign; 0: never."""
Tried = dict[Trust, tuple[int, int]]
"""(How often a verdict was right, how often it was said), on runs that the limits were not fitted on."""

SEGMENTS = "segments"
"""The method of `aa_core.checkpoints_only.segment_effects`."""
ANY: Limits = (math.inf, math.inf, math.inf)
SPREAD_LIMITS: dict[Estimator, Limits] = {
    ("boundary", "exact", "linear"): (0.21, 0.44, 0.6),
    ("boundary", "exact", "displaced"): (0.21, 0.44, 0.6),
    ("boundary", "exact", "link"): (0.55, 0.55, 0.6),
    ("boundary", "ggn", "linear"): (0.0, 0.2, 0.4),
    ("boundary", "ggn", "displaced"): (0.0, 0.4, 0.4),
    ("boundary", "ggn", "link"): (0.0, 0.2, 0.4),
    ("boundary", "none", "linear"): (0.0, 0.0, 0.25),
    ("boundary", "none", "displaced"): (0.0, 0.0, 0.25),
    ("boundary", "none", "link"): (0.0, 0.0, 0.25),
    ("additive", "exact", "linear"): (0.12, 0.22, 0.6),
    ("additive", "exact", "displaced"): (0.17, 0.22, 0.6),
    ("additive", "exact", "link"): (0.12, 0.22, 0.6),
    ("additive", "ggn", "linear"): (0.016, 0.087, 0.25),
    ("additive", "ggn", "displaced"): (0.016, 0.088, 0.25),
    ("additive", "ggn", "link"): (0.016, 0.087, 0.25),
    ("additive", "none", "linear"): (0.0, 0.0, 0.28),
    ("additive", "none", "displaced"): (0.0, 0.0, 0.28),
    ("additive", "none", "link"): (0.0, 0.0, 0.28),
    ("midpoint", "exact", "linear"): (0.23, 0.47, 0.54),
    ("midpoint", "exact", "displaced"): (0.54, 0.54, 0.54),
    ("midpoint", "exact", "link"): (0.54, 0.54, 0.54),
}
"""Stages: up to which spread of the three readouts an estimator was right."""
MOVED_LIMITS: dict[tuple[str, str], Limits] = {
    ("boundary", "ggn"): (0.0, 0.25, 0.25),
    ("boundary", "none"): (0.0, 0.0, 0.15),
    ("boundary", "exact"): (0.29, 0.29, 0.41),
    ("midpoint", "exact"): (0.29, 0.29, 0.29),
}
"""Stages, by method and curvature: how far any stage may have moved the parameters, over the norm of the final ones."""
TRIED: dict[tuple[str, str], Tried] = {
    ("boundary", "exact"): {"size": (26, 28), "rank": (4, 4), "sign": (4, 4)},
    ("boundary", "ggn"): {"size": (0, 0), "rank": (20, 25), "sign": (2, 2)},
    ("boundary", "none"): {"size": (0, 0), "rank": (0, 0), "sign": (21, 21)},
    ("additive", "exact"): {"size": (12, 12), "rank": (12, 12), "sign": (9, 9)},
    ("additive", "ggn"): {"size": (6, 6), "rank": (3, 6), "sign": (15, 15)},
    ("additive", "none"): {"size": (0, 0), "rank": (0, 0), "sign": (21, 21)},
    ("midpoint", "exact"): {"size": (27, 28), "rank": (2, 2), "sign": (0, 0)},
}
"""Stages: by method and curvature."""
GROWTH_LIMITS: Limits = (0.0, 1.5, 2.1)
"""Single steps, which have one readout: up to which growth of the adjoint. It bore sizes out too rarely."""
GREW = 1.05
"""Below this nothing grew, to two digits."""
STEPS_TRIED: Tried = {"size": (0, 0), "rank": (15, 19), "sign": (1, 2)}
SEGMENT_SPREAD_LIMITS: dict[Estimator, Limits] = {
    ("segments", "ggn", "linear"): (0.0, 0.0, 0.36),
    ("segments", "ggn", "displaced"): (0.0, 0.0, 0.36),
    ("segments", "ggn", "link"): (0.0, 0.0, 0.36),
    ("segments", "none", "linear"): (0.0, 0.0, 0.19),
    ("segments", "none", "displaced"): (0.0, 0.0, 0.19),
    ("segments", "none", "link"): (0.0, 0.0, 0.19),
}
"""As SPREAD_LIMITS, where only checkpoints are known; on runs of benchmarks/checkpoints_only.py."""
SEGMENT_MOVED_LIMITS: dict[tuple[str, str], Limits] = {
    ("segments", "ggn"): (0.0, 0.0, 0.21),
    ("segments", "none"): (0.0, 0.0, 0.15),
}
SEGMENT_TRIED: dict[tuple[str, str], Tried] = {
    ("segments", "ggn"): {"size": (0, 0), "rank": (0, 0), "sign": (24, 27)},
    ("segments", "none"): {"size": (0, 0), "rank": (0, 0), "sign": (18, 18)},
}

MEANING: dict[Trust, str] = {
    "size": "trust signs, ranks and sizes",
    "rank": "trust signs and ranks, not sizes",
    "sign": "trust the signs of means over examples, neither ranks nor sizes",
    "nothing": "trust nothing, not even signs",
}
OPENINGS: dict[Trust, str] = {
    "size": "No warning sign",
    "rank": "Treat with care",
    "sign": "Treat with care",
    "nothing": "Do not trust this estimate",
}


class Verdict(NamedTuple):
    """How far to go with an estimate, and why."""

    trust: Trust
    reason: str
    verified: bool = False
    """Whether real retraining of this very run, done here, says so."""
    approximated: bool = False
    """Whether it is about an approximation from checkpoints, which no retraining can check."""
    checked: str = ""
    """If by retraining, whoever did it: what was, and on which examples."""

    @property
    def words(self) -> str:
        """The verdict as a sentence or two."""
        if self.checked:
            way_out = "" if self.verified else " Calibrate here to know."
            return f"{self.checked}: {MEANING[self.trust]}. {self.reason}.{way_out}"
        source = "Approximated from checkpoints only. " if self.approximated else ""
        way_out = "" if self.approximated else f" Retrain to {'confirm' if self.trust == 'size' else 'know'}."
        return f"{source}{OPENINGS[self.trust]}: {MEANING[self.trust]}. {self.reason}.{way_out}"


UNMEASURED = Verdict(
    "nothing", "Effects of training examples from checkpoints were compared on three runs only", approximated=True
)


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
    wrong = 0 if stages.sign is None else round(stages.n * (1 - stages.sign))
    have = "has" if wrong == 1 else "have"
    signs = f"{wrong} of the {stages.n} stages' means {have} the wrong sign; over" if wrong else "Over"
    reason = (
        f"{signs} {pairs.n:,} pairs of stage and example r = {_number(pairs.pearson)}, the sign is right for "
        f"{_percent(pairs.sign)}, and the stages' means are off by {_percent(stages.relative_error)}"
    )
    return Verdict(earned(pairs, stages), reason, verified=True, checked="Checked by retraining")


def judge_readouts(estimator: Estimator, spread: float, signs_agree: float, moved: float | None) -> Verdict:
    """The verdict on stage effects.

    Args:
        spread: how far the three readouts of the same embeddings lie apart, relative to their size.
        signs_agree: share of the stages whose mean has one sign in all three.
        moved: largest distance that a stage moved the parameters, over the norm of the final ones; None if not known.
    """
    if signs_agree < 1:
        return Verdict(
            "nothing", f"For {_percent(1 - signs_agree)} of the stages the three readouts disagree even in sign"
        )
    kept = estimator[0] == SEGMENTS
    spreads, moves, tried = (
        (SEGMENT_SPREAD_LIMITS, SEGMENT_MOVED_LIMITS, SEGMENT_TRIED) if kept else (SPREAD_LIMITS, MOVED_LIMITS, TRIED)
    )
    limits = spreads.get(estimator)
    if limits is None:
        return Verdict("nothing", f"{', '.join(estimator)} was never tried against retraining")
    if not any(limits):
        return Verdict("nothing", f"{', '.join(estimator)} was not right often enough, however close its readouts lay")
    by_spread = _within(spread, limits)
    by_move = "size" if moved is None else _within(moved, moves.get(estimator[:2], ANY))
    if moved is not None and LADDER.index(by_move) > LADDER.index(by_spread):
        trust, figure = by_move, f"A stage moved the model far, by {_percent(moved)} of its parameters' norm"
    else:
        trust, figure = by_spread, f"The three readouts lie {_percent(spread)} apart"
    if trust == "nothing":
        closer = "; Gauss-Newton curvature is closer on such runs" if estimator[1] == "exact" else ""
        return Verdict(trust, f"{figure}, more than where signs could be trusted{closer}")
    return Verdict(trust, figure + _experience(tried.get(estimator[:2], {}).get(trust, (0, 0))))


def judge_growth(growth: float) -> Verdict:
    """The verdict on effects of single steps from how much the adjoint grew on its way back."""
    trust = _within(growth, GROWTH_LIMITS)
    grew = "did not grow" if growth < GREW else f"grew up to {float(f'{growth:.2g}'):,g} times"
    figure = f"A small change of the state {grew} in training"
    if trust == "nothing":
        return Verdict(trust, f"{figure}, more than where signs could be trusted")
    return Verdict(trust, figure + _experience(STEPS_TRIED.get(trust, (0, 0))))


def lesser(one: Verdict, other: Verdict) -> Verdict:
    """The verdict that trusts less; the first where they trust alike."""
    return max(one, other, key=lambda verdict: LADDER.index(verdict.trust))


def _experience(tried: tuple[int, int]) -> str:
    """How often a verdict was right where it was tried."""
    right, said = tried
    return f"; this verdict was right in {right} of {said} trials" if said else "; this verdict met no trial"


def _within(figure: float, limits: Limits) -> Trust:
    """The most that a figure allows; NaN allows nothing."""
    return next(
        (trust for trust, limit in zip(LADDER, limits, strict=False) if limit >= figure and limit > 0), "nothing"
    )


def _least(figure: float | None, bound: float) -> bool:
    return figure is not None and figure >= bound


def _most(figure: float | None, bound: float) -> bool:
    return figure is not None and figure <= bound


def _number(figure: float | None) -> str:
    return "undefined" if figure is None or math.isnan(figure) else f"{figure:.2f}"


def _percent(figure: float | None) -> str:
    return "an unknown share" if figure is None or math.isnan(figure) else f"{100 * figure:.0f} %"
