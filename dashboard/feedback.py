"""What the page says while it works, and when it cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from aa_core.errors import AuditError
from dashboard.service import Effects, Progress, glossary
from dashboard.words import literal

PATIENCE = 0.1
"""Seconds between two drawings of the bar."""


@contextmanager
def working(what: str) -> Iterator[Progress]:
    """A progress bar with step k of K, gone when the work is done. Work that is quick shows none."""
    place, last = st.empty(), time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PATIENCE:
            last = time.monotonic()
            place.progress(min(done / max(total, 1), 1.0), text=f"{what}: step {done:,} of {total:,}")

    try:
        yield progress
    finally:
        place.empty()


@contextmanager
def refusals() -> Iterator[None]:
    """Show what the engine refuses in a box, word for word; the rest of the page stays usable."""
    try:
        yield
    except AuditError as error:
        refusal(str(error))


def refusal(message: str, headline: str = "This cannot be shown") -> None:
    """A box with a message of the engine, which may quote strings of the run."""
    with st.container(border=True):
        st.markdown(f":red[:material/error:] **{literal(headline)}**")
        st.text(message)


def notes(ignored: list[str]) -> None:
    """Parts of a link that were left out."""
    if ignored:
        with st.container(border=True):
            st.markdown(":material/info: **Part of this link was ignored.** The rest is shown.")
            st.text("\n".join(ignored[:10]))


def empty(headline: str, advice: str) -> None:
    """Nothing here yet, and what to do about it. Our own words only."""
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown(f"**{headline}**", text_alignment="center")
        st.caption(advice, text_alignment="center")


def reliability(effects: Effects) -> None:
    """How far the figures beside it can be believed."""
    which = f" Unsure: {literal(glossary.listed(effects.unsure))}." if effects.unsure else ""
    icon = ":material/warning:" if effects.alarming else ":material/info:"
    st.caption(
        f"{icon} {literal(effects.reliability.words)}{which}",
        help="\n".join(f"- {literal(a)}" for a in effects.reliability.assumptions),
    )
