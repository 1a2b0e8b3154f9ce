"""The process that does a job: python -m aa_core.jobs.worker FOLDER. It outlives whoever started it.

Who waits for a job, at a command line, does it in their own process: `do_here`.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from aa_core.counterfactuals.kept import KeptState
from aa_core.errors import AuditError, Cancelled, is_memory
from aa_core.files import sealed, write_atomic
from aa_core.jobs.job import Job
from aa_core.jobs.kinds import Outcome, perform
from aa_core.jobs.spec import (
    CANCEL,
    FAILURE,
    LOCK,
    LOG,
    PROGRESS,
    RESULT,
    STATE,
    TABLE,
    Failure,
    JobProgress,
    JobSpec,
    Report,
    no_report,
    read_spec,
)
from aa_core.lock import acquire
from aa_core.plain import to_json

INTERVAL = 0.5
"""Seconds between two writes of the progress."""
TURN = "turn.lock"


class ProgressFile:
    """Writes progress.json, at most twice a second, and raises Cancelled once somebody asked to stop."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, time.time()
        self._last_write = float("-inf")
        self._phase, self._calls, self._began, self._first = "", 0, 0.0, 0

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.stop_if_cancelled()
        now = time.monotonic()
        self._phase, self._calls = phase, self._calls + 1 if phase == self._phase else 1
        if self._calls <= 2:  # the pace is measured from the second call on: the first step of a phase is slow
            self._began, self._first = now, done
        if now - self._last_write >= INTERVAL:
            self._last_write = now
            self._write(phase, done, total, self._eta(now, done, total))

    def stop_if_cancelled(self) -> None:
        if (self._folder / CANCEL).exists():
            raise Cancelled("cancelled; nothing was changed")

    def _eta(self, now: float, done: int, total: int) -> float | None:
        """The pace of this phase over what is left; none while it has only begun."""
        if now - self._began < INTERVAL or done <= self._first:
            return None
        return (now - self._began) / (done - self._first) * (total - done)

    def _write(self, phase: str, done: int, total: int, eta: float | None) -> None:
        at = JobProgress(phase=phase, done=done, total=total, started=self._started, updated=time.time(), eta=eta)
        write_atomic(self._folder / PROGRESS, at.to_bytes())


def work(folder: Path) -> None:
    """Do the job of this folder and leave a result or the reason why there is none."""
    report, kept = ProgressFile(folder), KeptState(folder / STATE)

    def take_turn() -> Outcome:
        with _turn(folder.parent / TURN, report):
            return perform(read_spec(folder), report, kept)

    files = answer(take_turn)
    try:
        _leave(folder, files)
    except OSError as error:
        (folder / PROGRESS).unlink(missing_ok=True)  # on a full disk, room for the word why
        _leave(folder, files if FAILURE in files else _unanswered(error))
    if (folder / RESULT).exists():
        kept.forget()


def do_here(spec: JobSpec, report: Report = no_report) -> Outcome:
    """Do what a spec asks, here and now, and leave it as a job; where it is one already, done or under way, as it is.

    Errors are those of `perform`; they, and an interrupt, are left as the job's, too. Where the workspace takes no job,
    OSError before anything is done; RuntimeWarning after it: then the answer is given all the same.
    """
    job = Job.of(spec)
    if (lock := job.reopen()) is None:
        return perform(spec, report)
    told, kept = ProgressFile(job.folder), KeptState(job.folder / STATE)

    def both(phase: str, done: int, total: int) -> None:
        told(phase, done, total)
        report(phase, done, total)

    try:
        found = perform(spec, both, kept)
    except BaseException as error:
        with suppress(OSError), (job.folder / LOG).open("a") as log:
            _leave(job.folder, _unanswered(error))
            traceback.print_exception(error, file=log)
        raise
    else:
        try:
            _leave(job.folder, _answered(found))
            kept.forget()
        except OSError as error:
            unlisted = f"{job.folder}: {error.strerror}; no job lists what was done here"
            warnings.warn(unlisted, RuntimeWarning, stacklevel=2)
        return found
    finally:
        os.close(lock)


def _leave(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        write_atomic(folder / name, content)


def answer(job: Callable[[], Outcome]) -> dict[str, bytes]:
    """The files that a job leaves: its tables and then the result, which says that all is there; or a failure."""
    try:
        return _answered(job())
    except Exception as error:
        if not isinstance(error, AuditError):
            traceback.print_exception(error)
        return _unanswered(error)


def _answered(found: Outcome) -> dict[str, bytes]:
    tables = {f"{name}{TABLE}": frame.to_dict("list") for name, frame in found.tables.items()}
    return {name: sealed(to_json(content).encode()) for name, content in {**tables, RESULT: found.result}.items()}


def _unanswered(error: BaseException) -> dict[str, bytes]:
    """Why there is no answer: a line; of an error that is none of ours the log has the traceback."""
    if isinstance(error, KeyboardInterrupt):
        return _failed("cancelled", "interrupted; nothing was changed")
    if isinstance(error, AuditError):
        return _failed("cancelled" if isinstance(error, Cancelled) else "failed", str(error))
    if is_memory(error):
        error = MemoryError("out of memory; close other programs, or ask on a machine with more of it")
    said = (str(error).strip() or "no message").splitlines()[0]
    return _failed("failed", f"{type(error).__name__}: {said} (more in the log)")


def _failed(status: Literal["failed", "cancelled"], why: str) -> dict[str, bytes]:
    return {FAILURE: Failure(status=status, error=why).to_bytes()}


@contextmanager
def _turn(path: Path, report: ProgressFile) -> Iterator[None]:
    """One job at a time works, the others are queued: each may need the whole machine."""
    report.stop_if_cancelled()
    while (lock := acquire(path)) is None:
        report.stop_if_cancelled()
    try:
        yield
    finally:
        os.close(lock)


def main(folder: str, lock: str | None = None) -> None:
    """`lock` is the inherited descriptor that holds the folder's lock; without one it is taken here."""
    held = acquire(Path(folder) / LOCK) if lock is None else int(lock)
    if held is None:
        sys.exit(f"{folder}: another worker has this job")
    os.set_inheritable(held, False)
    print(f"worker {os.getpid()} started {time.strftime('%Y-%m-%d %H:%M:%S %z')}", flush=True)
    try:
        work(Path(folder))
    finally:
        os.close(held)  # the interpreter takes a while to end; a retry need not wait for that


if __name__ == "__main__":
    main(*sys.argv[1:])
