"""What was checked: every retraining, the calibration, and what was found."""

from __future__ import annotations

from collections.abc import Iterator

from aa_core.confidence.calibration import BROUGHT
from aa_core.reporting import glossary
from aa_core.reporting.answer import Truth
from aa_core.reporting.blocks import Block, Cell, Facts, Figure, Heading, Link, Paragraph, Table
from aa_core.reporting.links import view, view_of, views
from aa_core.reporting.model import CalibrationSection, Check, Report, ReportedFinding
from aa_core.reporting.pages.basis import (
    NOISE,
    SHORT,
    basis,
    effect,
    estimator_of,
    evidence,
    evidence_of,
    scale_of_stages,
    verdict,
)
from aa_core.reporting.pages.front import plural

MOST_SCATTERS = 3
UNLISTED = "What was trained from Python, or by aa experiment, leaves no job, and is not listed."
EVIDENCE = {
    "question": "Question",
    "estimate": "Estimated effect",
    "estimator": "Estimator",
    "reliability": "Reliability",
    "retrained": "Retrained",
    "result_digest": "Digest of the result",
    "run_digest": "Digest of the run",
    "examples_digest": "Digest of performance and examples",
}


def retrainings(report: Report, truths: dict[str, Truth]) -> Iterator[Block]:
    """Estimates beside real trainings; those that failed too."""
    yield Heading("Checked by retraining")
    if not report.checks and not truths:
        yield Paragraph("No retraining of this run is stored in this workspace.")
    if truths:
        yield _pairs(report, truths)
    if report.checks:
        yield Paragraph(
            "Each line is a real training, from the recorded start of the change to the end, on the recorded batches. "
            "All jobs of this workspace that were to train again are listed, those that failed or were cancelled too. "
            f"{UNLISTED}"
        )
        yield _table(report)
        for check in [c for c in report.checks if c.points is not None][:MOST_SCATTERS]:
            yield _scatter(report, check)
    if report.calibration is not None:
        yield from _calibration(report, report.calibration)


def _pairs(report: Report, truths: dict[str, Truth]) -> Figure:
    rows = [r for r in report.stages if r.stage in truths]
    name = report.selection.performance
    jobs = tuple(t.source.removeprefix("job ") for t in truths.values() if t.source.startswith("job "))
    return Figure(
        "pairs",
        "Estimated and retrained",
        {
            "name": [r.stage for r in rows],
            "first": [r.mean for r in rows],
            "second": [truths[r.stage].effect for r in rows],
            "words": ["estimated", "retrained"],
            "performance": name,
            "unit": report.selection.unit,
        },
        f"Estimated effects (pale) beside those of a real retraining without the stage, on the mean {name}. "
        + basis(report, "stage", report.reliability),
        "The table of the results has the values.",
        evidence(report, jobs=jobs),
        _what_ifs(report, truths),
    )


def _what_ifs(report: Report, truths: dict[str, Truth]) -> Link:
    """Where the pairs are: each in its what-if, if the same estimator asked that, or all beside the calibration."""
    if all(truth.source == "calibration" for truth in truths.values()):
        return view(report, "reliability")
    how = report.method
    same = {f"job {c.job}" for c in report.checks if estimator_of(c) == f"{how.method}/{how.curvature}/{how.readout}"}
    by = {s: {"skip": s} for s, truth in truths.items() if truth.source in same}
    if not by:
        return Link(instead="these were retrained beside another estimate, which the dashboard would show")
    return views(report, "what-if", by)


def _table(report: Report) -> Table:
    return Table(
        "Mean effect of what was left out, estimated and retrained.",
        ("What if", "n", "Estimated", "Retrained", "r", "Same sign", "Error", "Time"),
        tuple(_check(c, scale_of_stages(report)) for c in report.checks),
        f"Unit, estimator and trust of each below its name; {glossary.sign()}. r, sign agreement and error (mean "
        "difference over mean size) are over the n examples of each.",
        f"run {report.run.digest[:SHORT]}; performance, evaluation, code and job of each below its name",
    )


def _check(c: Check, scale: float) -> tuple[Cell, ...]:
    told = (
        c.semantics,
        c.performance,
        c.unit,
        estimator_of(c),
        c.evaluation and f"evaluation {c.evaluation[:SHORT]}",
        c.provenance.get("code") and f"code {c.provenance['code']}",
        c.job and f"job {c.job}",
        c.earlier and plural(len(c.earlier), "earlier attempt"),
        c.status,
    )
    believed = f". {_believed(c)}" if c.mean_estimate is not None else ""
    return (
        Cell(c.counterfactual, ", ".join(t for t in told if t) + believed),
        Cell(f"{c.n:,}" if c.n is not None else "–"),
        effect(c.mean_estimate, scale),
        effect(c.mean_truth, scale),
        Cell(glossary.fmt_correlation(c.agreement.get("pearson"))),
        Cell(glossary.fmt_percent(c.agreement.get("sign"))),
        Cell(glossary.fmt_percent(c.agreement.get("relative_error"))),
        Cell(glossary.fmt_seconds(c.seconds)),
    )


