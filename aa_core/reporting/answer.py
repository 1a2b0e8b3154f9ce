"""What a report claims, in words: three lines that say no more than the numbers do, and what limits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.reporting.glossary import fmt_effect, fmt_interval, fmt_percent, listed, scale_of, unit_words
from aa_core.reporting.model import (
    Answer,
    CalibrationSection,
    Check,
    ReliabilitySection,
    Selection,
    StageRow,
    Status,
    StepTable,
)


class Truth(NamedTuple):
    """What a retraining without the stage measured, on the very question of the row."""

    effect: float
    source: str
    """Where it is stored."""


def answer(rows: Sequence[StageRow], selection: Selection, truths: Mapping[str, Truth], believe: str) -> Answer:
    """Who helped, who hurt, and whether retraining says so too; `believe` are the reliability's words."""
    helped = max(rows, key=lambda r: r.mean or 0.0)
    hurt = min(rows, key=lambda r: r.mean or 0.0)
    named = [r for r, sign in ((helped, 1), (hurt, -1)) if sign * (r.mean or 0.0) > 0]
    pairs = [(r, truths[r.stage]) for r in rows if r.stage in truths]
    first = _line(helped, "helped", len(rows), selection, truths) if helped in named else "No stage helped on average."
    second = _line(hurt, "hurt", len(rows), selection, truths) if hurt in named else "No stage hurt on average."
    return Answer(lines=(first, second, _evidence(pairs)), status=_status(named, truths), confidence=believe)


def truths_of(
    rows: Sequence[StageRow],
    selection: Selection,
    semantics: str,
    checks: Sequence[Check],
    calibration: CalibrationSection | None,
) -> dict[str, Truth]:
    """{stage: what its retraining here measured}: what-ifs of the same question first, then the calibration."""
    found = {}
    if calibration is not None and calibration.same_question and calibration.here:
        pairs = zip(calibration.stages, calibration.truth, strict=True)
        found = {stage: Truth(truth, "calibration") for stage, truth in pairs if truth is not None}
    for row in rows:
        check = _check_of(row, selection, semantics, checks)
        if check is not None and check.mean_truth is not None:
            found[row.stage] = Truth(check.mean_truth, f"job {check.job}" if check.job else "what-if")
    return {row.stage: found[row.stage] for row in rows if row.stage in found}


def _check_of(row: StageRow, selection: Selection, semantics: str, checks: Sequence[Check]) -> Check | None:
    """The retraining that answers the very question of this row: stage, semantics, performance, examples; else None."""
    name = Counterfactual.skip(row.stage).name
    asked = (name, semantics, selection.unit, selection.n)
    for check in checks:
        same = (check.counterfactual, check.semantics, check.unit, check.n) == asked
        same &= check.performance in (None, selection.performance) and check.evaluation in (None, selection.evaluation)
        if same and check.mean_truth is not None:
            return check
    return None


def limitations(
    rows: Sequence[StageRow],
    selection: Selection,
    truths: Mapping[str, Truth],
    reliability: ReliabilitySection,
    checks: Sequence[Check],
    steps: StepTable | None,
    examples_left_out: bool,
) -> tuple[str, ...]:
    """What a reader must not conclude."""
    unchecked = "" if len(truths) == len(rows) else "; the others rest on a first-order estimate"
    found = [
        reliability.words,
        f"{len(truths)} of {len(rows)} effects of stages were checked by retraining{unchecked}.",
        *_noise(rows),
        *_disagreements(rows, steps),
        "An effect is that of leaving one stage out of this very training, all else as recorded. It says nothing of "
        "another order of stages, another seed, or examples that are not in the selection.",
        "Effects of stages need not add up: what two stages did together is counted in both.",
    ]
    if rows[0].low is not None:
        found.append(
            "The intervals describe the choice of examples only, not the error of the estimator or of another run."
        )
    if len(rows) > 1:
        found.append(
            f"{len(rows)} stages are compared here and no interval is corrected for that; the largest of several is "
            "partly chance."
        )
    if any(c.status != "done" for c in checks):
        found.append("Retrainings that failed or were cancelled are listed, and count for nothing.")
    if examples_left_out and selection.n > 1:
        found.append(
            "The effects on single examples are not part of this file; the commands at its end compute them again."
        )
    return tuple(found)


