"""Findings as they stand: entered as estimates, confirmed or refuted by stored retrainings only, then signed off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from aa_core.confidence.calibration import find_calibration
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.effects.attribution import Attribution
from aa_core.errors import RequestError, RunError
from aa_core.findings.entries import Added, Checked, Evidence, Signature, Signed, Standing
from aa_core.findings.ledger import Ledger, append, read_ledger
from aa_core.findings.rule import RULES, Judgement, judge
from aa_core.jobs import Job, all_jobs
from aa_core.jobs.kinds import asked_counterfactual
from aa_core.jobs.spec import RESULT
from aa_core.run_performance import run_performance
from aa_core.runs.trajectory import Trajectory
from aa_core.runs.verified import sha256


@dataclass(frozen=True)
class Finding:
    """One claim, with what it rests on."""

    id: str
    added: Added
    at: str
    by: str
    checked: Checked | None
    signatures: tuple[Signature, ...]
    checked_at: str = ""
    checked_by: str = ""

    @property
    def standing(self) -> Standing:
        if self.checked is None:
            return "estimate only"
        return "confirmed by retraining" if self.checked.kind == "confirmed" else "refuted by retraining"


def findings(ledger: Ledger) -> tuple[Finding, ...]:
    """The findings of a ledger, in the order in which they were entered; the last check of each counts."""
    found: dict[int, Finding] = {}
    for entry in ledger.entries:
        known = found.get(entry.finding)
        match entry.act:
            case Added():
                found[entry.finding] = Finding(f"F{entry.finding}", entry.act, entry.at, entry.by, None, ())
            case Checked() if known:
                found[entry.finding] = replace(known, checked=entry.act, checked_at=entry.at, checked_by=entry.by)
            case Signed() if known:
                found[entry.finding] = replace(known, signatures=(*known.signatures, entry.act.signature))
    return tuple(found.values())


def find_finding(run: Trajectory, name: str) -> Finding:
    """The finding of that id, "F1"; RequestError if there is none."""
    known = findings(read_ledger(run))
    for finding in known:
        if finding.id == name.upper():
            return finding
    raise RequestError(f"there is no finding {name!r}; this run has {', '.join(f.id for f in known) or 'none'}")


def add(run: Trajectory, added: Added, by: str, at: str | None = None) -> Finding:
    """Enter a claim: an estimate, until a retraining says more. RequestError if its evidence is not of this run."""
    if changed := changes(run, added.evidence):
        raise RequestError(f"this evidence is not of the run as it is now: {'; '.join(changed)}")
    entry = append(run, added, None, by, at)
    return find_finding(run, f"F{entry.finding}")


def judged(run: Trajectory, finding: Finding) -> tuple[tuple[Judgement, Job, float], ...]:
    """(what it says, the job, the effect that it measured) of every stored retraining of the finding's question."""
    evidence = finding.added.evidence
    noise = noise_of(run, evidence)
    measured = ((job, float(job.result()["mean_truth"])) for job in backing(evidence))
    return tuple((judge(evidence.effect, truth, finding.added.extent, noise), job, truth) for job, truth in measured)


def check(
    run: Trajectory, name: str, wanted: Literal["confirmed", "refuted"], by: str, at: str | None = None
) -> Finding:
    """Enter that a finding is "confirmed" or "refuted", if a stored retraining of its very question says so.

    Raises RequestError otherwise: there is none, or it says something else.
    """
    finding = find_finding(run, name)
    evidence, extent = finding.added.evidence, finding.added.extent
    if changed := changes(run, evidence):
        raise RequestError(f"{finding.id} cannot be {wanted}: its inputs have changed: {'; '.join(changed)}")
    noise, measured = noise_of(run, evidence), judged(run, finding)
    if not measured:
        raise RequestError(
            f"{finding.id} cannot be {wanted}: no retraining of its question is stored in this workspace "
            f"({question(evidence)}). Retrain it first"
        )
    for says, job, truth in measured:
        if says == wanted:
            result = sha256((job.folder / RESULT).read_bytes())
            act = Checked(kind=wanted, job=job.id, result=result, effect=truth, noise=noise)
            append(run, act, _number(finding), by, at)
            return find_finding(run, name)
    says, job, truth = measured[0]
    floor = "" if noise is None else f", noise floor {noise:.2g}"
    raise RequestError(
        f"{finding.id} cannot be {wanted}: the retraining (job {job.id}) measured {truth:+.4g} {evidence.unit}, the "
        f"estimate is {evidence.effect:+.4g}{floor}, which says {says}. {RULES[extent]}"
    )