def _scatter(report: Report, check: Check) -> Figure:
    points = check.points
    assert points is not None
    shown, name = len(points.example), check.performance or report.selection.performance
    thinned = f" {shown:,} of {points.of:,} points are drawn." if shown < points.of else ""
    r = glossary.fmt_correlation(check.agreement.get("pearson"))
    return Figure(
        "scatter",
        f"Example by example: {check.counterfactual}",
        {
            **points.model_dump(include={"example", "estimate", "truth"}),
            "performance": name,
            "unit": check.unit,
        },
        f"Estimated against retrained effect on {name}, one point an example; {glossary.sign()}; n = {points.of:,}, "
        f"r = {r}.{thinned} On the diagonal the estimate is right. {_believed(check)}",
        "The table above has the figures of agreement.",
        evidence_of(report, check),
        view_of(report, check),
    )


def _believed(check: Check) -> str:
    """The verdict on its own estimate, as it stood before the retraining."""
    said = check.reliability.partition(". ")[0].rstrip(".")
    return f"Said before it: {said}." if said else "How far its estimate could be believed was not recorded."


def _calibration(report: Report, found: CalibrationSection) -> Iterator[Block]:
    yield Heading("Calibration", 3)
    other = "" if found.same_question else " It was measured on other examples or another performance than this report."
    who = "Measured here" if found.here else f"{BROUGHT[0].upper()}{BROUGHT[1:]}"
    yield Paragraph(
        f"{who} (on {found.where}). Every stage was really left out once, on {found.performance}, {found.values:,} "
        f"values, and every estimator was compared with that.{other} {found.below_noise:,} pairs of stage and value "
        f"were within noise and count for nothing. Preferred for this run: {found.preferred or 'none'} ({found.rule})."
    )
    scale = glossary.scale_of([*found.truth, *found.estimate])
    estimates = found.estimate or (None,) * len(found.stages)
    unit = glossary.unit_words(found.unit)
    believed = f" {verdict(report.reliability)}" if found.same_question else ""
    words = f"{unit[0].upper()}{unit[1:]}; n = {found.values:,}; {glossary.sign()}.{believed}"
    source = (
        f"run {report.run.digest[:SHORT]}; evaluation {found.evaluation[:SHORT]}, n = {found.values:,} (all); "
        f"{found.performance}, {report.method.semantics}; {found.where}; code {found.code}"
    )
    yield Table(
        "The true mean effect of each stage, and its estimate.",
        ("Stage", "Estimated", "Retrained", "Above the noise"),
        tuple(
            (Cell(s), effect(e, scale), effect(t, scale), Cell(_above(t, found.noise_of_mean)))
            for s, e, t in zip(found.stages, estimates, found.truth, strict=True)
        ),
        words,
        source,
    )
    yield Table(
        "Every estimator against retraining.",
        ("Estimator", "r", "Rank r", "Same sign", "Error", "Same sign, means", "Error, means"),
        tuple(
            (
                Cell(e.name, "used in this report" if e.used else ""),
                Cell(glossary.fmt_correlation(e.pearson)),
                Cell(glossary.fmt_correlation(e.spearman)),
                Cell(glossary.fmt_percent(e.sign)),
                Cell(glossary.fmt_percent(e.error)),
                Cell(glossary.fmt_percent(e.stage_sign)),
                Cell(glossary.fmt_percent(e.stage_error)),
            )
            for e in found.estimators
        ),
        "Over all pairs of stage and value, and over the stages’ means. The path share answers another question: what "
        "the performance gained meanwhile.",
        source,
    )


def _above(truth: float | None, noise: float | None) -> str:
    if truth is None or noise is None:
        return "not known"
    return NOISE if abs(truth) <= noise else "yes"


def findings(report: Report) -> Iterator[Block]:
    """What the auditor claims, and what each claim rests on."""
    yield Heading("Findings")
    if not report.ledger.findings:
        yield Paragraph("No finding is entered in the ledger of this run.")
    for finding in report.ledger.findings:
        yield from _finding(finding)
    if report.ledger.entries:
        yield Paragraph(f"From a ledger of {report.ledger.entries} entries; head {report.ledger.head}.", "note")


def _finding(f: ReportedFinding) -> Iterator[Block]:
    yield Heading(f"{f.id}: {f.claim}", 3)
    if f.changed:
        yield Paragraph(f"The inputs have changed since: {'; '.join(f.changed)}.", "warning")
    signed = "; ".join(s.words for s in f.sign_off)
    yield Facts(
        (
            ("Severity", f.severity),
            ("Status", f.status),
            ("Rests on", f.rule),
            *((label, str(f.evidence[key])) for key, label in EVIDENCE.items() if f.evidence.get(key)),
            ("Recommendation", f.recommendation or "None."),
            ("Entered", f"{f.at}, {f.by}"),
            *([("Checked", f"{f.checked_at}, {f.checked_by}")] if f.checked_at else []),
            ("Signed off", signed or "Not signed off."),
        )
    )
