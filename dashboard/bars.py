"""What a page shows while one waits: how far the work is, or that the engine is busy for somebody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

Progress = Callable[[int, int], None]
PATIENCE = 0.1
"""Seconds between two drawings of the bar."""


@contextmanager
def working(what: str, unit: str = "step") -> Iterator[Progress]:
    """A progress bar with step k of K, gone when the work is done. Work that is quick shows none."""
    place, last = st.empty(), time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PATIENCE:
            last = time.monotonic()
            place.progress(min(done / max(total, 1), 1.0), text=f"{what}: {unit} {done:,} of {total:,}")

    try:
        yield progress
    finally:
        place.empty()


@contextmanager
def waiting() -> Iterator[Callable[[], None]]:
    """Says that another question is answered first, and since when one waits; call what it yields to say it anew."""
    place, began = st.empty(), time.monotonic()

    def say() -> None:
        seconds = round(time.monotonic() - began)
        place.caption(f":material/hourglass: Waiting for another question to be answered first, {seconds} s.")

    say()
    try:
        yield say
    finally:
        place.empty()
