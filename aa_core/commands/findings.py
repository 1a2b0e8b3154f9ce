"""`aa findings RUN ...`: enter a claim, have a retraining confirm or refute it, sign it off."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer

from aa_core.commands.base import ProblemOption, epilog
from aa_core.commands.console import Format, Meter, note, rows, write_rows
from aa_core.commands.options import (
    CurvatureOption,
    ExamplesOption,
    PerformanceOption,
    ReadoutOption,
    Run,
    SemanticsOption,
    open_told,
    problem_of,
)
from aa_core.commands.whatif_options import ChangeOption, ScaleOption, StepsOption, WithoutOption, counterfactual
from aa_core.effects.estimate import estimate
from aa_core.findings import (
    Added,
    Finding,
    Signature,
    changes,
    check,
    evidence_of,
    find_finding,
    findings,
    question,
    read_ledger,
    sign,
)
from aa_core.findings import add as enter
from aa_core.findings.entries import Evidence, Extent, Severity
from aa_core.jobs import Job, submit, whatif_spec
from aa_core.run_performance import run_performance
from aa_core.runs.trajectory import Trajectory

PAUSE = 0.2
"""Seconds between two looks at a retraining."""
ledger = typer.Typer(
    help="What was found in a run: claims, confirmed or refuted by retraining only, and who answers for them.",
    short_help="Enter, check and sign off findings.",
    epilog=epilog(
        'aa findings my_run add --stage "stage two" --claim "It hurt." --severity high',
        'aa findings my_run add --change finetune:lr=0.5x --claim "Half the rate is better."',
        "aa findings my_run confirm F1 --retrain",
    ),
    no_args_is_help=True,
)
Id = Annotated[str, typer.Argument(metavar="FINDING", help="Such as F1.", show_default=False)]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who enters it; by default the user of this machine.")]
Retrain = Annotated[bool, typer.Option("--retrain", help="Really train that way first, if that is not done.")]


@ledger.callback()
def ledger_of(ctx: typer.Context, run: Run) -> None:
    """See `ledger`."""
    ctx.obj = run


@ledger.command("list")
def listed(
    ctx: typer.Context, format: Annotated[Format, typer.Option("--format", help="How to print them.")] = "table"
) -> None:
    """All findings on the run, as they stand."""
    run = open_told(ctx.obj)
    known = read_ledger(run)
    frame = pd.DataFrame([_row(run, f) for f in findings(known)])
    if frame.empty:
        note("no findings yet; enter one with: aa findings RUN add")
    write_rows(frame, format, None, {"entries": len(known.entries), "head": known.head})


def _row(run: Trajectory, f: Finding) -> dict[str, object]:
    evidence = f.added.evidence
    return {
        "id": f.id,
        "severity": f.added.severity,
        "status": f.standing,
        "claim": f.added.claim,
        "effect": evidence.effect,
        "retrained": None if f.checked is None else f.checked.effect,
        "unit": evidence.unit,
        "n": evidence.n,
        "inputs": "changed" if changes(run, evidence) else "as pinned",
        "signed by": ", ".join(s.name for s in f.signatures),
    }


@ledger.command()
def add(
    ctx: typer.Context,
    claim: Annotated[str, typer.Option(help="What you claim, in a sentence.")],
    stage: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="The stage it is about; repeat it for several.")
    ] = None,
    steps: StepsOption = None,
    without_example: WithoutOption = None,
    change: ChangeOption = None,
    scale: ScaleOption = None,
    severity: Annotated[Severity, typer.Option(help="How grave it is.")] = "medium",
    extent: Annotated[Extent, typer.Option(help="Whether the claim is about the sign, or the size of the effect.")] = (
        "sign"
    ),
    recommendation: Annotated[str, typer.Option(help="What should be done.")] = "",
    performance: PerformanceOption = "log-likelihood",
    examples: ExamplesOption = None,
    curvature: CurvatureOption = None,
    readout: ReadoutOption = None,
    semantics: SemanticsOption = "freeze",
    by: By = None,
    problem: ProblemOption = None,
) -> None:
    """Estimate the effect of what is named now, and enter a claim that rests on it."""
    what = counterfactual(stage or (), steps or (), without_example, change or (), scale, semantics, "--stage")
    run, picked = open_told(ctx.obj), rows(examples)
    judged, meter = run_performance(run, performance, picked), Meter()
    found = estimate(
        run,
        problem_of(run, problem),
        what,
        judged,
        readout=readout,
        curvature=curvature,
        progress=lambda done, total: meter("estimating", done, total),
    )
    evidence = evidence_of(found, what, picked)
    entered = enter(
        run,
        Added(claim=claim, severity=severity, extent=extent, evidence=evidence, recommendation=recommendation),
        by or getpass.getuser(),
    )
    _tell(entered)


@ledger.command()
def confirm(
    ctx: typer.Context, finding: Id, retrain: Retrain = False, by: By = None, problem: ProblemOption = None
) -> None:
    """Enter that a stored retraining bears the claim out; refused, with the reason, if none does."""
    _check(ctx.obj, finding, "confirmed", retrain, by, problem)


@ledger.command()
def refute(
    ctx: typer.Context, finding: Id, retrain: Retrain = False, by: By = None, problem: ProblemOption = None
) -> None:
    """Enter that a stored retraining contradicts the claim; refused, with the reason, if none does."""
    _check(ctx.obj, finding, "refuted", retrain, by, problem)


def _check(
    path: Path,
    finding: str,
    wanted: Literal["confirmed", "refuted"],
    retrain: bool,
    by: str | None,
    problem: str | None,
) -> None:
    run = open_told(path)
    if retrain:
        _retrain(run, find_finding(run, finding).added.evidence, problem)
    _tell(check(run, finding, wanted, by or getpass.getuser()))


def _retrain(run: Trajectory, evidence: Evidence, problem: str | None) -> None:
    """The retraining of the question, as a job that stays in the workspace; waits until it is over."""
    spec = whatif_spec(
        run,
        evidence.counterfactual,
        evidence.performance,
        evidence.examples,
        method=evidence.counterfactual.method_like(evidence.method),
        readout=evidence.readout,
        curvature=evidence.curvature,
        problem=problem,
    )
    job, meter = submit(spec).retry(), Meter()
    while job.living:
        _progress(job, meter)
        time.sleep(PAUSE)
    job.result()


def _progress(job: Job, meter: Meter) -> None:
    if (at := job.progress) is not None:
        meter(at.phase, at.done, at.total)


@ledger.command("sign-off")
def sign_off(
    ctx: typer.Context,
    finding: Id,
    name: Annotated[str, typer.Option(help="Who answers for it.")],
    role: Annotated[str, typer.Option(help="As what.")],
    date: Annotated[str, typer.Option(help="When, as you would write it.")],
    statement: Annotated[str, typer.Option(help="What is said with it.")] = "",
    by: By = None,
) -> None:
    """Enter who answers for a finding as it stands."""
    run = open_told(ctx.obj)
    signature = Signature(name=name, role=role, date=date, statement=statement)
    _tell(sign(run, finding, signature, by or getpass.getuser()))


def _tell(f: Finding) -> None:
    evidence = f.added.evidence
    typer.echo(f"{f.id}  {f.standing}  {f.added.severity}  {f.added.claim}")
    note(
        f"{question(evidence)}: estimated {evidence.effect:+.4g} {evidence.unit}"
        + (f", retrained {f.checked.effect:+.4g} (job {f.checked.job})" if f.checked else "")
        + f"; {evidence.reliability}"
    )
