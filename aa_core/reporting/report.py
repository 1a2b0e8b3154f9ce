"""Results -> Report: what was asked, what was found, how far to believe it. No clock: same input, same bytes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aa_core.attribution import Attribution, stage_effects, step_effects
from aa_core.counterfactual import Semantics
from aa_core.curvature import Curvature
from aa_core.embedding import Method, Readout
from aa_core.errors import RequestError
from aa_core.performance import PERFORMANCES, Performance
from aa_core.problem import Problem
from aa_core.replay import Progress, silent
from aa_core.reporting.answer import answer, limitations
from aa_core.reporting.bootstrap import bootstrap_interval
from aa_core.reporting.model import Check, Report, Selection, StageRow
from aa_core.reporting.sections import (
    ReportedRun,
    check_section,
    example_table,
    method_section,
    reliability_section,
    run_section,
    stage_rows,
    step_table,
)
from aa_core.run_performance import run_performance

__all__ = ["ReportedRun", "bootstrap_interval", "build_report", "report_from"]


def build_report(
    run: ReportedRun,
    problem: Problem,
    *,
    performance: str | Performance = "log-likelihood",
    examples: Sequence[int] | None = None,
    stages: Sequence[str] | None = None,
    method: Method = "boundary",
    curvature: Curvature = "exact",
    readout: Readout = "linear",
    semantics: Semantics = "freeze",
    whatifs: Iterable[Mapping[str, Any]] = (),
    with_steps: bool = True,
    date: str | None = None,
    progress: Progress = silent,
) -> Report:
    """Attribute, then report. See `aa_core.attribution.stage_effects` for the request.

    Args:
        performance: a name from PERFORMANCES, judged on the run's evaluation set, or a performance of your own.
        examples: rows of the evaluation set; all by default.
        whatifs: results of "whatif" jobs, failed ones too.
        with_steps: also the effect of every step, one backward sweep.
        date: printed as it is; a report reads no clock.
    """
    if isinstance(performance, str):
        gamma = run_performance(run, performance, examples)
    else:
        gamma = performance if examples is None else performance[examples]
    phases = 1 + with_steps
    effects = stage_effects(
        run,
        problem,
        gamma,
        stages=stages,
        method=method,
        curvature=curvature,
        readout=readout,
        semantics=semantics,
        progress=_phase(progress, 0, phases),
    )
    steps = None
    if with_steps:
        mean = gamma if len(gamma) == 1 else gamma.mean()
        steps = step_effects(
            run,
            problem,
            mean,
            stages=stages,
            curvature=curvature,
            semantics=semantics,
            progress=_phase(progress, 1, phases),
        )
    return report_from(run, effects, steps=steps, whatifs=whatifs, examples=examples, date=date)


def report_from(
    run: ReportedRun,
    effects: Attribution,
    *,
    steps: Attribution | None = None,
    whatifs: Iterable[Mapping[str, Any]] = (),
    examples: Sequence[int] | None = None,
    date: str | None = None,
) -> Report:
    """The report of stage effects (and step effects of their mean) that are already computed.

    Raises RequestError if an attribution is of another run or of another kind than asked for.
    """
    _check_same_run(run, effects, steps)
    asked = effects.provenance
    rows = stage_rows(run, effects)
    checks = tuple(check_section(w, run.digest) for w in whatifs)
    selection = Selection(
        n=asked["n"],
        examples="all" if examples is None else tuple(int(i) for i in examples),
        performance=asked["performance"],
        unit=effects.unit,
        evaluation=asked["evaluation"],
    )
    reliability = reliability_section(effects.reliability)
    table = example_table(effects)
    per_step = None if steps is None else step_table(steps)
    return Report(
        title=run.title or "Untitled run",
        date=date,
        question=_question(run, rows, selection),
        answer=answer(rows, selection, asked["semantics"], checks, reliability.words),
        run=run_section(run),
        selection=selection,
        method=method_section(asked, effects.reliability),
        stages=rows,
        steps=per_step,
        examples=table,
        checks=checks,
        reliability=reliability,
        limitations=limitations(rows, selection, asked, reliability, checks, per_step, table is None),
        provenance={k: v for k, v in asked.items() if v is None or isinstance(v, str | int | float | bool)},
        reproduce=_reproduce(run, rows, selection, asked, checks),
    )


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


def _question(run: ReportedRun, rows: Sequence[StageRow], selection: Selection) -> str:
    which = "all" if len(rows) == sum(len(s) > 0 for s in run.stages) else "the chosen"
    count = f"{which} {len(rows)} stages" if len(rows) > 1 else f"the stage “{rows[0].stage}”"
    of = "examples" if selection.n != 1 else "example"
    judged = f"the model’s {selection.performance} on {selection.n:,} evaluation {of}"
    return f"What did {count} of the training contribute to {judged}?"


def _reproduce(
    run: ReportedRun, rows: Sequence[StageRow], selection: Selection, asked: Mapping[str, Any], checks: Sequence[Check]
) -> tuple[str, ...]:
    """The commands, to be given in the folder that holds the run; a performance of the caller's own has none."""
    folder = shlex.quote(Path(run.path).name)
    commands = [f"aa check {folder}"]
    if selection.performance in PERFORMANCES:
        rows_asked = [] if selection.examples == "all" else [("examples", ",".join(map(str, selection.examples)))]
        judged = [("performance", selection.performance), *rows_asked]
        how = [(name, asked[name]) for name in ("curvature", "readout", "semantics")]
        stages = [] if len(rows) == sum(len(s) > 0 for s in run.stages) else [("stage", r.stage) for r in rows]
        report = _options([*stages, *judged, ("method", asked["method"]), *how, ("output", "report.html")])
        commands += [f"aa report {folder} {report}"]
        left_out = [c.skip for c in checks if c.skip and c.semantics == asked["semantics"]]
        commands += [
            f"aa whatif {folder} {_options([*(('skip', s) for s in skip), *judged, *how])}" for skip in left_out
        ]
    return (*commands, "aa report verify report.html")


def _options(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in pairs)
