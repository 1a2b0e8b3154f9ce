"""The runs on offer, opened once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from aa_core.checkpoints_only.checkpoints import AnyRun, open_any
from aa_core.errors import AuditError
from aa_core.jobs import counterfactual_runs
from aa_core.problem import Problem
from aa_core.registry import load_problem
from dashboard.catalog import find_runs, stamp
from dashboard.service import people
from dashboard.service.engine import CHOSEN, memo


@dataclass(frozen=True)
class RunEntry:
    """A run on offer; `error` says why it cannot be opened."""

    id: str
    folder: Path = field(repr=False)
    title: str
    digest: str
    error: str = ""
    evaluation: str = ""
    """Pins the evaluation set: runs that share it can be compared example by example."""


def list_runs() -> dict[str, RunEntry]:
    """All runs on offer, by id, and the counterfactual trainings that were recorded here."""
    people.require("viewer", "These runs are not shown")
    return {name: _listed(name, folder) for name, folder in find_runs(counterfactual_runs()).items()}


def is_current(entry: RunEntry) -> bool:
    """Is this run still what it was when it was listed?"""
    return _listed(entry.id, entry.folder) == entry


def opened(folder: Path) -> AnyRun:
    """The run in this folder, as it is now."""
    return _open(folder, stamp(folder))


def evaluation_digest(run: AnyRun) -> str:
    """Pins the evaluation set of a run."""
    files = sorted((f.name, f.sha256) for f in run.files("evaluation"))
    return hashlib.sha256(repr(files).encode()).hexdigest()


def problem_of(run: AnyRun) -> Problem:
    """The run's model and loss, rebuilt by the problem that the auditor or the run names."""
    return _problem(run.digest, run.header.problem.name, run.header.problem.config)


def _listed(name: str, folder: Path) -> RunEntry:
    return memo().recall(("entry", name, folder, stamp(folder)), lambda: _entry(name, folder))


def _entry(name: str, folder: Path) -> RunEntry:
    try:
        run = opened(folder)
    except (AuditError, OSError) as error:
        return RunEntry(name, folder, name, "", str(error))
    return RunEntry(name, folder, run.title or name, run.digest, evaluation=evaluation_digest(run))


@st.cache_resource(max_entries=8, show_spinner=False)
def _open(folder: Path, written: tuple[int, ...]) -> AnyRun:
    return open_any(folder)


@st.cache_resource(max_entries=8, show_spinner=False)
def _problem(digest: str, name: str | None, _config: dict[str, Any]) -> Problem:
    return load_problem(name, _config, CHOSEN)
