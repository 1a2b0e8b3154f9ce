"""What the page says while it works, and when it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from aa_core.errors import AuditError
from dashboard.bars import working
from dashboard.light import glossary
from dashboard.service import Belief, Effects, Job, JobSpec, Waiting, acts, find, people
from dashboard.words import literal

__all__ = ["working"]
POLL = 0.6
"""Seconds between two looks at a job that runs."""


@contextmanager
def refusals() -> Iterator[None]:
    """Show what the engine refuses in a box, word for word, and how far a job is that the page waits for."""
    try:
        yield
    except AuditError as error:
        refusal(str(error))
    except Waiting as waiting:
        follow(waiting.job)


def follow(job: Job) -> None:
    """A job whose result the page waits for: how far it is, or why there will be none."""
    if job.living:
        with st.container(border=True):
            running(job.id)
    elif job.status != "done":
        refusal(job.error or "", "This was cancelled" if job.status == "cancelled" else "This failed")
        try_again(job)


def try_again(job: Job) -> None:
    """A button that starts a failed or cancelled job anew."""
    for_analysts("Try again", acts.retry, job, icon=":material/refresh:", key=f"again:{job.id}")


def start(label: str, spec: JobSpec, icon: str = ":material/play_arrow:", **look: Any) -> None:
    """A button that starts a job."""
    for_analysts(label, acts.start, spec, icon=icon, **look)


def for_analysts(label: str, act: Callable[..., Any], *of: Any, disabled: bool = False, **look: Any) -> None:
    """A button for what a viewer may not do; to a viewer it says so."""
    if not people.may_work():
        disabled, look["help"] = True, "Only an analyst may do this."
    st.button(label, on_click=act, args=of, disabled=disabled, **look)


@st.fragment(run_every=POLL)
def running(job_id: str) -> None:
    """The progress of a job, drawn again until it is over; then the whole page is."""
    job = find(job_id)
    if not job.living:
        st.rerun()
    at = job.progress
    if at is None or not at.total:
        st.progress(0.0, text=_not_begun() if at is None else at.phase.capitalize())
    else:
        left = f", about {glossary.fmt_seconds(at.eta)} left" if at.eta is not None else ""
        words = f"{at.phase.capitalize()}: {100 * at.done // at.total} %{left}"
        st.progress(min(at.done / at.total, 1.0), text=words)
    for_analysts("Cancel", acts.cancel, job, icon=":material/close:", key=f"cancel:{job_id}")


def _not_begun() -> str:
    """Why a job has not said anything yet."""
    return "Waiting for its turn: one job works at a time (see Jobs)" if acts.busy() else "Starting"


def refusal(message: str, headline: str = "This cannot be shown") -> None:
    """A box with a message of the engine, which may quote strings of the run."""
    with st.container(border=True):
        st.markdown(f":red[:material/error:] **{literal(headline)}**")
        st.text(message)


def notes(ignored: list[str]) -> None:
    """Parts of a link, or of what was typed, that were left out."""
    if ignored:
        with st.container(border=True):
            st.markdown(":material/info: **Part of this link was ignored.** The rest is shown.")
            st.text("\n".join(ignored[:10]))


def empty(headline: str, advice: str) -> None:
    """Nothing here yet, and what to do about it. Our own words only."""
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown(f"**{headline}**", text_alignment="center")
        st.caption(advice, text_alignment="center")


def no_evaluation(so: str) -> None:
    """A run that cannot be judged, and what to do about it."""
    empty(
        "No evaluation set",
        f"This run was recorded without one: {so} Record it with Recorder(..., evaluation=Evaluation(x, y)).",
    )


def reliability(effects: Effects) -> None:
    """How far the figures beside it can be believed."""
    which = f" Unsure: {literal(glossary.listed(effects.unsure))}." if effects.unsure else ""
    believe(effects.belief, which)


def believe(belief: Belief, more: str = "") -> None:
    """The verdict in words, its assumptions at hand."""
    icon = ":material/info:" if belief.trust == "size" else ":material/warning:"
    st.caption(
        f"{icon} {literal(belief.words)}{more}", help="\n".join(f"- {literal(a)}" for a in belief.assumptions) or None
    )
