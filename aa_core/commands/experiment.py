"""`aa experiment`: the experiments of sample_runs/."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from aa_core.commands.base import epilog
from aa_core.commands.console import note

RUNNER = "sample_runs.experiment.command"
"""Who does them, imported when asked: data sets and plans are no part of the engine."""


def register(app: typer.Typer) -> None:
    """Offer the command."""
    examples = ("aa experiment mnist --data data -o results/mnist", 'aa experiment mnist --seeds 1 --case "the only 4"')
    app.command(epilog=epilog(*examples))(experiment)


def experiment(
    name: Annotated[str, typer.Argument(help="An experiment of sample_runs/.", metavar="NAME", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="Folder with the data sets; else $AA_DATA.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Only the first so many; else all.")] = None,
    case: Annotated[
        list[str] | None, typer.Option(metavar="CASE", help="Measure only this case anew; repeat it for several.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what the folder already has, and measure only the rest.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--out", help="Folder; else results/NAME.")] = None,
) -> None:
    """Do a shipped experiment: record, attribute, retrain without every stage, write results.html and its figures."""
    run_experiment = import_module(RUNNER).run_experiment
    asked = {"seeds": seeds, "cases": tuple(case or ()), "resume": resume}
    typer.echo(run_experiment(name, data=data, **asked, out=output, say=note))
