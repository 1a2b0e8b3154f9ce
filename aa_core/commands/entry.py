"""The `aa` command: all commands, or the dashboard's alone, which needs no engine."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer

from aa_core.commands import dashboard
from aa_core.commands.base import Commands
from aa_core.commands.console import note, unforeseen


def main() -> None:
    """Parse and run. AA_DEBUG=1 shows the traceback of an error that was not foreseen."""
    warnings.showwarning = _warned
    try:
        _app()(prog_name="aa")
    except Exception as error:
        if os.environ.get("AA_DEBUG"):
            raise
        note(f"error: {unforeseen(error)}")
        sys.exit(1)


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
    """A warning as a line, without the place in the code."""
    note(f"warning: {message}")


def _app() -> typer.Typer:
    if sys.argv[1:2] != ["dashboard"]:
        from aa_core.cli import app

        return app
    alone = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    alone.callback()(lambda: None)
    dashboard.register(alone)
    return alone
