"""The process that does a job: python -m aa_core.jobs.worker FOLDER. It outlives whoever started it."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from aa_core.counterfactuals.kept import KeptState
from aa_core.errors import AuditError, Cancelled, is_memory
from aa_core.files import sealed, write_atomic
from aa_core.jobs.kinds import Outcome, perform
from aa_core.jobs.spec import CANCEL, FAILURE, LOCK, PROGRESS, RESULT, STATE, TABLE, Failure, JobProgress, read_spec
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
        _leave(folder, files if FAILURE in files else _failure_of(error))
    if (folder / RESULT).exists():
        kept.forget()


def _leave(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        write_atomic(folder / name, content)


def answer(job: Callable[[], Outcome]) -> dict[str, bytes]:
    """The files that a job leaves: its tables and then the result, which says that all is there; or a failure."""
    try:
        found = job()
        tables = {f"{name}{TABLE}": frame.to_dict("list") for name, frame in found.tables.items()}
        return {name: sealed(to_json(content).encode()) for name, content in {**tables, RESULT: found.result}.items()}
    except Cancelled as stopped:
        return _failed("cancelled", str(stopped))
    except AuditError as error:
        return _failed("failed", str(error))
    except Exception as error:
        return _failure_of(error)


def _failure_of(error: Exception) -> dict[str, bytes]:
    """Of an error that is none of ours: a line, and the traceback in the log."""
    traceback.print_exception(error)
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
