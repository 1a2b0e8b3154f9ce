"""`make samples`: record the shipped runs again, each by the script beside it, and say whether they are the same."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import aa_core as aa

ROOT = Path(__file__).resolve().parent
NAMES = ("digits-shift", "digits-mislabelled", "digits-adamw")
BORN = "1790812800"
"""2026-10-01, the date written into shipped runs: without it no recording could equal another."""


def record_again(name: str, path: Path) -> aa.Trajectory:
    """Record one shipped run anew at `path`."""
    os.environ["SOURCE_DATE_EPOCH"] = BORN
    runpy.run_path(str(ROOT / name / "record.py"))["main"](path)
    return aa.open_run(path)


def compared(before: aa.Trajectory | None, after: aa.Trajectory) -> str:
    """Whether a recording is the one that was there; where not, whether the machines explain it."""
    if before is None:
        return "new"
    if before.digest == after.digest:
        return "same to the bit"
    old, new = (dict(run.header.environment) for run in (before, after))
    unlike = [name for name in new if old.get(name) != new[name]]
    return f"differs from {before.digest[:12]}" + (f", recorded with other {', '.join(unlike)}" if unlike else "")


def main() -> None:
    """Record the named runs (all by default) in place."""
    for name in sys.argv[1:] or NAMES:
        path = ROOT / name / "run"
        before = aa.open_run(path) if path.exists() else None
        after = record_again(name, path)
        print(f"{name}: {after.digest[:12]} ({compared(before, after)})")


if __name__ == "__main__":
    main()
