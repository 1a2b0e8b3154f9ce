"""Which runs are on offer: those found under the configured folders, by a short id. No path is ever typed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent.parent / "sample_runs"
DEPTH = 3
MAX_RUNS = 500


def roots() -> tuple[Path, ...]:
    """The folders in $AA_RUNS_DIRS, or the sample runs."""
    named = [Path(part) for part in os.environ.get("AA_RUNS_DIRS", "").split(os.pathsep) if part]
    return tuple(named) or (SAMPLES,)


def find_runs(*more: Path) -> dict[str, Path]:
    """{id: folder} of all runs under the roots and these folders; the id is the folder's place under its root."""
    found: dict[str, Path] = {}
    for root in (*roots(), *more):
        for folder in _runs_under(root, DEPTH):
            found.setdefault(_unused(_name(root, folder), found), folder)
            if len(found) >= MAX_RUNS:
                return found
    return found


def stamp(folder: Path) -> tuple[int, ...]:
    """Changes whenever something was written to the run, so that nothing stale is shown."""
    watched = (folder / "run.json", folder / "log", folder / "journal")
    journals = sorted((folder / "journal").glob("*.jsonl"))[-1:]
    return tuple(written for path in (*watched, *journals) if (written := _written(path)))


def _written(path: Path) -> int:
    """When it was written last; 0 if it is not there, or is gone by now: a recorder may be at work beside us."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _runs_under(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "run.json").is_file():
        yield folder
    elif depth:
        for child in _folders_in(folder):
            yield from _runs_under(child, depth - 1)


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] not in "._")
    except OSError:
        return []


def _name(root: Path, folder: Path) -> str:
    parts = folder.relative_to(root).parts
    parts = parts[:-1] if len(parts) > 1 and parts[-1] == "run" else parts
    return "/".join(parts) or root.resolve().name


def _unused(name: str, taken: dict[str, Path]) -> str:
    others = (f"{name} ({n})" for n in count(2))
    return next(c for c in chain([name], others) if c not in taken)
