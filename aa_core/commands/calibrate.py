"""`aa calibrate`: every stage really left out once, and every estimator compared with that."""

from __future__ import annotations

import typer

from aa_core.commands.base import ProblemOption, epilog
from aa_core.commands.console import Meter, note, write_rows
from aa_core.commands.options import (
    FormatOption,
    Output,
    PerformanceOption,
    Run,
    SemanticsOption,
    open_told,
)
from aa_core.jobs import CalibrationRequest, spec_of
from aa_core.jobs.worker import do_here
from aa_core.run_performance import run_performance


def calibrate(
    run: Run,
    performance: PerformanceOption = "log-likelihood",
    semantics: SemanticsOption = "freeze",
    problem: ProblemOption = None,
    format: FormatOption = None,
    output: Output = None,
) -> None:
    """Retrain without every stage once, here, and see which estimator that bears out; results say so from then on."""
    opened, asked = open_told(run), CalibrationRequest(performance=performance, semantics=semantics)
    run_performance(opened, performance).check_differentiable()  # a slip of the pen is no job that failed
    outcome = do_here(spec_of("calibrate", opened, asked, problem), Meter())
    found = outcome.result
    write_rows(outcome.tables["estimators"], format, output, found)
    if found["below_noise"]:
        most = f"{found['noise_of_value']:.2g} {found['unit']}"
        note(f"{found['below_noise']} of the effects are within noise (up to {most}) and in no figure")
    note(f"preferred on this run: {found['default'] or 'none'}")


def register(app: typer.Typer) -> None:
    """Offer the command."""
    app.command(
        epilog=epilog("aa calibrate my_run", "aa calibrate my_run --performance margin --format csv -o figures.csv")
    )(calibrate)
