"""What a report claims, in words: three lines that say no more than the numbers do, and what limits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aa_core.counterfactual import Counterfactual
from aa_core.reporting.glossary import fmt_effect, fmt_interval, fmt_percent, scale_of, unit_words
from aa_core.reporting.model import Answer, Check, ReliabilitySection, Selection, StageRow, Status, StepTable


def answer(
    rows: Sequence[StageRow], selection: Selection, semantics: str, checks: Sequence[Check], believe: str
) -> Answer:
    """Who helped, who hurt, and whether a retraining says so too; `believe` are the reliability's words."""
    helped = max(rows, key=lambda r: r.mean or 0.0)
    hurt = min(rows, key=lambda r: r.mean or 0.0)
    named = [r for r, sign in ((helped, 1), (hurt, -1)) if sign * (r.mean or 0.0) > 0]
    pairs = [(r, c) for r in rows if (c := check_of(r, selection, semantics, checks)) is not None]
    status = _status(named, pairs)
    truth = {r.stage: c.mean_truth for r, c in pairs}
    first = _line(helped, "helped", len(rows), selection, truth) if helped in named else "No stage helped on average."
    second = _line(hurt, "hurt", len(rows), selection, truth) if hurt in named else "No stage hurt on average."
    return Answer(lines=(first, second, _evidence(pairs, believe)), status=status)


def check_of(row: StageRow, selection: Selection, semantics: str, checks: Sequence[Check]) -> Check | None:
    """The retraining that answers the very question of this row: stage, semantics, performance, examples; else None."""
    name = Counterfactual.skip(row.stage).name
    for check in checks:
        same = (check.counterfactual, check.semantics, check.unit, check.n) == (
            name,
            semantics,
            selection.unit,
            selection.n,
        )
        same &= check.performance in (None, selection.performance) and check.evaluation in (None, selection.evaluation)
        if same and check.mean_truth is not None:
            return check
    return None


def limitations(
    rows: Sequence[StageRow],
    selection: Selection,
    asked: Mapping[str, Any],
    reliability: ReliabilitySection,
    checks: Sequence[Check],
    steps: StepTable | None,
    examples_left_out: bool,
) -> tuple[str, ...]:
    """What a reader must not conclude."""
    retrained = sum(check_of(r, selection, asked["semantics"], checks) is not None for r in rows)
    unchecked = "" if retrained == len(rows) else "; the others rest on a first-order estimate"
    found = [
        reliability.words,
        f"{retrained} of {len(rows)} effects of stages were checked by retraining{unchecked}.",
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


def _status(named: Sequence[StageRow], pairs: Sequence[tuple[StageRow, Check]]) -> Status:
    verdicts = {r.stage: _same_sign(r.mean, c.mean_truth) for r, c in pairs}
    if any(verdicts.get(r.stage) is False for r in named):
        return "refuted"
    if named and all(r.stage in verdicts for r in named):
        return "confirmed"
    return "partly" if verdicts else "estimate"


def _line(row: StageRow, verb: str, stages: int, selection: Selection, truth: Mapping[str, float | None]) -> str:
    most = f"{verb} most" if stages > 1 else verb
    scale = scale_of([row.mean, row.low, row.high])
    retrained = f", {fmt_effect(truth[row.stage], scale)} when retrained" if row.stage in truth else ""
    details = [] if row.low is None else [f"95 % interval over examples {fmt_interval(row.low, row.high, scale)}"]
    if row.low is not None and row.high is not None and row.low <= 0.0 <= row.high:
        details.append("not distinguishable from no effect")
    if row.share_helped is not None:
        details.append(f"it helped {fmt_percent(row.share_helped)} of {row.n:,} examples")
    tail = f" ({'; '.join(details)})" if details else ""
    size = f"{fmt_effect(row.mean, scale)} {unit_words(selection.unit)}"
    return f"“{row.stage}” {most}: its estimated effect on {selection.performance} is {size}{retrained}{tail}."


def _evidence(pairs: Sequence[tuple[StageRow, Check]], believe: str) -> str:
    if not pairs:
        return f"No stage was retrained on this question. {believe}"
    agreed = sum(_same_sign(r.mean, c.mean_truth) for r, c in pairs)
    size = sum(abs(c.mean_truth or 0.0) for _, c in pairs)
    off = sum(abs((r.mean or 0.0) - (c.mean_truth or 0.0)) for r, c in pairs)
    error = f", and sizes are off by {fmt_percent(off / size)}" if size else ""
    retrained = "the one stage that was retrained" if len(pairs) == 1 else f"{len(pairs)} stages that were retrained"
    return f"Of {retrained}, the sign agrees for {agreed}{error}."


def _same_sign(estimate: float | None, truth: float | None) -> bool:
    return (estimate or 0.0) * (truth or 0.0) > 0 or estimate == truth
