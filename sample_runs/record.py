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


def main() -> None:
    """Record the named runs (all by default) in place."""
    for name in sys.argv[1:] or NAMES:
        path = ROOT / name / "run"
        before = aa.open_run(path).digest if path.exists() else None
        digest = record_again(name, path).digest
        same = "new" if before is None else "same to the bit" if before == digest else f"differs from {before[:12]}"
        print(f"{name}: {digest[:12]} ({same})")


if __name__ == "__main__":
    main()
