"""What the command line reads and prints: rows, tables, progress."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from aa_core.errors import is_memory
from aa_core.files import write_atomic
from aa_core.plain import to_json

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["table", "csv", "json"]
MOST_ROWS = 10_000_000


def rows(text: str | None, option: str = "--examples") -> list[int] | None:
    """ "0,1,5-9" -> [0, 1, 5, 6, 7, 8, 9]; None stays None, for all. BadParameter for anything else."""
    return None if text is None else [i for part in text.split(",") for i in _span(part.strip(), option)]


def _span(part: str, option: str) -> range:
    first, dash, last = part.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not dash)):
        raise typer.BadParameter(f"{part!r}: expected row numbers and ranges, such as 0,1,5-9", param_hint=option)
    span = range(int(first), int(last or first) + 1)
    if not 0 < len(span) <= MOST_ROWS:
        raise typer.BadParameter(f"{part!r}: expected a range from low to high", param_hint=option)
    return span


def table_text(frame: pd.DataFrame) -> str:
    """For a reader: four digits, the sign always shown where a column is an effect, no control characters."""
    from aa_core.reporting.escape import visible

    if frame.empty:
        return ""
    signed, free = "{:+.4g}".format, "{:.4g}".format
    number = {c: signed if c in ("effect", "estimate", "truth") else free for c in frame.select_dtypes("float")}
    text = {c: visible for c in frame if c not in number}
    return frame.to_string(index=False, formatters={**number, **text}) + "\n"


def csv_text(frame: pd.DataFrame) -> str:
    """For a spreadsheet: full precision, no cell that it would run."""
    from aa_core.reporting.escape import safe_cell

    return frame.map(safe_cell).to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def write_rows(frame: pd.DataFrame, chosen: Format | None, output: Path | None, about: dict[str, Any]) -> None:
    """The rows to a file or stdout; `about` (provenance and such) goes along in JSON.

    Without a choice the file's suffix decides, else it is a table.
    """
    by_suffix: dict[str, Format] = {".csv": "csv", ".json": "json"}
    match chosen or by_suffix.get(output.suffix.lower() if output else "", "table"):
        case "csv":
            text = csv_text(frame)
        case "json":
            text = to_json({**about, "rows": frame.to_dict("records")})
        case _:
            text = table_text(frame)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(output, text.encode())
        note(f"wrote {output}")


def note(text: str) -> None:
    """A line beside the result: on stderr, with control characters spelled out."""
    from aa_core.reporting.escape import visible  # brings the engine along, which a line that is all right need not

    typer.echo("\n".join(visible(line) for line in text.splitlines()), err=True)


def unforeseen(error: Exception) -> str:
    """What to tell a user of an error that is none of ours."""
    match error:
        case _ if is_memory(error):
            return "out of memory; close other programs, or use a machine with more of it"
        case OSError():
            return (
                f"{error.filename or 'a file'}: {error.strerror or error}; check the path, its permissions and the disk"
            )
        case _:
            said = (str(error).strip() or "no message").splitlines()[0]
            return f"{type(error).__name__}: {said} (not foreseen; AA_DEBUG=1 shows where it comes from)"


class Meter:
    """Progress on stderr: a line that is redrawn on a terminal, else one every few seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + self._pause

    @property
    def _pause(self) -> float:
        return 0.1 if self._terminal else 5.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        if total and (time.monotonic() >= self._next or (self._terminal and done == total)):
            self._next = time.monotonic() + self._pause
            line = f"{phase}: step {done} of {total} ({done / total:.0%})"
            typer.echo(f"\r\x1b[K{line}" if self._terminal else line, err=True, nl=not self._terminal or done == total)
