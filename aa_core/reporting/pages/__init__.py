"""Report -> the blocks of its pages, in their order. What a report says is decided here, for every format at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aa_core.reporting.answer import truths_of
from aa_core.reporting.blocks import Block
from aa_core.reporting.model import Report
from aa_core.reporting.pages import closing, effects, front, record, shown, truth


def pages(report: Report, tables: Sequence[str]) -> Iterator[Block]:
    """All of a report; `tables` are the names of its CSV files."""
    truths = truths_of(report.stages, report.selection, report.method.semantics, report.checks, report.calibration)
    yield from front.cover(report)
    yield from front.confidence(report)
    yield from front.auditor(report)
    yield from front.scope(report)
    yield from record.training(report)
    yield from record.data(report)
    yield from record.method(report)
    yield from effects.results(report, truths)
    yield from shown.screens(report)
    yield from truth.retrainings(report, truths)
    yield from truth.findings(report)
    yield from closing.limits(report)
    yield from closing.process(report)
    yield from closing.sign_off(report)
    yield from closing.reproduce(report)
    yield from closing.appendices(report, tables)
