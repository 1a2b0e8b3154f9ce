"""`aa export` and `aa import`: a run as one zip file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aa_core.commands.base import epilog
from aa_core.commands.console import note
from aa_core.commands.options import Run, open_told
from aa_core.confidence.calibration import calibrations_of
from aa_core.runs.archive import export_run, import_run


def export(run: Run, output: Annotated[Path, typer.Option("-o", "--output", help="The zip file to write.")]) -> None:
    """Pack an intact run and its calibrations into one zip file; the same ones give the same bytes."""
    opened = open_told(run)
    note(f"wrote {export_run(opened, output, calibrations_of(opened))}")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What `aa export` wrote.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to create.")],
) -> None:
    """Unpack a run, every entry checked before it is written and the run before it appears."""
    run = import_run(file, output)
    note(f"{output}: {run.title or 'a run'} of {run.steps} steps, digest {run.digest}")


def register(app: typer.Typer) -> None:
    """Offer the commands."""
    app.command(epilog=epilog("aa export my_run -o my_run.zip", "aa export my_run -o /media/run.zip"))(export)
    app.command("import", epilog=epilog("aa import my_run.zip -o my_run", "aa import run.zip -o runs/theirs"))(unpack)
