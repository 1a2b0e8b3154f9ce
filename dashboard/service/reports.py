"""What is picked, as a report."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from aa_core.jobs import replayed, retrainings
from aa_core.reporting import About, Context, Report, build_report, to_html, to_json, to_pdf, to_zip
from aa_core.reporting.ledger import ledger_events, ledger_section
from dashboard.selection import Selection
from dashboard.service import people
from dashboard.service.desk import Desk
from dashboard.service.engine import Progress
from dashboard.service.estimates import request_of
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


def report_of(desk: Desk, s: Selection, with_steps: bool, about: About, date: str, progress: Progress) -> Report:
    """All of this selection as a report, with every retraining of the run and every finding."""
    rows, run = desk.rows(s), desk.recorded
    told, other = shown(parts(desk, s), progress)
    context = Context(
        retrainings(run),
        about,
        ledger_section(run),
        ledger_events(run),
        date,
        replay=replayed(run),
        shown=told,
        comparison=other,
    )
    key = ("report", *request_of(s), s.readout, rows.tobytes(), with_steps, repr(context))

    def work() -> Report:
        return build_report(
            run,
            desk.problem,
            performance=s.performance,
            examples=None if len(rows) == len(desk.evaluation) else rows.tolist(),
            method=s.method,
            curvature=s.curvature,
            readout=s.readout,
            semantics=s.semantics,
            context=context,
            with_steps=with_steps,
            progress=progress,
        )

    return desk.ask(key, work)
