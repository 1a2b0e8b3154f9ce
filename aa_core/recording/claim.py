"""Whose the folder of a run is: made or taken up, and locked for the one recorder that writes in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from aa_core.errors import RunBusyError, RunExistsError
from aa_core.files import MODE, sync_folder
from aa_core.lock import acquire

LOCK = ".lock"
FOLDERS = ("log", "steps", "states", "data", "journal")


def enter(path: Path) -> None:
    """The folder of a run to go on with, or of a new one; RunExistsError if it holds something else."""
    path.mkdir(parents=True, exist_ok=True)
    known = {LOCK, *FOLDERS, "run.json"}
    strangers = sorted(n for n in os.listdir(path) if n not in known and not n.startswith(".run.json."))
    if strangers and not (path / "run.json").exists():
        raise RunExistsError(f"{path}: no run, but it holds {strangers[0]!r}; record to another path")
    sync_folder(path.parent)


def claim(path: Path) -> None:
    """The folder of a new run; RunBusyError or RunExistsError if the path is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        if _is_locked(path):
            raise RunBusyError(f"{path}: another recorder is writing this run; record to another path") from None
        raise RunExistsError(
            f"{path}: exists already and is not overwritten; record to another path or move this one away"
        ) from None
    sync_folder(path.parent)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock(path: Path) -> int:
    """A descriptor that holds the run; RunBusyError if another recorder does."""
    descriptor = acquire(path / LOCK, mode=MODE)
    if descriptor is None:
        raise RunBusyError(f"{path}: another recorder is writing this run; record to another path")
    return descriptor


def create(path: Path) -> BinaryIO:
    """A file to write from its beginning, through no link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, MODE)
    os.fchmod(descriptor, MODE)
    return open(descriptor, "wb")
