"""What the first visitor of a new server sees while the engine is being imported; most of that time goes to torch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Event

import plotly.graph_objects as go
import plotly.tools  # noqa: F401  # here, before two threads can meet in the middle of its imports
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

LOOKED_FOR = ("numpy", "pandas", "PIL.Image")
"""What plotly uses if it finds it, even half imported by another thread: so each is waited for."""

PREVIEW = "dashboard.preview"
PATIENCE = 1.0
"""Seconds that the engine waits for the first visitor's preview: one that comes with the server is drawn at once."""

_imported, _drawn = Event(), Event()


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


def before_the_engine() -> None:
    """Import what a preview needs, and leave the interpreter to the first visitor's."""
    for name in (*LOOKED_FOR, PREVIEW):
        import_module(name)
    _drawn.wait(PATIENCE)


@contextmanager
def waited_for() -> Iterator[Callable[[], object]]:
    """Around the imports of the page, which wait for the server's; gives what clears the place of what stood there
    meanwhile, for the page to call. Its place is on every page: nothing moves."""
    place = st.empty()
    if not _imported.is_set():
        with place.container():
            title = st.empty()
            title.title("Accountability audit", anchor=False)
            st.caption("Starting the engine …")
            _first(title)
        _drawn.set()
    yield place.empty
    _imported.set()


def _first(title: DeltaGenerator) -> None:
    """The first chart; one of nothing where there is none, so that what draws charts starts in the browser now."""
    for name in LOOKED_FOR:
        import_module(name)
    if import_module(PREVIEW).show(title):
        return
    blank = go.Figure(layout={"height": 10, "margin": dict.fromkeys("lrtb", 0)})
    blank.update_xaxes(visible=False).update_yaxes(visible=False)
    st.plotly_chart(blank, config={"staticPlot": True}, alt="Nothing yet")
