"""What the commands have in common: their options, how they open a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from aa_core.checkpoints_only.checkpoints import AnyRun, open_any
from aa_core.commands.console import Format, note
from aa_core.counterfactuals.counterfactual import Semantics
from aa_core.curvature import Curvature
from aa_core.effects.embedding import Method, Readout
from aa_core.performance import PERFORMANCES
from aa_core.problem import Problem
from aa_core.registry import load_problem
from aa_core.runs.trajectory import Trajectory, open_run

R = TypeVar("R", bound=AnyRun)
Run = Annotated[Path, typer.Argument(help="Folder of a recorded run.", metavar="RUN", show_default=False)]
FormatOption = Annotated[Format | None, typer.Option("--format", help="By default the suffix of -o, else table.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file instead of stdout.")]
PerformanceOption = Annotated[
    str,
    typer.Option(
        help=f"What to judge by: {', '.join(PERFORMANCES)}, confounder:COLUMN; 'negative squared error' for numbers; "
        "with whatif accuracy, too."
    ),
]
ExamplesOption = Annotated[str | None, typer.Option(help="Rows of the evaluation set, such as 0,1,5-9; else all.")]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        help="boundary: a stage as a whole; midpoint: closer if training is smooth; additive: steps.",
        show_default="as calibrated, else boundary",
    ),
]
CurvatureOption = Annotated[
    Curvature | None,
    typer.Option(help="How a change is propagated through later steps.", show_default="as calibrated, else exact"),
]
ReadoutOption = Annotated[
    Readout | None,
    typer.Option(
        help="How a change of parameters becomes one of performance.", show_default="as calibrated, else linear"
    ),
]
SemanticsOption = Annotated[Semantics, typer.Option(help="What skipping means: no update at all, or no data.")]


def open_told(path: Path) -> Trajectory:
    """The run, its warnings said on stderr."""
    return _told(open_run(path))


def open_any_told(path: Path) -> AnyRun:
    """The same for a run of which only checkpoints may be known."""
    return _told(open_any(path))


def _told(run: R) -> R:
    for warning in run.warnings:
        note(f"warning: {warning}")
    return run


def problem_of(run: AnyRun, chosen: str | None) -> Problem:
    """Model and loss: those that the auditor chose, else what the run asks for, if it is registered here."""
    return load_problem(run.header.problem.name, run.header.problem.config, chosen)
