"""Who lives holds the lock. The kernel lets go of it when the last process that has it is gone, however it went."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

PATIENCE, PAUSE, ENDING = 0.2, 0.01, 5.0
"""Seconds: readers that probe a lock hold it for microseconds, so one refusal says nothing; ENDING for processes that
have said their last word and are about to go."""


def acquire(path: Path, patience: float = PATIENCE, mode: int = 0o600) -> int | None:
    """A descriptor that holds the lock until its last copy is closed; None if somebody else keeps holding it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(PAUSE)


def is_held(path: Path) -> bool:
    """Does somebody hold it? Probes do not refuse one another."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
