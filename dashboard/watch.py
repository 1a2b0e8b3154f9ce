"""A retraining on the page: its progress while it runs, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard import charts, feedback, session
from dashboard.service import Job, figures, find, glossary, retraining, submit
from dashboard.shell import Context
from dashboard.words import VERDICTS, agreement_words, literal, plural

POLL = 0.6
"""Seconds between two looks at a job that runs."""
FEWEST = 3
"""Examples for which a scatter says anything."""
SCATTER = 400


def verification(ctx: Context) -> None:
    """The retraining of the picked what-if: a button, its progress, or its result."""
    job = retraining.job_of(retraining.question(ctx.desk, ctx.selection))
    if job is None:
        st.button("Retrain to verify", type="primary", icon=":material/play_arrow:", on_click=_start, args=(ctx,))
        st.caption("Trains again without this, all else as recorded, in a process of its own: you may close the page.")
    elif job.living:
        _running(job.id)
    elif job.status == "done":
        _result(job)
    else:
        headline = "The retraining was cancelled" if job.status == "cancelled" else "The retraining failed"
        feedback.refusal(job.error or "", headline)
        st.button("Try again", icon=":material/refresh:", on_click=_again, args=(job,))


def _start(ctx: Context) -> None:
    submit(retraining.question(ctx.desk, ctx.selection))


def _again(job: Job) -> None:
    job.retry()


@st.fragment(run_every=POLL)
def _running(job_id: str) -> None:
    job = find(job_id)
    if not job.living:
        st.rerun()
    at = job.progress
    with st.container(border=True):
        if at is None or not at.total:
            st.progress(0.0, text="Waiting for its turn" if at is None else at.phase.capitalize())
        else:
            left = f", about {glossary.fmt_seconds(at.eta)} left" if at.eta is not None else ""
            st.progress(
                min(at.done / at.total, 1.0), text=f"{at.phase.capitalize()}: step {at.done:,} of {at.total:,}{left}"
            )
        st.button("Cancel", icon=":material/close:", on_click=job.cancel)


def _result(job: Job) -> None:
    found = job.result()
    unit, performance = found["unit"], found["performance"]
    st.markdown(f"**Retrained: {VERDICTS[retraining.verdict(found)]}**")
    words = f"Effect estimated {effect(found, 'mean_estimate')}, retrained {effect(found, 'mean_truth')}"
    charts.show(figures.stage_bars(retraining.comparison(found), unit, performance=performance), "compare", words)
    st.caption(
        f"Mean over {plural(found['n'], 'example')}; {glossary.sign('stage')}. "
        f"Trained {plural(found['steps_replayed'], 'step')} again in {glossary.fmt_seconds(found['seconds'])}."
    )
    if found["n"] >= FEWEST:
        figure = figures.agreement_scatter(job.table("examples"), unit, performance=performance)
        charts.show(
            figure.update_layout(height=SCATTER), "scatter", "Estimated against retrained effect, one point an example"
        )
    st.caption(agreement_words(found))


def past(ctx: Context) -> None:
    """Every what-if of this run, also from other sessions."""
    jobs = retraining.past(ctx.desk)
    st.markdown("**Retrained before**")
    if not jobs:
        st.caption("Nothing yet. Tick stages and retrain: the result stays here, also after a reload.")
    for job in jobs:
        _row(ctx, job)


def _row(ctx: Context, job: Job) -> None:
    question, answer = describe(job)
    asked = retraining.asked(job, ctx.selection)
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        with st.container(gap=None):
            st.markdown(literal(question))
            st.caption(literal(answer))
        st.button(
            "Show", key=f"show:{job.id}", on_click=session.replace_all, args=(asked,), disabled=asked == ctx.selection
        )


def describe(job: Job) -> tuple[str, str]:
    """A past what-if: what was asked, and what was found."""
    request: Mapping[str, Any] = job.spec.request
    asked = f"Without {glossary.listed(request['skip'])}"
    examples = plural(len(request["examples"]), "example") if request["examples"] else "all examples"
    on = f"{request['performance']} on {examples}"
    if job.status != "done":
        return asked, f"{on}: {job.status}"
    found = job.result()
    return (
        asked,
        f"{on}: estimated {effect(found, 'mean_estimate')}, retrained {effect(found, 'mean_truth')} {found['unit']}",
    )


def effect(found: Mapping[str, Any], which: str) -> str:
    """One of the means, with as many decimals as the other."""
    return glossary.fmt_effect(found[which], glossary.scale_of([found["mean_estimate"], found["mean_truth"]]))
