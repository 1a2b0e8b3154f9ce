"""What our own Python processes are started with, and how many processors they have."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path


def child_environment() -> dict[str, str]:
    """For our own Python processes: they import this package, and no module that lies in the current folder."""
    root = str(Path(__file__).resolve().parents[1])
    installed = root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    paths = [*([] if installed else [root]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def anchored(chosen: str | None) -> str | None:
    """A problem file by its absolute path, since a worker may be started from anywhere; a name as it is."""
    is_file = chosen is not None and (chosen.endswith(".py") or ".py:" in chosen)
    return str(Path(chosen).absolute()) if chosen is not None and is_file else chosen
