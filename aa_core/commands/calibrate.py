"""`aa calibrate`: every stage really left out once, and every estimator compared with that."""

from __future__ import annotations

from functools import partial

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
    problem_of,
)
from aa_core.confidence.calibrate import calibrate as measure
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
    opened = open_told(run)
    judged = run_performance(opened, performance)
    progress = partial(Meter(), "retraining without each stage")
    found = measure(opened, problem_of(opened, problem), judged, semantics=semantics, progress=progress)
    write_rows(found.to_frame(), format, output, found.to_dict())
    if found.below_noise:
        most = f"{found.noise_of_value:.2g} {found.unit}"
        note(f"{found.below_noise} of the effects are within noise (up to {most}) and in no figure")
    note(f"preferred on this run: {'none' if found.default is None else found.default.name}")


def register(app: typer.Typer) -> None:
    """Offer the command."""
    app.command(
        epilog=epilog("aa calibrate my_run", "aa calibrate my_run --performance margin --format csv -o figures.csv")
    )(calibrate)
