"""`aa push`: a local run into object storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aa_core.commands.base import epilog
from aa_core.commands.console import note
from aa_core.commands.options import open_told
from aa_core.confidence.calibration import calibrations_of
from aa_core.recording.contents import files_of
from aa_core.runs.remote import Upload


def register(app: typer.Typer) -> None:
    """Offer the command."""
    app.command(epilog=epilog("aa push runs/digits s3://bucket/digits", "aa push my_run gs://bucket/my_run"))(push)


def push(
    run: Annotated[Path, typer.Argument(help="Folder of a recorded run.")],
    address: Annotated[str, typer.Argument(help="Where to, such as s3://bucket/run; any address of fsspec.")],
) -> None:
    """Copy a run and its calibrations into object storage. What is there already is never overwritten."""
    opened = open_told(run)
    upload = Upload(opened.path, address)
    commits = upload.push(files_of)
    upload.attach(calibrations_of(opened), opened.digest)
    note(f"{address}: {commits} commit{'s' * (commits != 1)}, complete")
