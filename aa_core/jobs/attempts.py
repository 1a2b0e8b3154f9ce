"""What became of a job's earlier attempts: lines in its folder that outlive every retry."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from aa_core.errors import RunFormatError
from aa_core.files import MODE
from aa_core.lines import Line
from aa_core.runs.header import parse

EARLIER = "earlier.jsonl"
MOST = 100
"""Attempts that are kept, the first ones; somebody who tries more often learns nothing new."""
TORN = "what is noted of this attempt is damaged"


class Attempt(Line):
    """One that came to no result."""

    at: Annotated[str, Field(max_length=40)]
    """When it ended, UTC."""
    status: Literal["failed", "cancelled"]
    error: Annotated[str, Field(max_length=500)]


def note(folder: Path, status: Literal["failed", "cancelled"], error: str, ended: float) -> None:
    """Add an attempt that ended then, in seconds since 1970; for who holds the job's lock."""
    if len(earlier(folder)) >= MOST:
        return
    at = datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds")
    line = Attempt(at=at, status=status, error=error[:500]).sealed().line
    with open(os.open(folder / EARLIER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, MODE), "ab") as file:
        file.write(line)


def earlier(folder: Path) -> tuple[Attempt, ...]:
    """All that are noted, oldest first; a damaged line stands for an attempt of which nothing else is known."""
    try:
        lines = BytesIO((folder / EARLIER).read_bytes()).readlines()
    except FileNotFoundError:
        return ()
    return tuple(_read(line) for line in lines)


def _read(line: bytes) -> Attempt:
    try:
        found = parse(Attempt, line, EARLIER)
    except RunFormatError:
        return Attempt(at="", status="failed", error=TORN)
    return found if found.line == line else Attempt(at="", status="failed", error=TORN)
