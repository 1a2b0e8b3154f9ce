"""What no number goes without: unit, sign, n, reliability, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aa_core.reporting import glossary
from aa_core.reporting.blocks import Cell
from aa_core.reporting.links import ranges
from aa_core.reporting.model import Check, ReliabilitySection, Report, Selection
from aa_core.reporting.recorded import Number

SHORT = 12
MOST_NUMBERS = 60
"""Characters of row numbers that a line of evidence spells out."""
NOISE = "within noise"
UNSURE = "sign unsure"
DISAGREE = f"Marked “{UNSURE}”: the readouts disagree in its sign."


def basis(report: Report, thing: str, found: ReliabilitySection | None = None) -> str:
    """Unit, number of examples, sign convention, and the verdict in words."""
    unit = glossary.unit_words(report.selection.unit)
    said = f"{unit[0].upper()}{unit[1:]}; n = {report.selection.n:,}; {glossary.sign(thing)}."
    return f"{said} {verdict(found)}" if found else said


def verdict(found: ReliabilitySection) -> str:
    """What it may be trusted for; the reasons stand in the section on that."""
    return f"{found.words.partition('. ')[0].rstrip('.')}."


def evidence(report: Report, *, estimator: str = "", jobs: tuple[str, ...] = (), part: str = "") -> str:
    """Run, states, examples and what picked them, estimator, machine and jobs, in one line."""
    selection, method, source = report.selection, report.method, report.provenance
    estimator = estimator or f"{method.method}/{method.curvature}/{method.readout}"
    which = ", ".join(filter(None, (chosen(selection), part)))
    about = f"evaluation {selection.evaluation[:SHORT]}, n = {selection.n:,} ({which})"
    how = f"{selection.performance}, {estimator}, {method.semantics}"
    return _line(report, about, how, source, f"seed {source.get('seed')}", jobs)


def evidence_of(report: Report, check: Check) -> str:
    """The same of a retraining, as its own result says; its question need not be that of the report."""
    source, asked = check.provenance, check.request
    which = "" if asked is None else f" ({_rows(asked.examples)})"
    n = "not recorded" if check.n is None else f"{check.n:,}"
    about = f"evaluation {(check.evaluation or 'not recorded')[:SHORT]}, n = {n}{which}"
    how = ", ".join(part for part in (check.performance, estimator_of(check), check.semantics) if part)
    return _line(report, about, how, source, "", (check.job,) if check.job else ())


def estimator_of(check: Check) -> str:
    """The estimator of a retraining's estimate; empty where it is not recorded, or there is none."""
    named = [check.provenance.get(part) for part in ("method", "curvature", "readout")]
    return "/".join(str(part) for part in named) if all(named) else ""


def chosen(selection: Selection) -> str:
    """Which of the examples: all, or what picked them."""
    if selection.picks is not None:
        return f"picked by {selection.picks.words}"
    return "all" if selection.examples == "all" else _rows(ranges(int(i) for i in selection.examples))


def _rows(numbers: str) -> str:
    """ "rows 3,7-9"; very many are cut: their digest stands beside them."""
    shown = numbers if len(numbers) <= MOST_NUMBERS else f"{numbers[:MOST_NUMBERS].rpartition(',')[0]},..."
    return f"rows {shown}" if numbers else "all"


def _line(report: Report, about: str, how: str, source: Mapping[str, Any], seed: str, jobs: Sequence[str]) -> str:
    machine = f"{source['dtype']} on {source['device']}, " if "dtype" in source else "machine not recorded, "
    parts = (
        f"run {report.run.digest[:SHORT]}",
        _states(report),
        about,
        how,
        f"{machine}code {source.get('code', 'not recorded')}"
        + (f", torch {source['torch']}" if "torch" in source else ""),
        seed,
        f"jobs {', '.join(jobs)}" if jobs else "no job",
    )
    return "; ".join(part for part in parts if part)


def _states(report: Report) -> str:
    stored = report.run.checkpoints
    return f"{len(stored)} states, the last {stored[-1].sha256[:SHORT]}" if stored else "states in memory"


def effect(value: Number, scale: float | None = None, note: str = "") -> Cell:
    """A signed effect, marked as help or hurt."""
    return Cell(
        glossary.fmt_effect(value, scale), note, "up" if (value or 0) > 0 else "down" if (value or 0) < 0 else ""
    )


def scale_of_stages(report: Report) -> float:
    """What all effects of stages are formatted by."""
    return glossary.scale_of(v for r in report.stages for v in (r.mean, r.low, r.high))


def stated(text: str) -> str:
    """What the auditor said, or that nothing was said."""
    return text or "Not stated."
