"""A retraining on the page: its progress while it runs, and what it found."""

from __future__ import annotations

import streamlit as st

from dashboard import charts, feedback, session
from dashboard.activity import describe, effect
from dashboard.service import Job, figures, glossary, retraining
from dashboard.shell import Context
from dashboard.words import VERDICTS, agreement_words, literal, plural

FEWEST = 3
"""Examples for which a scatter says anything."""
SCATTER = 400


def verification(ctx: Context) -> None:
    """The retraining of the picked what-if: a button, its progress, or its result."""
    job = retraining.job_of(retraining.question(ctx.desk, ctx.selection))
    if job is None:
        st.button("Retrain to verify", type="primary", icon=":material/play_arrow:", on_click=_start, args=(ctx,))
        st.caption("Trains again without this, all else as recorded, in a process of its own: you may close the page.")
    elif job.status == "done":
        _result(job)
    else:
        feedback.follow(job)


def _start(ctx: Context) -> None:
    retraining.start(retraining.question(ctx.desk, ctx.selection))


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
