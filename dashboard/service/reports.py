"""What is picked, as a report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from aa_core.checkpoints_only.checkpoints import CheckpointRun
from aa_core.confidence.borne_out import with_calibration
from aa_core.confidence.calibration import find_calibration
from aa_core.effects.attribution import Attribution, stage_effects
from aa_core.reporting.about import About
from aa_core.reporting.asked import Picks
from aa_core.reporting.files import to_zip
from aa_core.reporting.html import to_html
from aa_core.reporting.model import ReliabilitySection, Report, StepTable, to_json
from aa_core.reporting.pdf import to_pdf
from aa_core.reporting.report import report_from, stated
from aa_core.reporting.results import step_rows
from aa_core.reporting.shown import Query
from aa_core.reporting.surroundings import surroundings
from aa_core.run_performance import run_performance
from dashboard.selection import Selection, to_query
from dashboard.service import estimates, people, slices, work
from dashboard.service.address import origin
from dashboard.service.desk import Desk
from dashboard.service.engine import Progress, memo
from dashboard.service.log import append
from dashboard.service.shown import parts, shown


def formats() -> dict[str, Callable[[Report], str | bytes]]:
    """{suffix: what writes it}; the PDF where typst is installed."""
    found: dict[str, Callable[[Report], str | bytes]] = {"html": to_html, "pdf": to_pdf, "json": to_json, "zip": to_zip}
    return found if find_spec("typst") else {k: v for k, v in found.items() if k != "pdf"}


def exporting(desk: Desk, report: Report, suffix: str) -> Callable[[], str | bytes]:
    """What makes the file, in the access log, when it is asked for; by then it is asked again who asks."""
    known, write = people.claims(), formats()[suffix]

    def made() -> str | bytes:
        person = people.require("viewer", "No report is exported", known)
        append(person, "exported report", desk.run.digest, f"{suffix} {report.digest}")
        return write(report)

    return made


def picks(desk: Desk, s: Selection) -> Picks | None:
    """What picks the examples; None for all, and for those that somebody picked one by one."""
    if s.examples or not s.filtered:
        return None
    return Picks(
        query=_query(s), subgroup=desk.facts().slices.get(s.slice, ""), definition=_query(slices.definition(s.slice))
    )


def _query(s: Selection) -> Query:
    return {name: tuple(values) for name, values in to_query(slices.picks_of(s)).items()}


def report_of(desk: Desk, s: Selection, with_steps: bool, about: About, date: str, progress: Progress) -> Report:
    """All of this selection as a report, with every retraining of the run and every finding.

    Effects are computed once, whatever the auditor says beside them; raises Waiting while a job computes them.
    """
    effects = _effects(desk, s, progress)
    steps = _steps(desk, s, progress) if with_steps and desk.has_steps else None
    told, other = shown(parts(desk, s), progress)
    run = desk.run
    context = replace(surroundings(run), dashboard=origin(), picks=picks(desk, s), shown=told, comparison=other)
    measured = find_calibration(run, None, s.semantics)  # told of, too, where it is of another question
    around = hashlib.sha256(repr((context, effects.reliability, measured, steps)).encode()).digest()
    examples = estimates.picked(desk, s)
    key = ("report", *_asked(desk, s), around)
    made = desk.remember(key, lambda: report_from(run, effects, steps=steps, examples=examples, context=context))
    return stated(made, about, date)


def _effects(desk: Desk, s: Selection, progress: Progress) -> Attribution:
    """Those of every stage on each of the examples, with what retraining said of them until now."""
    run, gamma = desk.run, run_performance(desk.run, s.performance, estimates.picked(desk, s))
    key = ("report", "effects", *_asked(desk, s))
    if isinstance(run, CheckpointRun):
        return desk.ask(key, partial(estimates.from_checkpoints, run, desk.problem, gamma, s, progress))

    def computed() -> Attribution:
        how: dict[str, Any] = {n: getattr(s, n) for n in ("method", "curvature", "readout", "semantics")}
        return stage_effects(run, desk.problem, gamma, progress=progress, **how)

    if desk.key(key) not in memo():
        work.wait_for(desk, work.request_for(s, by="stages"))
    found = desk.ask(key, computed)
    known = find_calibration(run, gamma.basis, s.semantics, desk.problem.fingerprint)
    return with_calibration(
        replace(found, reliability=replace(found.reliability, calibration=known)), run, s.performance
    )


def _steps(desk: Desk, s: Selection, progress: Progress) -> StepTable:
    """The effect of every step on the mean of the examples."""
    request = work.request_for(s, by="steps", examples=estimates.picked(desk, s), stages=desk.facts().stages)
    result, table = work.ask(desk, request, progress)
    known = result["reliability"]
    names = set(ReliabilitySection.model_fields) & set(known)
    figures = {name: known[name] for name in names}
    return step_rows(table, ReliabilitySection(**figures, trust=known["verdict"]["trust"]))


def _asked(desk: Desk, s: Selection) -> tuple[Any, ...]:
    """What decides the effects on these examples."""
    return (*estimates.request_of(s), s.readout, desk.rows(s).tobytes())
