"""What every command has, the dashboard's too, which is there before the engine is imported."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core

from aa_core.commands.console import note
from aa_core.errors import AuditError


class Commands(typer.core.TyperGroup):
    """Our own errors end a command with their message and exit code 1; wrong usage has 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AuditError as error:
            note(f"error: {error}")
            raise typer.Exit(1) from None


def epilog(*lines: str) -> str:
    """Examples below the help of a command."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


ProblemOption = Annotated[
    str | None,
    typer.Option(
        "--problem",
        metavar="NAME|FILE.py",
        help="Who rebuilds model and loss: a registered name, or your own FILE.py[:FUNCTION]. "
        "By default the name that the run asks for, if it is registered here.",
    ),
]