def _noise(rows: Sequence[StageRow]) -> list[str]:
    if all(r.within_noise is None for r in rows):
        return ["No noise floor of the truth was measured: how small an effect can mean anything is not known."]
    small = [r.stage for r in rows if r.within_noise]
    quoted = listed(f"“{name}”" for name in small)
    return [f"Within noise, so not to be told from no effect: {quoted}."] if small else []


def _disagreements(rows: Sequence[StageRow], steps: StepTable | None) -> list[str]:
    """Stages whose steps add up to the other sign: two estimates of nearly one thing that cannot both be right."""
    if steps is None:
        return []
    total = dict.fromkeys(steps.stage, 0.0)
    for stage, effect in zip(steps.stage, steps.effect, strict=True):
        total[stage] += effect or 0.0
    other = [r for r in rows if (r.mean or 0.0) * total.get(r.stage, 0.0) < 0]
    return [
        f"The steps of “{r.stage}” add up to {fmt_effect(total[r.stage])}, the stage as a whole is estimated at "
        f"{fmt_effect(r.mean)}: two estimates that disagree about the sign. Steps are read off linearly; a retraining "
        "decides."
        for r in other
    ]


def _status(named: Sequence[StageRow], truths: Mapping[str, Truth]) -> Status:
    verdicts = {r.stage: _same_sign(r.mean, truths[r.stage].effect) for r in named if r.stage in truths}
    if not all(verdicts.values()):
        return "refuted"
    if named and len(verdicts) == len(named):
        return "confirmed"
    return "partly" if truths else "estimate"


def _line(row: StageRow, verb: str, stages: int, selection: Selection, truths: Mapping[str, Truth]) -> str:
    most = f"{verb} most" if stages > 1 else verb
    scale = scale_of([row.mean, row.low, row.high])
    truth = truths.get(row.stage)
    details = [] if row.low is None else [f"95 % interval over examples {fmt_interval(row.low, row.high, scale)}"]
    if row.low is not None and row.high is not None and row.low <= 0.0 <= row.high:
        details.append("not distinguishable from no effect")
    if row.within_noise:
        details.append("within noise")
    if row.share_helped is not None:
        details.append(f"it helped {fmt_percent(row.share_helped)} of {row.n:,} examples")
    tail = f" ({'; '.join(details)})" if details else ""
    size = f"{fmt_effect(row.mean, scale)} {unit_words(selection.unit)}"
    return (
        f"“{row.stage}” {most}: its estimated effect on {selection.performance} is {size}{tail}{_beside(row, truth)}."
    )


def _beside(row: StageRow, truth: Truth | None) -> str:
    """What retraining measured, after the estimate and its interval."""
    if truth is None:
        return ""
    words = f"; retraining without it measured {fmt_effect(truth.effect, scale_of([row.mean, row.low, row.high]))}"
    if row.low is None or row.high is None or row.low <= truth.effect <= row.high:
        return words
    return f"{words}, outside that interval, which holds the choice of examples and not the estimator’s error"


def _evidence(pairs: Sequence[tuple[StageRow, Truth]]) -> str:
    if not pairs:
        return "No stage was retrained on this question: all of it is an estimate."
    agreed = sum(_same_sign(r.mean, t.effect) for r, t in pairs)
    size = sum(abs(t.effect) for _, t in pairs)
    off = sum(abs((r.mean or 0.0) - t.effect) for r, t in pairs)
    error = f", and sizes are off by {fmt_percent(off / size)}" if size else ""
    retrained = "the one stage that was retrained" if len(pairs) == 1 else f"{len(pairs)} stages that were retrained"
    stored = " (by the calibration measured here)" if any(t.source == "calibration" for _, t in pairs) else ""
    agrees = f"the sign agrees for {agreed}" if len(pairs) > 1 else f"the sign {'agrees' if agreed else 'is the other'}"
    return f"Of {retrained}{stored}, {agrees}{error}."


def _same_sign(estimate: float | None, truth: float) -> bool:
    return (estimate or 0.0) * truth > 0 or estimate == truth
