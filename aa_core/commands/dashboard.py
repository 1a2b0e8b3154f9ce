"""`aa dashboard`: the server is started at once; it imports the engine while the browser still loads the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aa_core.commands.base import ProblemOption, epilog
from aa_core.commands.launcher import HOST, become, prepare, reach


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=epilog(
            "aa dashboard",
            "aa dashboard my_runs --port 8600 --no-browser",
            "aa dashboard my_runs --address 0.0.0.0 --access access.toml --no-browser",
        )
    )(dashboard)


def dashboard(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUNS_DIR", help="Folders with runs; else the sample runs.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    address: Annotated[str, typer.Option(help="Network address to listen on; another one needs --access.")] = HOST,
    access: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Who signs in where, and as what: people sign in, on any address."),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    problem: ProblemOption = None,
) -> None:
    """Explore runs in a browser, on this machine only; with --access also for others, who sign in."""
    at = reach(address, access)
    server = prepare(port, folders or [], problem, at, f"--server.headless={str(no_browser).lower()}")
    typer.echo(f"the dashboard is at {server.url} (Ctrl-C ends it, jobs go on)", err=True)
    become(server)
