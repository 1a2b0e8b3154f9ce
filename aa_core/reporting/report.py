"""Results -> Report: what was asked, what was found, how far to believe it. No clock: same input, same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aa_core.checkpoints_only.checkpoints import CheckpointRun
from aa_core.checkpoints_only.segment_effects import check_segment_request, segment_effects
from aa_core.confidence.borne_out import with_calibration
from aa_core.confidence.calibration import prefer
from aa_core.counterfactuals.counterfactual import Semantics
from aa_core.curvature import Curvature
from aa_core.effects.attribution import Attribution, stage_effects, step_effects
from aa_core.effects.embedding import Method, Readout
from aa_core.errors import RequestError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.replay import Progress, silent
from aa_core.reporting.about import About
from aa_core.reporting.activity import Activity
from aa_core.reporting.answer import answer, limitations, truths_of
from aa_core.reporting.asked import Picks
from aa_core.reporting.bootstrap import SEED, bootstrap_interval
from aa_core.reporting.checks import calibration_section, check_section, process_section
from aa_core.reporting.model import (
    Comparison,
    Event,
    Ledger,
    Report,
    Selection,
    StageRow,
    StepTable,
    read_report,
    to_json,
)
from aa_core.reporting.reproduce import DASHBOARD, commands, with_statements
from aa_core.reporting.results import example_table, group_table, stage_rows, step_table
from aa_core.reporting.sections import (
    ReportedRun,
    data_section,
    method_section,
    reliability_section,
    run_section,
)
from aa_core.reporting.shown import Shown
from aa_core.run_performance import run_performance

__all__ = ["DASHBOARD", "Context", "ReportedRun", "bootstrap_interval", "build_report", "report_from", "stated"]

UNSTATED, EMPTY, NOTHING, NOTHING_DONE = About(), Ledger(), Shown(), Activity()


@dataclass(frozen=True)
class Context:
    """What stands around the effects of a report: people, retrainings, findings, events."""

    whatifs: Sequence[Mapping[str, Any]] = ()
    """As of `aa_core.jobs.retrainings`: what was found, or why nothing was."""
    about: About = UNSTATED
    ledger: Ledger = EMPTY
    events: Sequence[Event] = ()
    date: str | None = None
    """Printed as it is; a report reads no clock."""
    dashboard: str = DASHBOARD
    replay: Mapping[str, Any] | None = None
    """What the newest replay job found, as `aa_core.jobs.replayed` says it."""
    shown: Shown = NOTHING
    """What was chosen on the screens."""
    comparison: Comparison | None = None
    """Another run beside this one, where `against` names none."""
    picks: Picks | None = None
    """What picked the examples, if not somebody one by one."""
    activity: Activity = NOTHING_DONE


ALONE = Context()


def build_report(
    run: ReportedRun,
    problem: Problem,
    *,
    performance: str | Performance = "log-likelihood",
    examples: Sequence[int] | None = None,
    stages: Sequence[str] | None = None,
    method: Method | None = None,
    curvature: Curvature | None = None,
    readout: Readout | None = None,
    semantics: Semantics = "freeze",
    with_steps: bool = True,
    against: tuple[ReportedRun, Problem] | None = None,
    context: Context = ALONE,
    progress: Progress = silent,
) -> Report:
    """Attribute, then report. See `aa_core.effects.attribution.stage_effects` for the request.

    Where only checkpoints are known, by `segment_effects` and its defaults; of steps, and beside another run, nothing.

    Args:
        performance: a name that `run_performance` knows, judged on the run's evaluation set, or one of your own.
        examples: rows of the evaluation set; all by default.
        method, curvature, readout: by default those that a stored calibration prefers, else boundary, exact, linear.
        with_steps: also the effect of every step, one backward sweep.
        against: another run, of which the same is asked on its own evaluation set.
    """
    if isinstance(performance, str):
        gamma = run_performance(run, performance, examples)
    else:
        gamma = performance if examples is None else performance[examples]
    if isinstance(run, CheckpointRun):
        check_segment_request(method, semantics)
        if against is not None:
            run.refuse("a report beside another run was asked for")
        chosen: dict[str, Any] = {k: v for k, v in (("curvature", curvature), ("readout", readout)) if v is not None}
        approximated = segment_effects(run, problem, gamma, stages=stages, progress=progress, **chosen)
        return report_from(run, approximated, examples=examples, context=context)
    estimator = _estimator(run, gamma, semantics, (method, curvature, readout))
    request: dict[str, Any] = {"stages": stages, "semantics": semantics, **estimator}
    phases = 1 + with_steps + (against is not None)
    effects = stage_effects(run, problem, gamma, progress=_phase(progress, 0, phases), **request)
    steps = other = None
    if with_steps:
        steps = step_effects(
            run,
            problem,
            gamma if len(gamma) == 1 else gamma.mean(),
            stages=stages,
            curvature=estimator["curvature"],
            semantics=semantics,
            progress=_phase(progress, 1, phases),
        )
    if against is not None:
        judged = run_performance(against[0], gamma.name)
        there = stage_effects(*against, judged, progress=_phase(progress, phases - 1, phases), **request)
        other = (against[0], there)
    if isinstance(performance, str):
        effects = with_calibration(effects, run, performance)
        steps = steps and with_calibration(steps, run, performance)
    return report_from(run, effects, steps=steps, against=other, examples=examples, context=context)


def report_from(
    run: ReportedRun,
    effects: Attribution,
    *,
    steps: Attribution | StepTable | None = None,
    against: tuple[ReportedRun, Attribution] | None = None,
    examples: Sequence[int] | None = None,
    context: Context = ALONE,
) -> Report:
    """The report of stage effects (and step effects of their mean) that are already computed, by whomever.

    Raises RequestError if an attribution is of another run or of another kind than asked for.
    """
    _check_same_run(run, effects, steps if isinstance(steps, Attribution) else None)
    asked = effects.provenance
    rows = stage_rows(run, effects)
    checks = tuple(check_section(w, run.digest) for w in context.whatifs)
    calibration = calibration_section(run, effects)
    selection = Selection(
        n=asked["n"],
        examples="all" if examples is None else tuple(int(i) for i in examples),
        performance=asked["performance"],
        unit=effects.unit,
        evaluation=asked["evaluation"],
        picks=context.picks,
    )
    selection = selection.model_copy(update={"named": _is_named(run, selection)})
    reliability = reliability_section(effects.reliability)
    truths = truths_of(rows, selection, asked["semantics"], checks, calibration)
    method = method_section(asked, effects.reliability)
    table, groups = example_table(effects), group_table(run.evaluation, effects)
    per_step = step_table(steps) if isinstance(steps, Attribution) else steps
    number_of_groups = 0 if groups is None else len(groups.groups)
    made = Report(
        title=run.title or "Untitled run",
        date=None,
        dashboard=context.dashboard.rstrip("/"),
        question=_question(run, rows, selection),
        answer=answer(rows, selection, truths, reliability.words),
        about=UNSTATED,
        run=run_section(run, context.replay),
        data=data_section(run),
        selection=selection,
        method=method,
        stages=rows,
        steps=per_step,
        groups=groups,
        examples=table,
        comparison=context.comparison if against is None else _comparison(rows, *against),
        shown=context.shown,
        checks=checks,
        calibration=calibration,
        ledger=context.ledger,
        reliability=reliability,
        limitations=limitations(rows, selection, truths, reliability, checks, per_step, table is None),
        process=process_section(rows, number_of_groups, context.shown, checks, context.events, context.activity),
        provenance={
            **{k: v for k, v in asked.items() if v is None or isinstance(v, str | int | float | bool)},
            "seed": SEED,
        },
        reproduce=commands(
            run.path,
            selection,
            method,
            stages=() if len(rows) == sum(len(s) > 0 for s in run.stages) else [r.stage for r in rows],
            with_steps=steps is not None,
            against=None if against is None else against[0].path,
            dashboard=context.dashboard.rstrip("/"),
            checks=checks,
        ),
    )
    return stated(made, context.about, context.date)


def stated(report: Report, about: About, date: str | None) -> Report:
    """A report that was made without them, with the auditor's statements and the date that it prints."""
    said = {"about": about, "date": date, "reproduce": with_statements(report.reproduce, about, date)}
    made = report.model_copy(update=said)
    return read_report(to_json(made).encode())  # as it will be read again, the order of keys included


