"""From the grid's figures to the limits of aa_core/confidence/verdict.py; how often verdicts are right elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from aa_core.confidence.verdict import LADDER, Estimator, Limits, Tried, Trust

FITTED, HELD_OUT = 0, 1
"""Seeds: the limits are fitted on the runs of the first, and tried on those of the second."""
FALSE_TRUST = 2
"""A false trust costs as much as this many false alarms."""

Runs = list[dict[str, Any]]
Pair = tuple[Trust, Trust]
"""(said, earned)."""


class Case(NamedTuple):
    """One estimator on one run: the figures that a verdict is made of, and what was earned."""

    estimator: Estimator
    spread: float
    signs_agree: float
    moved: float | None
    earned: Trust


def cases(runs: Runs, seed: int) -> list[Case]:
    """Every estimator of every run of a seed."""
    return [_case(e, run["moved"]) for run in runs if run["seed"] == seed for e in run["estimators"]]


def _case(e: dict[str, Any], moved: float) -> Case:
    name = (e["method"], e["curvature"], e["readout"])
    return Case(name, _number(e["spread"]), e["signs_agree"], moved if name[0] != "additive" else None, e["earned"])


def fit_spread(runs: Runs) -> dict[Estimator, Limits]:
    """SPREAD_LIMITS: per estimator, on the runs where the readouts agree in every sign (elsewhere: nothing)."""
    found: dict[Estimator, list[tuple[float, Trust]]] = {}
    for case in cases(runs, FITTED):
        kept = found.setdefault(case.estimator, [])
        if case.signs_agree == 1.0:
            kept.append((case.spread, case.earned))
    return {name: fit(kept) for name, kept in found.items()}


def fit_moved(runs: Runs, spread: Mapping[Estimator, Limits]) -> dict[tuple[str, str], Limits]:
    """MOVED_LIMITS: per method and curvature, each level on the cases that the spread would trust that far."""
    found: dict[tuple[str, str], Limits] = {}
    known = [c for c in cases(runs, FITTED) if c.signs_agree == 1.0 and c.moved is not None]
    for sweep in dict.fromkeys(c.estimator[:2] for c in known):
        limits = [
            _limit(
                [
                    (_number(c.moved), LADDER.index(c.earned) <= level)
                    for c in known
                    if c.estimator[:2] == sweep and c.spread <= spread[c.estimator][level]
                ]
            )
            for level in range(3)
        ]
        found[sweep] = rising(limits)
    return found


def fit_growth(runs: Runs) -> Limits:
    """GROWTH_LIMITS: for single steps; each trust up to the limit that was fitted for more.

    Of the runs whose adjoint did not grow, more than one in ten earned nothing, in either half.
    """
    size, rank, _ = fit([(_number(s["growth"]), earned_by_steps(s)) for s in step_cases(runs, FITTED)])
    return 0.0, size, rank


def step_cases(runs: Runs, seed: int) -> list[dict[str, Any]]:
    return [run["step_effects"] for run in runs if run["seed"] == seed]


def earned_by_steps(found: dict[str, Any]) -> Trust:
    """As `aa_core.confidence.verdict.earned`, with the sampled steps as the pairs and as the means."""
    r, sign, error = found.get("pearson"), found.get("sign") or 0.0, found.get("relative_error")
    if sign < 0.9:
        return "nothing"
    if r is None or r < 0.9:
        return "sign"
    return "size" if r >= 0.95 and error is not None and error <= 0.2 else "rank"


def fit(pairs: Iterable[tuple[float, Trust]]) -> Limits:
    """For size, rank and sign in turn the limit with the least cost; never beyond what was seen."""
    known = [(_number(figure), LADDER.index(trust)) for figure, trust in pairs]
    limits = [_limit([(figure, level <= wanted) for figure, level in known]) for wanted in range(3)]
    return rising(limits)


def rising(limits: list[float]) -> Limits:
    """What may be trusted in size may be trusted in rank, and so on."""
    return limits[0], max(limits[:2]), max(limits)


def _limit(known: list[tuple[float, bool]]) -> float:
    def cost(limit: float) -> int:
        trusted = sum(figure <= limit and not right for figure, right in known)
        return FALSE_TRUST * trusted + sum(figure > limit and right for figure, right in known)

    return min([0.0, *sorted({_round_up(f) for f, _ in known if math.isfinite(f)})], key=cost)


def _round_up(figure: float) -> float:
    """To two significant digits, so that the limits can be read."""
    unit = 10.0 ** (math.floor(math.log10(figure)) - 1) if figure > 0 else 1.0
    return round(math.ceil(figure / unit) * unit, 12)


def said_and_earned(runs: Runs, seed: int, say: Callable[[Case], Trust]) -> list[Pair]:
    """What `say` says of each case of a seed, and what was earned."""
    return [(say(case), case.earned) for case in cases(runs, seed)]


def steps_said_and_earned(runs: Runs, seed: int, say: Callable[[float], Trust]) -> list[Pair]:
    """The same for single steps, by `say(growth)`."""
    return [(say(_number(s["growth"])), earned_by_steps(s)) for s in step_cases(runs, seed)]


def by_sweep(runs: Runs, say: Callable[[Case], Trust]) -> dict[tuple[str, str], Tried]:
    """TRIED: per method and curvature, on the held-out runs."""
    sweeps = dict.fromkeys(case.estimator[:2] for case in cases(runs, HELD_OUT))
    return {sweep: tried(said_and_earned(_only(runs, sweep), HELD_OUT, say)) for sweep in sweeps}


def tried(pairs: list[Pair]) -> Tried:
    """Per verdict but "nothing": (how often at least that much was earned, how often it was said)."""
    return {trust: (held, said) for trust, (said, held) in right(pairs).items() if trust != "nothing"}


def _only(runs: Runs, sweep: tuple[str, str]) -> Runs:
    return [
        {**run, "estimators": [e for e in run["estimators"] if (e["method"], e["curvature"]) == sweep]} for run in runs
    ]


def shares(pairs: list[Pair]) -> dict[str, float]:
    """Share of verdicts that promise too much, too little, and exactly what was earned."""
    too_far = [LADDER.index(said) - LADDER.index(earned) for said, earned in pairs]
    n = max(len(pairs), 1)
    return {
        "false trust": sum(d < 0 for d in too_far) / n,
        "false alarm": sum(d > 0 for d in too_far) / n,
        "exact": sum(d == 0 for d in too_far) / n,
    }


def right(pairs: list[Pair]) -> dict[Trust, tuple[int, int]]:
    """Per verdict: how often it was said, and how often at least that much was earned."""
    said = Counter(s for s, _ in pairs)
    held = Counter(s for s, earned in pairs if LADDER.index(earned) <= LADDER.index(s))
    return {trust: (said[trust], held[trust]) for trust in LADDER}


def _number(figure: float | None) -> float:
    """JSON's null stands for a figure that overflowed."""
    return math.inf if figure is None else figure
