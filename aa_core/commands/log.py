"""`aa log`: who did what in the dashboard, and whether the log is as it was written."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
import typer

from aa_core.access_log import log_path, read_log, require_head
from aa_core.commands.base import epilog
from aa_core.commands.console import Format, note, write_rows

log = typer.Typer(
    help="Who opened which run, ran which job and exported which report in the dashboard.",
    short_help="Read and verify the log of who did what.",
    epilog=epilog("aa log list --format csv", "aa log verify --head 3f8a1c0b9d2e4f56"),
    no_args_is_help=True,
)
COLUMNS = ("at", "who", "role", "act", "run", "what")


@log.command("list")
def listed(format: Annotated[Format, typer.Option("--format", help="How to print it.")] = "table") -> None:
    """All that was done, oldest first; the log is verified on the way."""
    known = read_log()
    frame = pd.DataFrame([{name: getattr(e, name) for name in COLUMNS} for e in known.entries], columns=list(COLUMNS))
    if frame.empty:
        note(f"nothing was done yet: there is no line in {log_path()}")
    write_rows(frame, format, None, {"head": known.head})


@log.command()
def verify(
    head: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="What this printed before: was anything cut off since?")
    ] = None,
) -> None:
    """Does every line follow the one before? Exits with 1, and names the first that does not."""
    known = read_log()
    since = None if head is None else require_head(known, head)
    typer.echo(f"{len(known.digests)} lines, each follows the one before; head {known.head}")
    for number in known.torn:
        note(f"line {number} is no entry: it was cut short while it was written, and nobody was told that it was done")
    if since is None:
        note(
            "a last line that was forged or a missing end cannot be seen from the log alone: keep this head elsewhere, "
            "and ask again with --head"
        )
    else:
        note(f"the line with the digest that you kept is there, with {since} written since")
