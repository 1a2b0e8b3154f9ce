"""`aa whatif --each`: many counterfactuals of one run, here one after another or as a fleet on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import pandas as pd
import typer

from aa_core.commands.console import Meter, note
from aa_core.commands.whatif_options import counterfactual
from aa_core.counterfactuals.counterfactual import Counterfactual, Semantics
from aa_core.jobs import Job, JobSpec, Outcome, perform
from aa_core.jobs.cluster import run_fleet
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


def separately(
    run: Trajectory, skip: Sequence[str], steps: Sequence[str], semantics: Semantics, rest: Sequence[object]
) -> list[Counterfactual]:
    """Every named stage and range of steps by itself; every stage of the run where none is named."""
    if any(option is not None and option != [] for option in rest):
        raise typer.BadParameter("goes with --skip and --steps only", param_hint="--each")
    stages = list(skip) or ([] if steps else [s.name for s in run.stages if len(s)])
    asked: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((stage,), ()) for stage in stages]
    asked += [((), (text,)) for text in steps]
    return [counterfactual(stage, span, None, (), None, semantics) for stage, span in asked]


def answers(specs: Sequence[JobSpec], executor: Executor, address: str | None) -> pd.DataFrame:
    """One row a counterfactual: effects are means over the examples, positive = training as recorded did better."""
    if executor == "here":
        if address is not None:
            raise typer.BadParameter("goes with --executor ray", param_hint="--address")
        return pd.DataFrame([_row(perform(spec, Meter())) for spec in specs])
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
        "unit": result["unit"],
        "n": result["n"],
        "pearson": result["agreement"]["pearson"],
        "steps replayed": result["steps_replayed"],
        "reliability": "" if words is None else words["words"],
    }
