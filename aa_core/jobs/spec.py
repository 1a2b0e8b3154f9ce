"""What a job is asked, and what its small files hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from aa_core.errors import IntegrityError
from aa_core.runs.header import Model, parse
from aa_core.version import __version__

SPEC, PROGRESS, RESULT, FAILURE, CANCEL = "spec.json", "progress.json", "result.json", "failure.json", "cancel"
LOCK, LOG, STATE, ATTEMPTS, TABLE = "lock", "log.txt", "state.kept", "attempts", ".table.json"
Report = Callable[[str, int, int], None]
"""Called with (phase, steps done, steps in all; 0 while not known); may raise Cancelled to stop."""


class JobSpec(Model):
    """All that decides the answer. The same question is the same job."""

    kind: str
    run: str
    """Absolute path."""
    digest: str
    """Of the run; a job on a run that has changed since is refused."""
    problem: str | None
    """What the auditor chose in place of the run's own name: a registered name, or an absolute "file.py:function"."""
    problem_digest: str | None
    """sha256 of that file: an edited problem is another question."""
    request: dict[str, JsonValue]
    code: str = __version__
    """An answer of another version is not this answer."""

    @property
    def id(self) -> str:
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def read_spec(folder: Path) -> JobSpec:
    """What the job of this folder is asked, which its name pins.

    Raises FileNotFoundError if there is none, RunFormatError or IntegrityError if it is not as it was written.
    """
    found = parse(JobSpec, (folder / SPEC).read_bytes(), f"{folder.name}/{SPEC}")
    if found.id != folder.name:
        raise IntegrityError(
            f"{folder.name}/{SPEC}: asks another question, that of job {found.id} (a damaged disk, or somebody changed "
            "it); ask again, and it is written anew"
        )
    return found


class JobProgress(Model):
    """How far a job is. Times are seconds since 1970."""

    phase: str
    done: int
    total: int
    """0 while it is not known."""
    started: float
    updated: float
    eta: float | None
    """Seconds left at the pace of this phase; None while there is no pace yet."""


class Failure(Model):
    """Why there is no result."""

    status: Literal["failed", "cancelled"]
    error: str


def no_report(phase: str, done: int, total: int) -> None:
    """Tell nobody."""


def file_digest(chosen: str | None) -> str | None:
    """sha256 of a problem file; None for a name, or for a file that is not there (the worker says so)."""
    path = Path(f"{chosen.partition('.py')[0]}.py") if chosen and ".py" in chosen else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else None


def in_part(report: Report, phase: str, part: tuple[int, int], total: int) -> Callable[[int, int], None]:
    """A plain Progress that moves `report` through part = (first, last) of the whole."""
    first, last = part
    return lambda done, of: report(phase, first + (last - first) * done // max(of, 1), total)
