"""The ledger of findings, and what was entered when, as the sections of a report."""

from __future__ import annotations

from aa_core.findings import RULES, Added, Checked, Finding, changes, findings, question, read_ledger
from aa_core.findings.entries import Entry
from aa_core.reporting.glossary import fmt_effect
from aa_core.reporting.model import Event, Ledger, ReportedFinding
from aa_core.runs.trajectory import Trajectory


def ledger_section(run: Trajectory) -> Ledger:
    """Every finding on the run as it stands, and the digest of the ledger."""
    known = read_ledger(run)
    return Ledger(
        findings=tuple(_reported(run, f) for f in findings(known)), entries=len(known.entries), head=known.head
    )


def ledger_events(run: Trajectory) -> tuple[Event, ...]:
    """Every entry of the ledger: who, when, what."""
    return tuple(_event(entry) for entry in read_ledger(run).entries)


def _event(entry: Entry) -> Event:
    act, name = entry.act, f"F{entry.finding}"
    if isinstance(act, Added):
        what, how = f"{name} entered: {act.claim}", "estimate only"
    elif isinstance(act, Checked):
        what, how = f"{name} checked by retraining (job {act.job})", act.kind
    else:
        what, how = f"{name} signed off by {act.signature.name}, {act.signature.role}", f"dated {act.signature.date}"
    return Event(at=entry.at, who=entry.by, what=what, how=how)


def _reported(run: Trajectory, f: Finding) -> ReportedFinding:
    evidence, checked = f.added.evidence, f.checked
    signed = "helped" if evidence.counterfactual.skips_stages else "training as recorded did better"
    measured = None if checked is None else f"{fmt_effect(checked.effect)} {evidence.unit} (job {checked.job})"
    return ReportedFinding(
        id=f.id,
        claim=f.added.claim,
        severity=f.added.severity,
        status=f.standing,
        rule=f"The {f.added.extent} of the effect. {RULES[f.added.extent]}",
        evidence={
            "question": question(evidence),
            "estimate": f"{fmt_effect(evidence.effect)} {evidence.unit}, n = {evidence.n:,}; positive = {signed}",
            "estimator": f"{evidence.method}, {evidence.curvature}, {evidence.readout}",
            "reliability": evidence.reliability,
            "retrained": measured,
            "result_digest": None if checked is None else checked.result,
            "run_digest": evidence.run,
            "examples_digest": evidence.evaluation,
        },
        changed=changes(run, evidence),
        recommendation=f.added.recommendation,
        by=f.by,
        at=f.at,
        sign_off=f.signatures,
        checked_by=f.checked_by,
        checked_at=f.checked_at,
    )
