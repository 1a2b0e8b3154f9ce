"""The ledger on disk: JSON lines in the workspace, only ever appended to, each with the digest of the one before.

A line that was edited, removed or moved breaks the chain, unless nothing follows it: a last line that was forged with a
digest to match, or a missing end, shows against a report, which names the head.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from aa_core.errors import IntegrityError, RunBusyError, RunFormatError
from aa_core.files import write_atomic
from aa_core.findings.entries import Act, Entry
from aa_core.lock import acquire
from aa_core.runs.header import parse
from aa_core.runs.trajectory import Trajectory
from aa_core.runs.verified import sha256
from aa_core.workspace import workspace

START = sha256(b"")


class Ledger(NamedTuple):
    """All entries on a recording, in their order."""

    entries: tuple[Entry, ...]

    @property
    def head(self) -> str:
        """sha256 of the last line: it pins all of them."""
        return sha256(self.entries[-1].line) if self.entries else START


def ledger_path(run: Trajectory) -> Path:
    """One ledger a recording: that of a run that grew or was changed since is the same, and says so."""
    name = hashlib.sha256(run.header.run_id.encode()).hexdigest()[:32]
    return workspace() / "findings" / f"{name}.jsonl"


def read_ledger(run: Trajectory) -> Ledger:
    """The ledger of a run, verified; empty if nothing was found yet.

    Raises IntegrityError or RunFormatError naming the line.
    """
    path = ledger_path(run)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Ledger(())
    if not data.endswith(b"\n"):
        raise IntegrityError(f"{path}: the last line is torn; lines are written whole, so somebody else cut it")
    entries: list[Entry] = []
    for number, line in enumerate(data.splitlines(keepends=True)):
        entries.append(_checked(line, number, Ledger(tuple(entries)), path))
    return Ledger(tuple(entries))


def _checked(line: bytes, number: int, before: Ledger, path: Path) -> Entry:
    where = f"{path}, line {number + 1}"
    entry = parse(Entry, line, where)
    if entry.previous != before.head:
        raise IntegrityError(
            f"{where}: it follows a line with digest {entry.previous[:16]}..., the line before has "
            f"{before.head[:16]}...: the ledger was changed after it was written"
        )
    if entry.number != number or entry.line != line:
        raise RunFormatError(f"{where}: not the bytes that were written")
    return entry


def append(run: Trajectory, act: Act, finding: int | None, by: str, at: str | None = None) -> Entry:
    """Enter an act on a finding; None for the next finding. `at` is now by default.

    Raises RunBusyError if another process holds the ledger.
    """
    path = ledger_path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_suffix(".lock")):
        known = read_ledger(run)
        entry = Entry(
            number=len(known.entries),
            previous=known.head,
            at=at or datetime.now(UTC).isoformat(timespec="seconds"),
            by=by,
            finding=finding or 1 + max((e.finding for e in known.entries), default=0),
            act=act,
        ).sealed()
        write_atomic(path, b"".join(e.line for e in (*known.entries, entry)))
    return entry


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = acquire(path)
    if lock is None:
        raise RunBusyError(f"{path}: somebody else is writing to the ledger of findings; try again")
    try:
        yield
    finally:
        os.close(lock)
