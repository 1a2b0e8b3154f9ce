"""What is picked, as a report."""

from __future__ import annotations

from aa_core.jobs import retrainings
from aa_core.reporting import Context, Report, build_report
from aa_core.reporting.ledger import ledger_events, ledger_section
from dashboard.selection import Selection
from dashboard.service.desk import Desk
from dashboard.service.engine import Progress
from dashboard.service.estimates import request_of


def report_of(desk: Desk, s: Selection, with_steps: bool, date: str, progress: Progress) -> Report:
    """All of this selection as a report, with every retraining of the run."""
    rows, run = desk.rows(s), desk.recorded
    context = Context(whatifs=retrainings(run), ledger=ledger_section(run), events=ledger_events(run), date=date)
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
