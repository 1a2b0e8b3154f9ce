"""A job seen from outside: start it, watch it, stop it. Nothing is remembered but the folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from aa_core.errors import IntegrityError, RequestError, RunError
from aa_core.files import unsealed, write_atomic
from aa_core.jobs import attempts
from aa_core.jobs.spec import (
    ATTEMPTS,
    CANCEL,
    FAILURE,
    LOCK,
    LOG,
    PROGRESS,
    RESULT,
    SPEC,
    TABLE,
    Failure,
    JobProgress,
    JobSpec,
    read_spec,
)
from aa_core.lock import ENDING, acquire, is_held
from aa_core.processes import child_environment
from aa_core.runs.header import parse
from aa_core.workspace import workspace

Status = Literal["queued", "running", "done", "failed", "cancelled"]
DIED = (
    "all its processes died (killed, the machine switched off, or its disk full); asked again, it goes on where it was"
)
DAMAGED = "its {} is not as it was written (a damaged disk, or somebody changed it); begun again, it is computed anew"
SUPERVISOR = Path(__file__).with_name("supervisor.py")
LOG_BYTES = 1 << 16


@dataclass(frozen=True)
class Job:
    """A handle; any number of processes may hold one on the same job."""

    folder: Path
    spec: JobSpec

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def created(self) -> float:
        """When it was submitted, seconds since 1970."""
        return (self.folder / SPEC).stat().st_mtime

    @property
    def status(self) -> Status:
        alive = is_held(self.folder / LOCK)  # asked first: who is seen dead has written all that it ever will
        if (self.folder / RESULT).exists():
            return "failed" if self._damaged() else "done"
        if failure := self._failure():
            return failure.status
        if alive:
            return "running" if (self.folder / PROGRESS).exists() else "queued"
        return "failed"

    @property
    def living(self) -> bool:
        return self.status in ("queued", "running")

    @property
    def progress(self) -> JobProgress | None:
        """The last that was heard; None before the work began."""
        try:
            return parse(JobProgress, (self.folder / PROGRESS).read_bytes(), PROGRESS)
        except FileNotFoundError:
            return None

    @property
    def error(self) -> str | None:
        """Why there is no result; None for a job that is done or may still be."""
        if self.status not in ("failed", "cancelled"):
            return None
        if damaged := self._damaged():
            return DAMAGED.format(damaged)
        failure = self._failure()
        return failure.error if failure else DIED

    @property
    def log(self) -> str:
        """The end of what the worker printed."""
        try:
            return (self.folder / LOG).read_bytes()[-LOG_BYTES:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def earlier(self) -> tuple[attempts.Attempt, ...]:
        """The attempts before this one, oldest first."""
        return attempts.earlier(self.folder)

    def result(self) -> dict[str, Any]:
        """What the job found; RequestError unless it is done, IntegrityError if that is not what was written."""
        self._require_done()
        return self._read(RESULT)

    def table(self, name: str) -> pd.DataFrame:
        """One of the tables that came with the result; errors as of `result`."""
        self._require_done()
        try:
            return pd.DataFrame(self._read(f"{Path(name).name}{TABLE}"))
        except FileNotFoundError:
            raise RequestError(f"job {self.id} has no table {name!r}") from None

    def cancel(self) -> None:
        """Ask the worker to stop; it does within a second. Nothing happens to a job that is over."""
        if self.living:
            (self.folder / CANCEL).touch()

    def retry(self) -> Job:
        """Start a failed or cancelled job again, from the last state that it kept; any other is left as it is."""
        if self.status in ("failed", "cancelled") and (lock := self.reopen()) is not None:
            _hand_over(self.folder, lock)
        return self

    def reopen(self) -> int | None:
        """The lock of a job that is to be done, what an earlier attempt left put away; None if done or under way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = acquire(self.folder / LOCK, ENDING)
        if lock is None:
            return None
        if (self.folder / RESULT).exists() and not self._damaged():
            os.close(lock)
            return None
        try:
            self._put_away()
            self.write_spec()
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _put_away(self) -> None:
        """What an earlier attempt left; how it ended stays noted."""
        try:
            self._note_attempt()
        except OSError as error:
            raise RequestError(
                f"job {self.id} is not begun again: how it ended could not be noted ({error.strerror}); make room for "
                f"that, or make {self.folder} writable"
            ) from None
        tables = (path.name for path in self.folder.glob(f"*{TABLE}"))
        for name in (RESULT, CANCEL, PROGRESS, FAILURE, ATTEMPTS, *tables):
            (self.folder / name).unlink(missing_ok=True)

    def _note_attempt(self) -> None:
        """Keep how the last attempt ended, if there was one: what says so is about to go."""
        if damaged := self._damaged():
            attempts.note(self.folder, "failed", DAMAGED.format(damaged), (self.folder / damaged).stat().st_mtime)
        elif failure := self._failure():
            attempts.note(self.folder, failure.status, failure.error, (self.folder / FAILURE).stat().st_mtime)
        elif begun := [p for name in (PROGRESS, ATTEMPTS) if (p := self.folder / name).exists()]:
            attempts.note(self.folder, "failed", DIED, begun[0].stat().st_mtime)

    def write_spec(self) -> None:
        """Put down the question, unless it is there as it was written."""
        with suppress(FileNotFoundError, RunError):
            if read_spec(self.folder) == self.spec:
                return
        write_atomic(self.folder / SPEC, self.spec.to_bytes())

    @staticmethod
    def of(spec: JobSpec) -> Job:
        """The job of a question, whether it was ever submitted or not."""
        return Job(_folder() / spec.id, spec)

    def _failure(self) -> Failure | None:
        try:
            return parse(Failure, (self.folder / FAILURE).read_bytes(), FAILURE)
        except FileNotFoundError:
            return None

    def _damaged(self) -> str | None:
        """The name of a file of the result that is not as it was written."""
        with suppress(FileNotFoundError):  # somebody begins it again
            for path in (self.folder / RESULT, *self.folder.glob(f"*{TABLE}")):
                now = path.stat()
                if not _is_whole(path, now.st_mtime_ns, now.st_size):
                    return path.name
        return None

    def _read(self, name: str) -> Any:
        data = unsealed((self.folder / name).read_bytes())
        if data is None:
            raise IntegrityError(f"job {self.id}: {DAMAGED.format(name)}")
        return json.loads(data)

    def _require_done(self) -> None:
        if (status := self.status) != "done":
            raise RequestError(
                f"job {self.id} has no result: it is {status}" + (f" ({self.error})" if self.error else "")
            )


