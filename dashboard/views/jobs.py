"""Jobs: all long work of this workspace, whoever started it and whichever page is open."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import streamlit as st

from dashboard import activity, feedback, session, shell
from dashboard.selection import NOTHING
from dashboard.service import Job, RunEntry, checking, list_runs
from dashboard.shell import Context
from dashboard.words import literal, plural, when

POLL = 2.0
"""Seconds between two looks for jobs that began or ended elsewhere."""
PAGE = 20
STATES = {
    "queued": ("Queued", "gray", ":material/schedule:"),
    "running": ("Running", "blue", ":material/progress_activity:"),
    "done": ("Done", "green", ":material/check:"),
    "failed": ("Failed", "red", ":material/error:"),
    "cancelled": ("Cancelled", "gray", ":material/block:"),
}


def render(ctx: Context) -> None:
    """Newest first; what runs moves."""
    st.title("Jobs", anchor=False)
    st.caption(
        "Each is a process of its own: it goes on when this page is closed or the dashboard is restarted. Effects are "
        f"means over the examples; {activity.SIGN}."
    )
    jobs = checking.jobs()
    _elsewhere(_states(jobs))
    if not jobs:
        feedback.empty(
            "No jobs yet", "Retrain in What-if, or verify all stages in Reliability: the work shows up here."
        )
        return
    entries = {e.digest: e for e in list_runs().values()}
    shown = st.session_state.setdefault("jobs:shown", PAGE)
    for job in jobs[:shown]:
        _job(ctx, job, entries.get(job.spec.digest))
    if len(jobs) > shown:
        st.button(f"Show {min(PAGE, len(jobs) - shown)} more", on_click=_more)


def _states(jobs: list[Job]) -> list[tuple[str, str]]:
    return [(job.id, job.status) for job in jobs]


@st.fragment(run_every=POLL)
def _elsewhere(seen: list[tuple[str, str]]) -> None:
    """Draw the page again when a job began or ended, in this tab or elsewhere."""
    if _states(checking.jobs()) != seen:
        st.rerun()


def _job(ctx: Context, job: Job, entry: RunEntry | None) -> None:
    question, answer = activity.describe(job)
    created = f"{datetime.fromtimestamp(job.created):%d %b %Y, %H:%M}"
    word, colour, icon = STATES[job.status]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            with st.container(gap=None, width="stretch"):
                st.markdown(f"**{literal(question)}** :{colour}-badge[{icon} {word}]")
                st.caption(
                    f"{literal(entry.title if entry else 'a run that is not here')} · {created} · {literal(answer)}"
                )
            if job.status == "done" and entry is not None:
                here = entry.id == ctx.desk.entry.id
                asked_from = ctx.selection if here else replace(NOTHING, run=entry.id)
                screen, selection = activity.place_of(job, asked_from)
                shell.link(screen, "Open", selection)
        if job.living:
            feedback.running(job.id)
        elif job.status != "done":
            st.text(job.error or "")
            feedback.try_again(job)
        if before := job.earlier:
            with st.expander(f"{plural(len(before), 'earlier attempt')}", type="compact"):
                st.text("\n".join(f"{when(a.at)}  {a.status}: {a.error}" for a in before))
        if log := job.log.strip():
            with st.expander("Log", type="compact"):
                st.code(log, language=None)


def _more() -> None:
    st.session_state["jobs:shown"] += PAGE
    session.replace_all(session.current())
