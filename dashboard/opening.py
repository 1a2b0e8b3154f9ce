"""What the first visitor of a new server sees while the engine is being imported; most of that time goes to torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Event

import plotly.graph_objects as go
import plotly.tools  # noqa: F401  # here, before two threads can meet in the middle of its imports
import streamlit as st

LOOKED_FOR = ("numpy", "pandas", "PIL.Image")
"""What plotly uses if it finds it, even half imported by another thread: so each is waited for."""

_imported = Event()


@contextmanager
def imports() -> Iterator[None]:
    """Around the server's own imports, ahead of the first visitor.

    All that they make stays: to collect it on the way would take a fifth of the time, and Streamlit, which collects
    after every click, would go through it each time.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
        _imported.set()
    finally:
        gc.enable()


@contextmanager
def waited_for() -> Iterator[None]:
    """Around the imports of the page, which wait for the server's. Its place is on every page: nothing moves."""
    place = st.empty()
    if not _imported.is_set():
        with place.container():
            st.title("Accountability audit", anchor=False)
            st.caption("Starting the engine …")
            _nothing()
    yield
    _imported.set()
    place.empty()


def _nothing() -> None:
    """A chart of nothing: what draws charts starts in the browser now, and not when the first one arrives."""
    for name in LOOKED_FOR:
        import_module(name)
    blank = go.Figure(layout={"height": 10, "margin": dict.fromkeys("lrtb", 0)})
    blank.update_xaxes(visible=False).update_yaxes(visible=False)
    st.plotly_chart(blank, config={"staticPlot": True}, alt="Nothing yet")