def _estimator(
    run: ReportedRun, gamma: Performance, semantics: Semantics, chosen: tuple[str | None, str | None, str | None]
) -> dict[str, Any]:
    """What was chosen; the rest as a stored calibration of this very question prefers it, else the plain default."""
    return dict(zip(("method", "curvature", "readout"), prefer(run, gamma.basis, semantics, chosen), strict=True))


def _phase(progress: Progress, phase: int, phases: int) -> Progress:
    return lambda done, total: progress(phase * total + done, phases * total)


def _check_same_run(run: ReportedRun, effects: Attribution, steps: Attribution | None) -> None:
    for found in [effects] if steps is None else [effects, steps]:
        if found.provenance.get("run") != run.digest:
            raise RequestError(
                f"these effects are of run {found.provenance.get('run')}, the report is about run {run.digest}"
            )
    if "step" in effects.units or not len(effects.units):
        raise RequestError("a report needs the effects of at least one stage, from stage_effects")
    if steps is not None and ("step" not in steps.units or len(steps.labels) != 1):
        raise RequestError("steps must be the step_effects of one value: ask for performance.mean()")


def _comparison(rows: Sequence[StageRow], run: ReportedRun, effects: Attribution) -> Comparison:
    """The stages of both runs by their name; a stage that one of them lacks has no number there."""
    here = {r.stage: r.mean for r in rows}
    there = dict(zip(effects.units["stage"], effects.effects.mean(1).tolist(), strict=True))
    names = tuple(dict.fromkeys([*here, *there]))
    return Comparison(
        digest=run.digest,
        title=run.title or "Untitled run",
        n=effects.provenance["n"],
        evaluation=effects.provenance["evaluation"],
        stage=names,
        here=tuple(here.get(n) for n in names),
        there=tuple(there.get(n) for n in names),
        words=effects.reliability.words,
    )


def _question(run: ReportedRun, rows: Sequence[StageRow], selection: Selection) -> str:
    which = "all" if len(rows) == sum(len(s) > 0 for s in run.stages) else "the chosen"
    count = f"{which} {len(rows)} stages" if len(rows) > 1 else f"the stage “{rows[0].stage}”"
    of = "examples" if selection.n != 1 else "example"
    judged = f"the model’s {selection.performance} on {selection.n:,} evaluation {of}"
    return f"What did {count} of the training contribute to {judged}?"


def _is_named(run: ReportedRun, selection: Selection) -> bool:
    """Does the command line know this performance, on these very examples, by its name?"""
    rows = None if selection.examples == "all" else [int(i) for i in selection.examples]
    try:
        return run_performance(run, selection.performance, rows).digest == selection.evaluation
    except RequestError:
        return False