def sign(run: Trajectory, name: str, signature: Signature, by: str, at: str | None = None) -> Finding:
    """Enter who answers for a finding, with the date that they give."""
    append(run, Signed(signature=signature), _number(find_finding(run, name)), by, at)
    return find_finding(run, name)


def backing(evidence: Evidence) -> Iterator[Job]:
    """The stored retrainings of the very question: run, change, semantics, performance and examples; newest first."""
    wanted = _in_order(evidence.counterfactual)
    for job in all_jobs():
        same = job.spec.kind == "whatif" and job.spec.digest == evidence.run and job.status == "done"
        same = same and _in_order(asked_counterfactual(job.spec)) == wanted
        if same and job.result()["provenance"]["evaluation"] == evidence.evaluation:
            yield job


def _in_order(what: Counterfactual) -> Counterfactual:
    """The order in which a question names things makes no difference."""
    named: dict[str, Any] = {
        n: tuple(sorted(set(getattr(what, n)))) for n in ("stages", "steps", "examples", "changes")
    }
    return replace(what, **named)


def changes(run: Trajectory, evidence: Evidence) -> tuple[str, ...]:
    """Which inputs are not those that the evidence was made from, in words; empty: it reopens."""
    found = []
    if run.digest != evidence.run:
        found.append(f"the run had digest {evidence.run[:12]}, now it has {run.digest[:12]}")
    try:
        judged = run_performance(run, evidence.performance, evidence.examples).digest
    except (RequestError, RunError) as error:
        return (*found, str(error))
    if judged != evidence.evaluation:
        found.append(f"performance and examples had digest {evidence.evaluation[:12]}, now {judged[:12]}")
    return tuple(found)


def evidence_of(
    found: Attribution, what: Counterfactual, examples: Sequence[int] | None = None, query: str = ""
) -> Evidence:
    """The mean of an estimate, pinned; `examples` of the evaluation set as they were asked for."""
    asked = found.provenance
    return Evidence(
        run=asked["run"],
        stages=what.stages,
        semantics=what.semantics,
        performance=asked["performance"],
        examples=None if examples is None else tuple(examples),
        n=asked["n"],
        evaluation=asked["evaluation"],
        method="boundary" if what.examples else asked["method"],
        curvature=asked["curvature"],
        readout=asked["readout"],
        effect=float(found.effects.mean()),
        unit=found.unit,
        reliability=found.reliability.words,
        query=query,
        code=asked["code"],
        **evidence_fields(what),
    )


def evidence_fields(what: Counterfactual) -> dict[str, Any]:
    """What was changed beside whole stages and semantics, as fields of the evidence."""
    changed = {c.hyper: c.text for c in what.changes}
    return {"steps": what.steps, "without": what.examples, "scale": float(what.scale), "changes": changed}


def noise_of(run: Trajectory, evidence: Evidence) -> float | None:
    """The stored noise floor of the mean effect on these very examples; None where none was measured."""
    known = find_calibration(run, evidence.evaluation, evidence.semantics)
    return None if known is None else known.noise_of_mean


def question(evidence: Evidence) -> str:
    """What was asked, in words."""
    on = "all examples" if evidence.examples is None else f"{evidence.n:,} picked examples"
    what = evidence.counterfactual
    return f"{what.name}, {what.manner}, {evidence.performance} on {on}"


def _number(finding: Finding) -> int:
    return int(finding.id.removeprefix("F"))
