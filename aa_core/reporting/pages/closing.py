"""The last pages: limits, what was done, who answers for it, how to do it again, and the appendices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aa_core.reporting import glossary
from aa_core.reporting.about import About
from aa_core.reporting.blocks import Block, Bullets, Cell, Commands, Facts, Heading, Paragraph, Table
from aa_core.reporting.frameworks import FRAMEWORKS
from aa_core.reporting.model import Report
from aa_core.reporting.reproduce import COVER, cover_sheet
from aa_core.reporting.shown import Shown


def limits(report: Report) -> Iterator[Block]:
    """What must not be concluded."""
    yield Heading("Limits and validity")
    yield Bullets(report.limitations)


def process(report: Report) -> Iterator[Block]:
    """Who did what, when, and how much was tried."""
    yield Heading("What was done, and when")
    yield Paragraph(report.process.comparisons)
    if report.process.events:
        yield Table(
            "Retrainings, replays, subgroups and entries of the findings ledger, oldest first.",
            ("When", "Who", "What", "How it ended"),
            tuple(tuple(Cell(t or "–") for t in (_when(e.at), e.who, e.what, e.how)) for e in report.process.events),
            texts=frozenset({1, 2, 3}),
        )
    else:
        yield Paragraph(
            "This workspace holds no retraining or replay of this run, no finding, and no subgroup saved with it."
        )


def sign_off(report: Report) -> Iterator[Block]:
    """Who answers for the report."""
    yield Heading("Sign-off")
    if not report.about.sign_off:
        yield Paragraph(
            "Not signed off. A name typed here is a statement; only a signature with a key can be verified."
        )
        return
    yield Table(
        "Signed off by. A typed name is a statement; a signature with a key lies beside the file.",
        ("Name", "Role", "Date", "Statement"),
        tuple((Cell(s.name), Cell(s.role), Cell(s.date), Cell(s.statement or "–")) for s in report.about.sign_off),
        texts=frozenset({1, 2, 3}),
    )


def reproduce(report: Report) -> Iterator[Block]:
    """The commands, and how to check the file."""
    yield Heading("Reproduce and verify")
    yield Paragraph(
        "In the folder that holds the run, and in the workspace of this report, whose retrainings, findings and access "
        "log it tells of; where the model is not one of the registered problems, add --problem my_problem.py."
        f"{_supplied(report)}"
    )
    yield Commands(report.reproduce)
    if report.about != About():
        yield Paragraph(f"{COVER}, which says what the auditor said:")
        yield Commands(cover_sheet(report.about))
    yield Paragraph(
        "This file needs no network. It holds the whole report as data, and a digest of every field; the last command "
        "finds one changed digit and names the field. A digest shows that nothing was changed, not who wrote it: for "
        "that, aa report sign."
    )


def _supplied(report: Report) -> str:
    """What the commands do not say."""
    found = []
    if any(" --against " in line for line in report.reproduce):
        found.append("The other run has to lie beside this one.")
    elif report.comparison is not None or report.shown != Shown():
        found.append("What was chosen on the dashboard’s screens beside the effects themselves is added there only.")
    if report.selection.picks is not None and report.selection.picks.subgroup:
        found.append("Name and definition of the saved subgroup are told by the dashboard only.")
    if not report.selection.named:
        found.append(
            "Effects on a performance of somebody's own are asked from Python: there is no command for this report."
        )
    if any(c.kind == "run" for c in report.checks):
        found.append("Recording a what-if as a run is asked in the dashboard.")
    return "".join(f" {words}" for words in found)


def appendices(report: Report, tables: Sequence[str]) -> Iterator[Block]:
    """Provenance, tables, glossary, and where the record-keeping rules of the field find what they ask for."""
    yield Heading("Appendix A: provenance", page=True)
    said = [("Report digest", report.digest)]
    said += [(_label(k), str(v)) for k, v in sorted(report.provenance.items()) if v is not None]
    said += [(f"Recorded: {k.replace('_', ' ')}", str(v)) for k, v in sorted(report.run.environment.items()) if v != ""]
    yield Facts(tuple(said))
    yield Heading("Appendix B: tables")
    yield Paragraph(
        f"All numbers as files, in report.zip: {', '.join(tables)}. Columns name what they hold, and the unit."
    )
    yield Heading("Appendix C: glossary")
    yield Facts(tuple(glossary.TERMS.items()))
    yield Heading("Appendix D: record-keeping rules")
    yield Paragraph(
        "This report supports record keeping for the texts below. It states conformity with none of them, and it "
        "covers the training of one model, not a system in use."
    )
    yield Table(
        "What a text asks for, and the section that can serve as a record of it.",
        ("Text", "Asks for", "See"),
        tuple((Cell(f.clause, f.text), Cell(f.asks), Cell(f.section)) for f in FRAMEWORKS),
        texts=frozenset({1, 2}),
    )


def _when(at: str) -> str:
    """ "2031-05-01T12:00:00+00:00" -> "2031-05-01 12:00:00 UTC"."""
    return at.replace("T", " ").replace("+00:00", " UTC")


def _label(key: str) -> str:
    return "Examples (n)" if key == "n" else key.replace("_", " ").capitalize()
