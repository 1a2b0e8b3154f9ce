"""What retraining said: single what-ifs and the calibration, as the sections of a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aa_core.confidence.calibration import RULE, Figures, find_calibration
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.effects.attribution import Attribution
from aa_core.errors import RequestError
from aa_core.records import RunLike
from aa_core.reporting.activity import UNKNOWN, Activity
from aa_core.reporting.asked import Attempt, Request
from aa_core.reporting.links import ranges
from aa_core.reporting.model import CalibrationSection, Check, Estimator, Event, Points, Process, StageRow
from aa_core.reporting.shown import Shown

MOST_POINTS = 400
NAMES = {"what-if": "retraining", "run": "retraining, recorded as a run", "calibration": "calibration"}


def check_section(found: Mapping[str, Any], digest: str) -> Check:
    """One of `aa_core.jobs.retrainings`; without a result, its `status` or `error` says why."""
    source = found.get("provenance") or {}
    if source.get("run", digest) != digest:
        raise RequestError(
            f"the what-if {found['counterfactual']!r} is of run {source['run']}, the report is about run {digest}"
        )
    status = str(found.get("status") or (f"failed: {found['error']}" if found.get("error") else "done"))
    means: dict[str, Any] = {
        k: found.get(k) for k in ("mean_recorded", "mean_retrained", "mean_estimate", "mean_truth")
    }
    agreement = found.get("agreement") or {}
    named = tuple(str(name) for name in found.get("skip") or ())
    left_out = bool(named) and found["counterfactual"] == Counterfactual.skip(*named).name
    return Check(
        counterfactual=str(found["counterfactual"]),
        skip=named if left_out else (),
        semantics=str(found.get("semantics", "freeze")),
        status=status,
        job=str(found.get("job", "")),
        asked=str(found.get("asked", "")),
        performance=found.get("performance", source.get("performance")),
        evaluation=source.get("evaluation"),
        unit=str(found.get("unit", "")),
        n=found.get("n"),
        agreement={str(k): v for k, v in dict(agreement).items()},
        seconds=found.get("seconds"),
        points=_points(found.get("pairs")),
        kind=found.get("kind", "what-if"),
        request=None if found.get("request") is None else _request(found["request"]),
        provenance={k: v for k, v in source.items() if v is None or isinstance(v, str | int | float | bool)},
        earlier=tuple(Attempt(**a) for a in found.get("earlier", ())),
        reliability=str((found.get("reliability") or {}).get("words", "")),
        **means,
    )


def _request(asked: Mapping[str, Any]) -> Request:
    """The request of a job, its rows and steps as ranges."""
    numbers = {name: ranges(asked.get(name) or ()) for name in ("steps", "without", "examples")}
    return Request(**{**asked, "skip": tuple(asked.get("skip", ())), **numbers})


def _points(table: Mapping[str, Sequence[Any]] | None) -> Points | None:
    """Evenly thinned above 400."""
    if not table or len(table["example"]) < 2:
        return None
    count = len(table["example"])
    step = -(-count // MOST_POINTS)
    columns = {c: tuple(table[c][::step]) for c in ("example", "estimate", "truth")}
    return Points(**columns, of=count)


def calibration_section(run: RunLike, effects: Attribution) -> CalibrationSection | None:
    """The stored calibration of this question, else of another one on this run; None if there is none."""
    asked = effects.provenance
    found = effects.reliability.calibration or find_calibration(run, None, asked["semantics"])
    if found is None:
        return None
    names = (asked["method"], asked["curvature"], asked["readout"])
    used, preferred = found.find(*names), found.default
    return CalibrationSection(
        same_question=found.evaluation == asked["evaluation"],
        performance=found.performance,
        evaluation=found.evaluation,
        values=found.values,
        unit=found.unit,
        stages=found.stages,
        truth=found.truth,
        estimate=() if used is None else used.means,
        here=found.here,
        where=found.where,
        noise_of_mean=found.noise_of_mean,
        noise_of_value=found.noise_of_value,
        below_noise=found.below_noise,
        estimators=tuple(_estimator(e, e is used) for e in (*found.estimators, found.path_share)),
        preferred="" if preferred is None else preferred.name,
        rule=RULE,
        code=found.code,
    )


def _estimator(found: Figures, used: bool) -> Estimator:
    pairs, stages = found.pairs, found.stages
    return Estimator(
        name=found.name,
        used=used,
        pearson=pairs.pearson,
        spearman=pairs.spearman,
        sign=pairs.sign,
        error=pairs.relative_error,
        stage_sign=stages.sign,
        stage_error=stages.relative_error,
    )


def process_section(
    rows: Sequence[StageRow],
    groups: int,
    shown: Shown,
    checks: Sequence[Check],
    events: Iterable[Event],
    known: Activity,
) -> Process:
    """What was done when, oldest first, and how many numbers were looked at on the way."""
    asked = [event for c in checks if c.asked for event in _asked(c, known)]
    return Process(
        events=tuple(sorted([*asked, *events, *known.events], key=lambda e: e.at)),
        comparisons=_comparisons(len(rows), groups, shown.comparisons, checks, known),
        questions=known.questions,
    )


def _asked(check: Check, known: Activity) -> Iterator[Event]:
    """A retraining as it was asked for, and how its earlier attempts ended."""
    name, who = f"{check.counterfactual}, {check.semantics} (job {check.job})", known.who.get(check.job, UNKNOWN)
    yield Event(at=check.asked, who=who, what=f"{NAMES[check.kind]}: {name}", how=check.status)
    for attempt in check.earlier:
        yield Event(at=attempt.at, who="", what=f"an attempt at it ended: {name}", how=attempt.how)


def _comparisons(stages: int, groups: int, chosen: int, checks: Sequence[Check], known: Activity) -> str:
    shown, done = stages * (1 + groups) + chosen, sum(c.status == "done" for c in checks)
    words = f"This report shows {shown:,} effects of stages ({stages} on all examples"
    words += f", {stages * groups:,} on {groups} subgroups" if groups else ""
    words += f", {chosen:,} on groups that were chosen on the dashboard’s screens)." if chosen else ")."
    were = "retraining was" if len(checks) == 1 else "retrainings were"
    words += f" {len(checks)} {were} asked for on this run in this workspace; {done} came to an end."
    if any(c.kind == "calibration" for c in checks):
        words += " A calibration counts as one, and retrains every stage."
    if known.questions is not None:
        questions = "1 question" if known.questions == 1 else f"{known.questions:,} different questions"
        words += f" In all, {questions} about this run took a job here, these included."
    if known.trouble:
        words += f" Who asked is not known: {known.trouble}."
    return (
        f"{words} What was only looked at on a screen, or estimated on the command line or from Python, is not "
        "counted, so the number that was tried can be larger."
    )
