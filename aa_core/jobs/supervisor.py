"""Watches over the worker of a job: python supervisor.py FOLDER LOCK. A worker that dies is followed by another.

Run as a file of its own, on the standard library alone: small, and gone with none of what can kill a worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ATTEMPTS = 3
"""Workers that a job may have before it counts as failed."""
PAUSE, GRACE = 0.1, 0.5
"""Seconds between two looks at the worker; those that it has to stop by itself once it is asked to."""
NICE = 0 if os.environ.get("AA_JOBS_FIRST") else 10
"""A worker takes the processor that whoever waits for a page leaves to it, and all of it when nobody does; unless the
environment's AA_JOBS_FIRST says that nobody waits for one."""


def main(folder: str, lock: str) -> None:
    """Start workers, which inherit the held lock, until the job is over."""
    job = Path(folder)
    while not _over(job):
        if _attempt(job) > ATTEMPTS:
            return _end(job, "failed", f"{_reasons(job)}; it is not tried more than {ATTEMPTS} times")
        code = _watch(job, _worker(job, int(lock)))
        if not _over(job):
            if (job / "cancel").exists():
                return _end(job, "cancelled", "cancelled; nothing was changed")
            _note(job, _reason(code))
    return None


def _worker(job: Path, lock: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "aa_core.jobs.worker", str(job), str(lock)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lock], preexec_fn=_step_back)


def _step_back() -> None:
    """Lower priority for the worker; where Linux weighs sessions against each other, for its session, too."""
    os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))


def _watch(job: Path, worker: subprocess.Popen[bytes]) -> int:
    """The worker's exit code, or 0 as soon as the job is over: the interpreter takes a while to end.

    A worker that does not stop when it is asked to (it is deep in a step, or suspended) is ended.
    """
    asked: float | None = None
    while True:
        try:
            return worker.wait(PAUSE)
        except subprocess.TimeoutExpired:
            if _over(job):
                return 0
            asked = asked or (time.monotonic() if (job / "cancel").exists() else None)
            if asked is not None and time.monotonic() - asked > GRACE:
                worker.kill()


def _over(job: Path) -> bool:
    return (job / "result.json").exists() or (job / "failure.json").exists()


def _attempt(job: Path) -> int:
    """Which attempt this one is. The file outlives every process, so that none is forgotten."""
    _note(job, "started")
    return (job / "attempts").read_text().count("started\n")


def _note(job: Path, line: str) -> None:
    with (job / "attempts").open("a") as file:
        file.write(f"{line}\n")


def _reasons(job: Path) -> str:
    """How the workers so far ended; of one whose supervisor died with it nothing is known."""
    known = [line for line in (job / "attempts").read_text().splitlines() if line != "started"]
    return f"the worker died each time ({'; '.join(dict.fromkeys(known)) or 'together with what watched over it'})"


def _reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed by SIGKILL: out of memory, or by hand"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code} and no result"


def _end(job: Path, status: str, error: str) -> None:
    temporary = job / f".failure.{os.getpid()}"
    temporary.write_text(json.dumps({"status": status, "error": error}))
    temporary.replace(job / "failure.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
