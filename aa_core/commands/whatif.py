"""`aa whatif`: trainings with something changed, estimated and really made, here or as a fleet on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pandas as pd
import typer

from aa_core.commands.base import ProblemOption, epilog
from aa_core.commands.console import Meter, note, rows, write_rows
from aa_core.commands.options import (
    CurvatureOption,
    ExamplesOption,
    FormatOption,
    MethodOption,
    Output,
    PerformanceOption,
    ReadoutOption,
    Run,
    SemanticsOption,
    open_told,
)
from aa_core.commands.whatif_options import ChangeOption, ScaleOption, StepsOption, WithoutOption, counterfactual
from aa_core.counterfactuals.counterfactual import Counterfactual, Semantics
from aa_core.effects.attribution import SIGN
from aa_core.jobs import Job, JobSpec, Outcome, whatif_spec
from aa_core.jobs.cluster import run_fleet
from aa_core.jobs.worker import do_here
from aa_core.reporting.escape import visible
from aa_core.runs.trajectory import Trajectory

Executor = Literal["here", "ray"]
EachOption = Annotated[
    bool,
    typer.Option("--each", help="Every --skip and --steps by itself instead of all at once; by default every stage."),
]
ExecutorOption = Annotated[
    Executor,
    typer.Option(
        help="here: one after another; ray: all at once on a Ray cluster, one of this machine's own by default."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Of the Ray cluster: auto, ray://HOST:10001. It must ask a token (RAY_AUTH_MODE=token)."),
]


def whatif(
    run: Run,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="A stage to train without; repeat it for several at once.")
    ] = None,
    steps: StepsOption = None,
    without_example: WithoutOption = None,
    change: ChangeOption = None,
    scale: ScaleOption = None,
    performance: PerformanceOption = "log-likelihood",
    examples: ExamplesOption = None,
    method: MethodOption = None,
    curvature: CurvatureOption = None,
    readout: ReadoutOption = None,
    semantics: SemanticsOption = "freeze",
    each: EachOption = False,
    executor: ExecutorOption = "here",
    address: AddressOption = None,
    problem: ProblemOption = None,
    format: FormatOption = None,
    output: Output = None,
) -> None:
    """Train again with something changed, and compare with the estimate. Runs now; here, unless a cluster is asked."""
    if address is not None and executor != "ray":
        raise typer.BadParameter("goes with --executor ray", param_hint="--address")
    if each and not (without_example is None and not change and scale is None):
        raise typer.BadParameter("goes with --skip and --steps only", param_hint="--each")
    together = (
        None if each else counterfactual(skip or (), steps or (), without_example, change or (), scale, semantics)
    )
    opened = open_told(run)
    questions = [together] if together else separately(opened, skip or (), steps or (), semantics)
    specs = [
        whatif_spec(
            opened,
            what,
            performance,
            rows(examples),
            method=method,
            readout=readout,
            curvature=curvature,
            problem=problem,
        )
        for what in questions
    ]
    if each or executor == "ray":
        found = answers(specs, executor, address)
        write_rows(found, format, output, {"run": opened.digest, "sign": SIGN})
        raise typer.Exit(0 if len(found) == len(specs) else 1)
    (spec,) = specs
    outcome = do_here(spec, Meter())
    result = outcome.result
    if format is None and output is None:
        typer.echo(_whatif_text(result), nl=False)
    else:
        write_rows(outcome.tables["examples"], format, output, result)
    if result["reliability"]:
        note(result["reliability"]["words"])


def _whatif_text(found: dict[str, Any]) -> str:
    agreed = ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in found["agreement"].items() if k != "n" and v == v)
    return "".join(
        f"{name:<20} {visible(value)}\n"
        for name, value in {
            "what if": f"{found['counterfactual']} ({found['semantics']})",
            "performance": f"{found['performance']}, {found['unit']}, mean over n = {found['n']}",
            "recorded": f"{found['mean_recorded']:.6g}",
            "retrained": f"{found['mean_retrained']:.6g}  ({found['steps_replayed']} steps, {found['seconds']:.1f} s)",
            "effect, estimated": f"{found['mean_estimate']:+.6g}"
            if found["reliability"]
            else "none: it changes in steps",
            "effect, retrained": f"{found['mean_truth']:+.6g}  (positive = training as recorded did better)",
            "noise floor": _noise(found),
            "agreement": agreed or "not defined (no estimate, or fewer than 3 examples)",
        }.items()
    )


def _noise(found: dict[str, Any]) -> str:
    if found["noise"] is None:
        return "not measured here: aa calibrate"
    where = "within it: neither sign nor size means anything" if found["within_noise"] else "above it"
    return f"{found['noise']:.2g}  (the retrained effect is {where})"


def separately(
    run: Trajectory, skip: Sequence[str], steps: Sequence[str], semantics: Semantics
) -> list[Counterfactual]:
    """Every named stage and range of steps by itself; every stage of the run where none is named."""
    stages = list(skip) or ([] if steps else [s.name for s in run.stages if len(s)])
    asked: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((stage,), ()) for stage in stages]
    asked += [((), (text,)) for text in steps]
    return [counterfactual(stage, span, None, (), None, semantics) for stage, span in asked]


def answers(specs: Sequence[JobSpec], executor: Executor, address: str | None) -> pd.DataFrame:
    """One row a counterfactual: effects are means over the examples, positive = training as recorded did better."""
    if executor == "here":
        return pd.DataFrame([_row(do_here(spec, Meter())) for spec in specs])
    jobs = run_fleet(specs, address, watch=_Told())
    for job in jobs:
        if job.status != "done":
            note(f"{job.id}: {job.status}: {job.error}")
    if not (done := [job for job in jobs if job.status == "done"]):
        raise typer.Exit(1)
    return pd.DataFrame([_row(Outcome(job.result())) for job in done])


class _Told:
    """Says how many jobs are over whenever the number has changed."""

    def __init__(self) -> None:
        self._over = 0

    def __call__(self, jobs: Sequence[Job]) -> None:
        over = sum(not job.living for job in jobs)
        if over != self._over:
            self._over = over
            note(f"{over} of {len(jobs)} retrainings are over")


def _row(found: Outcome) -> dict[str, object]:
    result, words = found.result, found.result["reliability"]
    return {
        "what if": result["counterfactual"],
        "estimate": result["mean_estimate"],
        "truth": result["mean_truth"],
        "within noise": result["within_noise"],
        "unit": result["unit"],
        "n": result["n"],
        "pearson": result["agreement"]["pearson"],
        "steps replayed": result["steps_replayed"],
        "reliability": "" if words is None else words["words"],
    }


def register(app: typer.Typer) -> None:
    """Offer the command."""
    app.command(
        epilog=epilog(
            'aa whatif my_run --skip "stage two"',
            "aa whatif my_run --skip a --skip b --format json -o ab.json",
            "aa whatif my_run --skip a --scale 0.5",
            "aa whatif my_run --steps 40:60",
            "aa whatif my_run --change finetune:lr=0.5x --change finetune:momentum=0.8",
            'aa whatif my_run --change "finetune:lr=cosine 0.1 to 0"',
            "aa whatif my_run --without-example 3,7-9",
            "aa whatif my_run --each                              # every stage by itself",
            "aa whatif my_run --each --executor ray               # as a fleet on a Ray cluster",
        )
    )(whatif)
