"""What no number goes without: unit, sign, n, reliability, and where it comes from."""

from __future__ import annotations

from aa_core.reporting import glossary
from aa_core.reporting.blocks import Cell
from aa_core.reporting.model import ReliabilitySection, Report
from aa_core.reporting.recorded import Number

SHORT = 12
NOISE = "within noise"


def basis(report: Report, thing: str, found: ReliabilitySection | None = None) -> str:
    """Unit, number of examples, sign convention, and the verdict in words."""
    unit = glossary.unit_words(report.selection.unit)
    said = f"{unit[0].upper()}{unit[1:]}; n = {report.selection.n:,}; {glossary.sign(thing)}."
    return f"{said} {verdict(found)}" if found else said


def verdict(found: ReliabilitySection) -> str:
    """What it may be trusted for; the reasons stand in the section on that."""
    return f"{found.words.partition('. ')[0].rstrip('.')}."


def evidence(report: Report, *, estimator: str = "", jobs: tuple[str, ...] = (), part: str = "") -> str:
    """Run, states, examples, estimator, machine and jobs, in one line."""
    run, selection, method, source = report.run, report.selection, report.method, report.provenance
    estimator = estimator or f"{method.method}/{method.curvature}/{method.readout}"
    whole = "all" if selection.examples == "all" else "picked"
    return "; ".join(
        [
            f"run {run.digest[:SHORT]}",
            _states(report),
            f"evaluation {selection.evaluation[:SHORT]}, n = {selection.n:,} ({part or whole})",
            f"{selection.performance}, {estimator}, {method.semantics}",
            f"{source.get('dtype')} on {source.get('device')}, code {source.get('code')}, torch {source.get('torch')}",
            f"seed {source.get('seed')}",
            f"jobs {', '.join(jobs)}" if jobs else "no job",
        ]
    )


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
