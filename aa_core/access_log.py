"""Who opened, ran and exported what: JSON lines in the workspace, each with the digest of the one before.

A changed line is told by its own digest, a removed or moved one by the next. A last line that was forged with a
digest to match, and a missing end break nothing: only the digest of the last line, kept elsewhere, shows them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

from pydantic import Field

from aa_core.access import Person, Role
from aa_core.errors import IntegrityError, RequestError, RunFormatError
from aa_core.files import MODE, sync_folder
from aa_core.lines import Line
from aa_core.lock import acquire
from aa_core.runs.header import Digest, parse
from aa_core.runs.verified import sha256
from aa_core.workspace import workspace

Act = Literal[
    "opened run",
    "started job",
    "retried job",
    "cancelled job",
    "exported report",
    "entered finding",
    "checked finding",
    "signed finding",
    "saved subgroup",
    "forgot subgroup",
]
Text = Annotated[str, Field(max_length=500)]
START = sha256(b"")
TAIL = 1 << 16
"""Bytes in which a whole line lies."""
PATIENCE = 10.0
"""Seconds to wait while others write their lines."""


class Entry(Line):
    """One line of the log."""

    previous: Digest
    """sha256 of the line before, with its newline; of nothing for the first."""
    at: Text
    who: Text
    role: Role
    act: Act
    run: Digest | None
    """Digest of the run that it is about."""
    what: Text
    """The job, finding or subgroup by its id; a report by its digest and format."""


class AccessLog(NamedTuple):
    """All lines, verified to follow one another."""

    entries: tuple[Entry, ...]
    digests: tuple[str, ...]
    """Of every line; the last pins them all."""
    torn: tuple[int, ...]
    """Lines that say nothing, as one that the machine's end cut short; counted from 1."""

    @property
    def head(self) -> str:
        return self.digests[-1] if self.digests else START


def log_path() -> Path:
    return workspace() / "access.jsonl"


def append(person: Person, act: Act, run: str | None, what: str = "") -> Entry:
    """Enter what somebody does; it is on the disk when this returns. RequestError if it cannot be written."""
    path = log_path()
    try:
        with _alone(path.with_suffix(".lock")), _opened(path) as file:
            last = _last_line(file)
            if last and not last.endswith(b"\n"):  # torn: it stays as a line that says nothing
                file.write(b"\n")
                last += b"\n"
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = Entry(
                previous=sha256(last), at=at, who=person.name, role=person.role, act=act, run=run, what=what[:500]
            ).sealed()
            file.write(entry.line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RequestError(
            f"the access log {path} cannot be written ({error.strerror}), and nothing is shown or done that is not "
            "logged; make room, or make it writable"
        ) from None
    return entry


def read_log(path: Path | None = None) -> AccessLog:
    """The log, verified; IntegrityError or RunFormatError names the first line that does not follow the one before."""
    path = path or log_path()
    lines = BytesIO(path.read_bytes()).readlines() if path.exists() else []
    entries: list[Entry] = []
    digests: list[str] = []
    torn: list[int] = []
    for number, line in enumerate(lines, 1):
        if (entry := _read(line)) is None:
            torn.append(number)
        else:
            _check(entry, line, digests[-1] if digests else START, f"{path}, line {number}")
            entries.append(entry)
        digests.append(sha256(line))
    return AccessLog(tuple(entries), tuple(digests), tuple(torn))


def require_head(log: AccessLog, kept: str) -> int:
    """How many lines were written since the one with this digest; IntegrityError if there is no such line."""
    for since, digest in enumerate((*log.digests[::-1], START)):
        if len(kept) >= 16 and digest.startswith(kept.lower()):
            return since
    raise IntegrityError(
        f"no line of the access log has the digest {kept}: its end was cut off, or it was written anew, since that was "
        "kept"
    )


def _read(line: bytes) -> Entry | None:
    try:
        return parse(Entry, line, "access log") if line.endswith(b"\n") else None
    except RunFormatError:
        return None


def _check(entry: Entry, line: bytes, before: str, where: str) -> None:
    if entry.previous != before:
        raise IntegrityError(
            f"{where}: it follows a line with digest {entry.previous[:16]}..., the line before has {before[:16]}...: a "
            "line was changed, removed or moved after it was written"
        )
    if entry.line != line:
        raise RunFormatError(f"{where}: not the bytes that were written")


def _last_line(file: BinaryIO) -> bytes:
    """With its newline, if it has one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    return tail[tail.rfind(b"\n", 0, -1) + 1 :]


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    new = not path.exists()
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, MODE), "a+b") as file:
        if new:
            sync_folder(path.parent)
        yield file


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = acquire(path, PATIENCE)
    if lock is None:
        raise OSError(0, f"others have been writing for {PATIENCE:.0f} s")
    try:
        yield
    finally:
        os.close(lock)