@lru_cache(4096)
def _is_whole(path: Path, modified: int, size: int) -> bool:
    """As it was written; looked at anew only when its date or size is another."""
    return unsealed(path.read_bytes()) is not None


def submit(spec: JobSpec) -> Job:
    """The job of this question: started now if it never was or if its processes died, else as it is.

    A job that is done, failed or cancelled is not started: see `Job.retry`.
    """
    job = Job.of(spec)
    job.folder.mkdir(parents=True, exist_ok=True)
    lock = acquire(job.folder / LOCK)
    if lock is None:
        return job
    job.write_spec()
    if (job.folder / RESULT).exists() or (job.folder / FAILURE).exists():
        os.close(lock)
    else:
        _hand_over(job.folder, lock)
    return job


def find(job_id: str) -> Job:
    """The job of that id; RequestError if there is none, RunError if its question is not as it was written."""
    if not re.fullmatch(r"[0-9a-f]{16}", job_id):
        raise RequestError(f"{job_id[:40]!r} is not a job's id: expected 16 hexadecimal digits")
    folder = _folder() / job_id
    try:
        now = (folder / SPEC).stat()
        return Job(folder, _spec(folder, now.st_mtime_ns, now.st_size))
    except FileNotFoundError:
        raise RequestError(f"there is no job {job_id} in {_folder()}") from None


@lru_cache(4096)
def _spec(folder: Path, modified: int, size: int) -> JobSpec:
    """What it is asked; read anew only when the file changed: screens list all jobs on every click."""
    return read_spec(folder)


def all_jobs() -> tuple[Job, ...]:
    """All jobs of this workspace, newest first; folders that hold none (or one of another version) are left out."""
    found = []
    for path in _folder().glob(f"*/{SPEC}"):
        with suppress(RequestError, RunError):
            found.append(find(path.parent.name))
    return tuple(sorted(found, key=lambda job: job.created, reverse=True))


def _folder() -> Path:
    return workspace() / "jobs"


def resume_dead() -> tuple[Job, ...]:
    """Start all jobs again whose processes died without a word, each from the last state that it kept."""
    dead = [job for job in all_jobs() if job.status == "failed" and job._failure() is None]
    return tuple(submit(job.spec) for job in dead)


def _hand_over(folder: Path, lock: int) -> None:
    """Start a supervisor and let go of the lock, which it holds from then on."""
    try:
        _start(folder, lock)
    finally:
        os.close(lock)


def _start(folder: Path, lock: int) -> None:
    """A supervisor in a session of its own that inherits the held lock, so that there is no moment without it."""
    with open(folder / LOG, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", str(SUPERVISOR), str(folder), str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock],
            env=child_environment(),
        )
    threading.Thread(target=process.wait, name=f"job {folder.name}", daemon=True).start()  # leaves no zombie
