"""The log of a run up to its last commit: commits chained by digest from run.json on. Needs no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aa_core.errors import IntegrityError, RunFormatError, RunNotFoundError
from aa_core.runs.header import Commit, FileEntry, Header, first_phase, listed, parse, parse_header, repeated
from aa_core.runs.verified import read_file, sha256

_COMMIT = re.compile(r"\d{10}\.json")
_MAX_NEARBY = 8


class Committed(NamedTuple):
    """Header and commits in their order."""

    header: Header
    commits: tuple[Commit, ...]
    head: str
    """sha256 of the last commit (of run.json if there is none)."""


def read_commits(root: Path) -> Committed:
    """Header and log of a run.

    Raises RunNotFoundError, RunVersionError, RunFormatError (all errors listed), or IntegrityError for a broken chain.
    """
    text = header_bytes(root)
    header = parse_header(text)
    commits, head = _read_log(root, sha256(text))
    problems = _commit_problems(commits) + _phase_problems(header, commits)
    if problems:
        raise RunFormatError(f"{root}/log: " + listed(problems))
    return Committed(header, commits, head)


def header_bytes(root: Path) -> bytes:
    """The bytes of run.json; RunNotFoundError, which names runs nearby, if there is none."""
    try:
        return read_file(root, "run.json")
    except (FileNotFoundError, NotADirectoryError):
        raise RunNotFoundError(f"no run at {root} (there is no {root / 'run.json'}); {_nearby(root)}") from None


def _nearby(root: Path) -> str:
    runs = [p for folder in (root, root.absolute().parent) for p in _runs_in(folder)]
    more = f" and {len(runs) - _MAX_NEARBY} more" if len(runs) > _MAX_NEARBY else ""
    return f"runs nearby: {', '.join(map(str, runs[:_MAX_NEARBY]))}{more}" if runs else "there are no runs nearby"


def _runs_in(folder: Path) -> list[Path]:
    try:
        return sorted(
            p.parent for pattern in ("*/run.json", "*/*/run.json") for p in folder.glob(pattern) if p.is_file()
        )
    except OSError:
        return []


def _read_log(root: Path, previous: str) -> tuple[tuple[Commit, ...], str]:
    names = sorted(n for n in _listed_names(root / "log") if _COMMIT.fullmatch(n))
    commits: list[Commit] = []
    for number, name in enumerate(names):
        if name != f"{number:010d}.json":
            raise IntegrityError(
                f"log/{number:010d}.json: missing, but log/{name} exists; get a complete copy of the run"
            )
        text = read_file(root, f"log/{name}")
        commit = parse(Commit, text, f"log/{name}")
        if commit.number != number or commit.previous != previous:
            before = f"log/{number - 1:010d}.json" if number else "run.json"
            raise IntegrityError(
                f"log/{name}: does not continue {before} (number {commit.number}, expected {number}; previous digest "
                f"{commit.previous[:16]}..., expected {previous[:16]}...); one of the two was changed after recording"
            )
        commits.append(commit)
        previous = sha256(text)
    return tuple(commits), previous


def _listed_names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _commit_problems(commits: Sequence[Commit]) -> list[str]:
    """All that is wrong with a sequence of commits, each of them sound in itself."""
    problems: list[str] = []
    at = 0
    for commit in commits:
        where = f"commit {commit.number}"
        if commit.start != at:
            problems.append(f"{where} starts at step {commit.start}, expected {at}")
        at = commit.stop
        problems += [f"{where}: {p}" for p in _file_problems(commit)]
    names = [f.name for c in commits for f in c.files]
    problems += [f"{name} is named twice" for name in repeated(names)]
    problems += [f"commit {c.number} is sealed, but commits follow it" for c in commits[:-1] if c.sealed]
    if commits and "states/0.safetensors" not in names:
        problems.append("no commit names the state before step 0, states/0.safetensors")
    return problems


def _phase_problems(header: Header, commits: Sequence[Commit]) -> list[str]:
    """Phases that do not continue the one before."""
    problems, last = [], first_phase(header)
    for commit in (c for c in commits if c.phase is not None):
        phase, where = commit.phase, f"commit {commit.number}, phase"
        assert phase is not None
        if f"states/{commit.stop}.safetensors" not in [f.name for f in commit.files]:
            problems.append(f"{where}: the state that it begins with is missing")
        if phase.problem not in (last.problem, last.problem + 1):
            problems.append(f"{where}: problem {phase.problem}, expected {last.problem} or {last.problem + 1}")
        if not phase.fresh and (phase.optimizer, phase.slots) != (last.optimizer, last.slots):
            problems.append(f"{where}: goes on with {phase.optimizer}, but {last.optimizer} came before")
        before = {t.name: (t.shape, t.dtype) for t in (*last.parameters, *last.buffers)}
        for tensor in (*phase.parameters, *phase.buffers):
            source = phase.sources.get(tensor.name, tensor.name)
            if source is not None and before.get(source) != (tensor.shape, tensor.dtype):
                problems.append(f"{where}: {tensor.name} continues {source}, which did not exist in this shape")
        last = phase
    return problems


def _file_problems(commit: Commit) -> list[str]:
    """Files whose name does not say what their role and the commit's steps say."""
    steps = [f.name for f in commit.files if f.role == "steps"]
    expected = [f"steps/{commit.start}-{commit.stop}.safetensors"] if commit.stop > commit.start else []
    problems = [f"step files {steps}, expected {expected}"] if steps != expected else []
    for file in commit.files:
        if not re.fullmatch(_NAMES[file.role], file.name):
            problems.append(f"{file.name} cannot have the role {file.role!r}")
        elif file.role == "state" and number_of(file) != commit.stop:
            problems.append(f"{file.name} lies outside the commit, which ends at step {commit.stop}")
    return problems


_NAMES = {
    "steps": r"steps/\d+-\d+\.safetensors",
    "state": r"states/(0|[1-9]\d*)\.safetensors",
    "examples": r"data/(0|[1-9]\d*)\.safetensors",
    "evaluation": r"data/evaluation\.(safetensors|json)",
}


def number_of(file: FileEntry) -> int:
    """The step of a state, the first row of examples, the first step of steps."""
    found = re.search(r"/(\d+)", file.name)
    assert found is not None
    return int(found[1])
