"""What a run's log says of its steps: the curves of its training. Needs no torch: a page has them before the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from safetensors.numpy import load

from aa_core.errors import RunFormatError
from aa_core.runs.commits import read_commits
from aa_core.runs.header import Commit, Header, first_phase
from aa_core.runs.verified import read_verified
from aa_core.stages import Stage, stage_of_steps

MOST = 64 * 2**20
"""Bytes of recorded steps that are read for the curves alone."""
Columns = Mapping[str, np.ndarray]


class Measured(NamedTuple):
    """One phase: how many parameters are trained, and what was measured, one number a step in each column."""

    trained: int
    columns: Columns


class Curves(NamedTuple):
    """A sealed run as far as its log goes."""

    title: str
    digest: str
    stages: tuple[Stage, ...]
    log: pd.DataFrame
    """As of `log_frame`."""


def read_curves(root: Path) -> Curves | None:
    """The curves of a sealed run, from files whose digests fit; None where the run as a whole has to be opened first.

    That is while it is being recorded, where only checkpoints are known, and where its steps are large. What the steps
    must satisfy to be replayed is not looked at. Raises as `read_commits`, RunFormatError and IntegrityError.
    """
    header, commits, head = read_commits(root)
    files = [f for c in commits for f in c.files if f.role == "steps"]
    if not (commits and commits[-1].sealed) or sum(f.size for f in files) > MOST:
        return None
    stages = in_order(e.to_stage() for e in commits[-1].stages)
    return Curves(header.title, head, stages, log_frame(stages, _phases(root, header, commits)))


def in_order(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """The stages that have steps, in the order of their first step."""
    return tuple(sorted((s for s in stages if s.blocks), key=lambda s: s.start))


def log_frame(stages: Sequence[Stage], phases: Sequence[Measured]) -> pd.DataFrame:
    """One row a step: step, stage, loss, grad_norm, hyperparameters ("lr"; "lr[1]" for parameter group 1).

    NaN where the optimizer of a phase has no such hyperparameter or group, and where a step updated no parameter.
    """
    frames = [_frame(phase) for phase in phases if phase.columns]
    measured = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"loss": [], "grad_norm": []})
    owner = pd.DataFrame({"step": range(len(measured)), "stage": stage_of_steps(stages, len(measured))})
    return owner.join(measured)


def is_curve(column: str) -> bool:
    """Does the log show this column of the recorded steps, or need it for one that it shows?"""
    return column in ("loss", "grad_norm", "idle.count") or column.startswith("hyper.")


def hyper_names(columns: Iterable[str]) -> tuple[str, ...]:
    """The hyperparameters that the columns hold: the learning rate first, the others by name."""
    names = (n.split(".", 2)[2] for n in columns if n.startswith("hyper.0."))
    return tuple(sorted(names, key=lambda n: (n != "lr", n)))


def _frame(phase: Measured) -> pd.DataFrame:
    columns, names = phase.columns, hyper_names(phase.columns)
    groups = sum(n.startswith("hyper.") for n in columns) // max(1, len(names))
    idle = columns.get("idle.count")  # runs of before there were such steps have no such column
    norm = columns["grad_norm"] if idle is None else np.where(idle < phase.trained, columns["grad_norm"], np.nan)
    shown = {"loss": columns["loss"], "grad_norm": norm}
    for group in range(groups):
        suffix = f"[{group}]" if group else ""
        shown |= {f"{n}{suffix}": columns[f"hyper.{group}.{n}"] for n in names}
    return pd.DataFrame(shown)


def _phases(root: Path, header: Header, commits: Sequence[Commit]) -> list[Measured]:
    phase, parts, found = first_phase(header), list[Columns](), list[Measured]()
    for commit in commits:
        for file in (f for f in commit.files if f.role == "steps"):
            parts.append(_read(read_verified(root, file), commit.stop - commit.start, file.name))
        if commit.phase is not None or commit is commits[-1]:
            found.append(Measured(sum(map(len, phase.groups)), _concat(parts)))
            phase, parts = commit.phase or phase, []
    return found


def _read(data: bytes, steps: int, where: str) -> Columns:
    try:
        found = {n: column for n, column in load(data).items() if is_curve(n)}
    except Exception as error:  # the library raises several types of its own
        raise RunFormatError(f"{where}: not a safetensors file of recorded steps: {error}") from None
    groups = {n.split(".")[1] for n in found if n.startswith("hyper.")}
    expected = {"loss", "grad_norm", *(f"hyper.{g}.{n}" for g in groups for n in hyper_names(found))}
    odd = [n for n, column in found.items() if column.shape != (steps,) or column.dtype.kind not in "if"]
    if odd or expected != set(found) - {"idle.count"} or groups != set(map(str, range(len(groups)))):
        raise RunFormatError(f"{where}: columns {sorted(found)}, expected {sorted(expected)}, {steps} numbers in each")
    return found


def _concat(parts: Sequence[Columns]) -> Columns:
    """Runs of consecutive steps as one, as far as they have the same columns."""
    if len({frozenset(p) for p in parts}) > 1:
        raise RunFormatError("the hyperparameters change within a phase, expected the same ones throughout")
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]} if parts else {}
