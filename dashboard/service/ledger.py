"""The ledger of findings: what is on screen is pinned, a stored retraining decides, people sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal
from urllib.parse import parse_qs, urlencode

from aa_core.access_log import Act
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.findings import (
    Added,
    Evidence,
    Finding,
    Judgement,
    Signature,
    add,
    changes,
    check,
    evidence_fields,
    findings,
    judged,
    question,
    read_ledger,
    sign,
)
from aa_core.findings.entries import Extent, Severity
from aa_core.jobs import Job, JobSpec, whatif_spec
from aa_core.run_performance import run_performance
from aa_core.runs.trajectory import Trajectory
from aa_core.version import __version__
from dashboard.selection import FILTERS, NOTHING, Selection, from_query, to_query
from dashboard.service import people
from dashboard.service.desk import Desk
from dashboard.service.engine import CHOSEN
from dashboard.service.estimates import picked
from dashboard.service.log import append
from dashboard.service.retraining import asking

__all__ = ["Extent", "Finding", "Judgement", "Severity", "Signature", "question"]


def possible(desk: Desk) -> bool:
    """Can a retraining check what is found here? Not where only checkpoints are known."""
    return isinstance(desk.run, Trajectory)


def pinned(desk: Desk, s: Selection, what: Counterfactual, effect: float, unit: str, words: str) -> Evidence:
    """The estimated effect of a change on what is selected, with everything that it was computed from."""
    examples = picked(desk, s)
    gamma = run_performance(desk.recorded, s.performance, examples)
    return Evidence(
        run=desk.run.digest,
        stages=what.stages,
        semantics=what.semantics,
        performance=s.performance,
        examples=examples,
        n=len(gamma),
        evaluation=gamma.digest,
        method=s.method,
        curvature=s.curvature,
        readout=s.readout,
        effect=effect,
        unit=unit,
        reliability=words,
        query=urlencode(to_query(s), doseq=True),
        code=__version__,
        **evidence_fields(what),
    )


def enter(
    desk: Desk, evidence: Evidence, claim: str, severity: Severity, extent: Extent, advice: str, by: str
) -> Finding:
    """A claim that rests on an estimate. `by` is who says so, unless people sign in: then it is who did."""
    made = Added(claim=claim, severity=severity, extent=extent, evidence=evidence, recommendation=advice)
    return _logged(add(desk.recorded, made, _author(by)), desk, "entered finding")


def listed(desk: Desk) -> tuple[Finding, ...]:
    """All findings on the run, newest first."""
    return findings(read_ledger(desk.recorded))[::-1]


def changed(desk: Desk, finding: Finding) -> tuple[str, ...]:
    """Which inputs are not those that it was pinned from."""
    return changes(desk.recorded, finding.added.evidence)


def says(desk: Desk, finding: Finding) -> tuple[Judgement, Job, float] | None:
    """What the newest stored retraining of its question says, and measured; None if there is none."""
    return next(iter(judged(desk.recorded, finding)), None)


def settle(desk: Desk, finding: Finding, wanted: Literal["confirmed", "refuted"], by: str) -> Finding:
    """Enter what a stored retraining says; RequestError if it says something else."""
    return _logged(check(desk.recorded, finding.id, wanted, _author(by)), desk, "checked finding")


def sign_off(desk: Desk, finding: Finding, signature: Signature, by: str) -> Finding:
    """Enter who answers for it."""
    return _logged(sign(desk.recorded, finding.id, signature, _author(by)), desk, "signed finding")


def _author(typed: str) -> str:
    """NotAllowedError unless it is an analyst."""
    person = people.require("analyst", "This writes to the ledger of findings")
    return person.name if people.signs_in() else typed


def _logged(finding: Finding, desk: Desk, act: Act) -> Finding:
    append(people.require("analyst", "This writes to the ledger of findings"), act, desk.run.digest, finding.id)
    return finding


def retraining_of(desk: Desk, finding: Finding) -> JobSpec:
    """The retraining of its very question, as a job."""
    e = finding.added.evidence
    how: Any = {"method": e.counterfactual.method_like(e.method), "readout": e.readout, "curvature": e.curvature}
    return whatif_spec(desk.recorded, e.counterfactual, e.performance, e.examples, problem=CHOSEN, **how)


def reopened(desk: Desk, finding: Finding) -> Selection | None:
    """The selection that it was pinned from; entered on the command line, that of its question.

    Where the saved subgroup of it is not known here, its own examples; None if those are too many for a link.
    """
    e = finding.added.evidence
    asked = from_query(parse_qs(e.query))[0] if e.query else _asking(e)
    if not asked.examples and asked.slice not in ("", *desk.facts().slices):
        unfiltered: dict[str, Any] = {name: getattr(NOTHING, name) for name in FILTERS}
        asked = replace(asked, **unfiltered, examples=e.examples or ())
    return asked if from_query(to_query(asked))[0] == asked else None


def _asking(e: Evidence) -> Selection:
    what, how = e.counterfactual, {n: getattr(e, n) for n in ("performance", "method", "curvature", "readout")}
    stage = e.stages[0] if in_explore(e) else ""
    return replace(NOTHING, digest=e.run[:12], examples=e.examples or (), stage=stage, **asking(what), **how)


def in_explore(evidence: Evidence) -> bool:
    """Is it about one whole stage, left out, which Explore shows? The rest is shown by What-if."""
    return evidence.counterfactual.skips_stages and len(evidence.stages) == 1
