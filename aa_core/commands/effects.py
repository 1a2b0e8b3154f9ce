"""`aa effects`: how much each stage or step of a training helped."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aa_core.checkpoints_only.checkpoints import CheckpointRun
from aa_core.commands import checkpoints
from aa_core.commands.base import ProblemOption, epilog
from aa_core.commands.console import Format, Meter, note, rows, write_rows
from aa_core.commands.options import (
    ExamplesOption,
    FormatOption,
    MethodOption,
    Output,
    PerformanceOption,
    Run,
    SemanticsOption,
    open_any_told,
    problem_of,
)
from aa_core.confidence.borne_out import with_calibration
from aa_core.confidence.remainder import with_remainders
from aa_core.curvature import Curvature
from aa_core.effects.attribution import Attribution, stage_effects, step_effects
from aa_core.effects.embedding import Readout
from aa_core.run_performance import run_performance


def effects(
    run: Run,
    by: Annotated[Literal["stage", "step"], typer.Option(help="Unit of the training to attribute to.")] = "stage",
    performance: PerformanceOption = "log-likelihood",
    examples: ExamplesOption = None,
    mean: Annotated[bool, typer.Option("--mean", help="The mean over the examples, as one value.")] = False,
    method: MethodOption = None,
    curvature: Annotated[
        Curvature | None,
        typer.Option(
            help="How a change is propagated through later steps.",
            show_default="as calibrated, else exact; ggn where only checkpoints are known",
        ),
    ] = None,
    readout: Annotated[
        Readout | None,
        typer.Option(
            help="How a change of parameters becomes one of performance.",
            show_default="as calibrated, else linear; displaced where only checkpoints are known",
        ),
    ] = None,
    semantics: SemanticsOption = "freeze",
    bounds: Annotated[
        bool, typer.Option("--bounds", help="Also bound the error of every stage's mean effect: some more replays.")
    ] = False,
    problem: ProblemOption = None,
    format: FormatOption = None,
    output: Output = None,
) -> None:
    """How much each stage or step of the training helped: estimates. Steps cost one sweep per value: use --mean."""
    opened = open_any_told(run)
    judged = run_performance(opened, performance, rows(examples))
    judged = judged.mean() if mean else judged
    meter = Meter()
    common: dict[str, Any] = {"semantics": semantics, "progress": partial(meter, "attributing")}
    plain = (method or "boundary", readout or "linear") == ("boundary", "linear")
    if bounds and not (plain and by == "stage" and semantics == "freeze"):
        raise typer.BadParameter("only for stages, boundary, linear, freeze", param_hint="--bounds")
    if by == "step" and not plain:
        raise typer.BadParameter("steps have one method and readout", param_hint="--method, --readout")
    if isinstance(opened, CheckpointRun):
        common |= {"by": by, "method": method, "curvature": curvature, "readout": readout}
        found = checkpoints.effects(opened, problem_of(opened, problem), judged, **common)
    elif by == "step":
        found = step_effects(opened, problem_of(opened, problem), judged, curvature=curvature or "exact", **common)
    else:
        common |= {"method": method or ("boundary" if bounds else None), "curvature": curvature, "readout": readout}
        found = stage_effects(opened, problem_of(opened, problem), judged, **common)
    if not isinstance(opened, CheckpointRun):
        found = with_calibration(found, opened, performance)
    if bounds:
        found = with_remainders(found, opened, problem_of(opened, problem), judged, common["progress"])
    _write_effects(found, format, output)


def _write_effects(found: Attribution, format: Format | None, output: Path | None) -> None:
    about = {"provenance": found.provenance, "reliability": found.reliability.to_dict()}
    write_rows(found.to_frame(), format, output, about)
    asked = found.provenance
    how = ", ".join(asked[name] for name in ("semantics", "method", "curvature", "readout"))
    note(f"{asked['performance']} in {found.unit}, n = {asked['n']}; {asked['sign']}; {how}")
    note(found.reliability.words)
    small = found.within_noise()
    if small is not None and bool(small.any()):
        note(f"{int(small.sum())} of {small.numel()} effects are within noise: retraining itself moves as much")
    for bound in found.reliability.remainders:
        note(bound.words)


def register(app: typer.Typer) -> None:
    """Offer the command."""
    app.command(
        epilog=epilog(
            "aa effects my_run --by stage --mean",
            "aa effects my_run --by step --examples 0,1,5-9 --mean --format csv -o steps.csv",
        )
    )(effects)
