"""A retraining on the page: its progress while it runs, and what it found."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard import charts, feedback, session, shell
from dashboard.activity import SIGN, describe, effect
from dashboard.light import figures, glossary
from dashboard.selection import NOTHING, OPTIONS
from dashboard.service import Job, acts, checking, retraining
from dashboard.shell import Context
from dashboard.words import VERDICTS, agreement_words, chart_text, literal, performance_words, plural

FEWEST = 3
"""Examples for which a scatter says anything."""
SCATTER = 400


def verification(ctx: Context) -> None:
    """The retraining of the picked what-if: a button, its progress, or its result."""
    spec = retraining.question(ctx.desk, ctx.selection)
    job = acts.job_of(spec)
    if job is None:
        feedback.start("Retrain to verify", spec, type="primary")
        steps, seconds = retraining.effort(ctx.desk, retraining.counterfactual(ctx.selection))
        about = "" if seconds is None else f", about {glossary.fmt_seconds(seconds)} at the pace of the last retraining"
        st.caption(
            f"Trains {plural(steps, 'step')} again with this change, all else as recorded{about}. It runs in a process "
            "of its own; the page may be closed."
        )
    elif job.status == "done":
        _result(ctx, job)
        _as_run(ctx)
    else:
        feedback.follow(job)


def _result(ctx: Context, job: Job) -> None:
    found = job.result()
    unit, performance = found["unit"], chart_text(performance_words(found["performance"]))
    noise = checking.noise(ctx.desk, ctx.selection)
    st.markdown(f"**Retrained: {VERDICTS[retraining.verdict(found, noise or 0.0)]}**")
    words = f"Effect estimated {effect(found, 'mean_estimate')}, retrained {effect(found, 'mean_truth')}"
    charts.show(figures.stage_bars(retraining.comparison(found), unit, performance=performance), "compare", words)
    floor = (
        "The noise floor of this run is not measured yet (verify all stages)."
        if noise is None
        else f"Noise floor of this mean effect: {glossary.fmt_small(noise)} {literal(unit)}."
    )
    st.caption(
        f"Mean over {plural(found['n'], 'example')}; {SIGN}. "
        f"Trained {plural(found['steps_replayed'], 'step')} again in {glossary.fmt_seconds(found['seconds'])}. {floor}"
    )
    if found["n"] >= FEWEST:
        figure = figures.agreement_scatter(job.table("examples"), unit, performance=performance)
        alt = "Estimated against retrained effect, one point an example"
        charts.show(figure.update_layout(height=SCATTER), "scatter", alt)
    st.caption(agreement_words(found))


def _as_run(ctx: Context) -> None:
    """The counterfactual training as a run of its own."""
    spec = retraining.recording(ctx.desk, ctx.selection)
    if spec is None:
        return
    job = acts.job_of(spec)
    if job is None:
        feedback.start("Make it a run", spec, ":material/fork_right:")
        st.caption("Records this training like any other, to be opened, compared and audited in turn.")
    elif job.status != "done":
        feedback.follow(job)
    else:
        name, estimator = job.result()["run"], {n: getattr(ctx.selection, n) for n in OPTIONS}
        with st.container(horizontal=True):
            shell.link("Overview", "Open it as a run", replace(NOTHING, run=name), icon=":material/fork_right:")
            compared = replace(NOTHING, run=ctx.selection.run, other=name, **estimator)
            shell.link("Compare", "Compare with the original", compared, icon=":material/compare_arrows:")


def past(ctx: Context) -> None:
    """Every what-if of this run, also from other sessions."""
    jobs = retraining.past(ctx.desk)
    st.markdown("**Retrained before**")
    if not jobs:
        st.caption("Nothing yet. Tick stages and retrain: the result stays here, also after a reload.")
    else:
        st.caption(f"Mean effects; {SIGN}.")
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
