"""The training of a run, shown before there is an engine: it is in the run's log, and reading that needs no torch."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from aa_core.errors import AuditError
from dashboard import charts
from dashboard.catalog import find_runs
from dashboard.light import Curves, read_curves
from dashboard.reach import access_file
from dashboard.selection import from_query
from dashboard.words import literal

OVERVIEW = ("", "overview")


def show(title: DeltaGenerator) -> bool:
    """Title and curves of the run that Overview is opened with; False where there is nothing to show yet."""
    asked, _ = from_query({name: st.query_params.get_all(name) for name in st.query_params})
    if access_file() is not None or urlsplit(st.context.url or "/none").path.strip("/") not in OVERVIEW:
        return False  # another page, or people sign in first
    runs = find_runs()
    name = asked.run or ("" if asked.digest else next(iter(runs), ""))
    curves = _curves(runs.get(name))
    if curves is None or not curves.digest.startswith(asked.digest):
        return False
    title.title(literal(curves.title or name), anchor=False)
    charts.training(curves.stages, curves.log, key="timeline-before")
    return True


def _curves(folder: Path | None) -> Curves | None:
    """What the run's log says; None where it cannot be read: the page says why."""
    try:
        return read_curves(folder) if folder else None
    except (AuditError, OSError):
        return None
