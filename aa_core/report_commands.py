"""`aa report`: write a report of a run, or check one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from aa_core.console import Meter, note, rows
from aa_core.jobs import retrainings
from aa_core.options import (
    CurvatureOption,
    ExamplesOption,
    MethodOption,
    PerformanceOption,
    ProblemOption,
    ReadoutOption,
    Run,
    SemanticsOption,
    epilog,
    open_told,
    problem_of,
)
from aa_core.reporting import build_report, verify_file, write_report
from aa_core.run_performance import run_performance


class Reports(typer.core.TyperGroup):
    """`aa report RUN` is `aa report build RUN`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["build", *args])


reports = typer.Typer(
    cls=Reports,
    help="Write a report of a run, or check one. `aa report RUN` is `aa report build RUN`.",
    short_help="Write a report of a run, or check one.",
    epilog=epilog("aa report sample_runs/digits-shift/run -o report.html", "aa report verify report.html"),
    context_settings={"ignore_unknown_options": True},
    no_args_is_help=True,
)


@reports.command(
    epilog=epilog(
        "aa report build my_run -o report.html",
        'aa report build my_run --stage "stage two" --performance margin -o report.zip',
    )
)
def build(
    run: Run,
    output: Annotated[Path, typer.Option("-o", "--output", help="report.html, .json, .csv or .zip.")],
    stage: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Only these stages; repeat it for several.")
    ] = None,
    performance: PerformanceOption = "log-likelihood",
    examples: ExamplesOption = None,
    method: MethodOption = "boundary",
    curvature: CurvatureOption = "exact",
    readout: ReadoutOption = "linear",
    semantics: SemanticsOption = "freeze",
    date: Annotated[str | None, typer.Option(help="Printed as it is; without it the same input is the same file.")] = (
        None
    ),
    problem: ProblemOption = None,
) -> None:
    """Attribute, and write a report. Every what-if job on this run that is over is part of it."""
    opened = open_told(run)
    checks = retrainings(opened)
    meter = Meter()
    judged: Any = run_performance(opened, performance)
    made = build_report(
        opened,
        problem_of(opened, problem),
        performance=judged,
        examples=rows(examples),
        stages=stage,
        method=method,
        curvature=curvature,
        readout=readout,
        semantics=semantics,
        whatifs=checks,
        date=date,
        progress=lambda done, total: meter("attributing", done, total),
    )
    for path in write_report(made, output):
        note(f"wrote {path}")
    note(f"with {len(checks)} retraining{'s' * (len(checks) != 1)} from this machine's jobs")


@reports.command(epilog=epilog("aa report verify report.html", "aa report verify report.zip"))
def verify(file: Annotated[Path, typer.Argument(help="report.html, .json or .zip.", show_default=False)]) -> None:
    """Is a report as it was written, to the digit? Exits with 1 if not."""
    verify_file(file)
    typer.echo(f"{file}: as it was written")
