"""What-if: leave out, scale or change a part of the training; see the predicted effect, retrain to know."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard import changes, feedback, session, shell, tables, watch
from dashboard.light import glossary
from dashboard.pin import pin
from dashboard.selection import CHANGES
from dashboard.service import Waiting, acts, checking, estimates, retraining
from dashboard.shell import Context
from dashboard.words import OPTIONS, effect_words, judged, literal, measure, plural, subject


def render(ctx: Context) -> None:
    """What is changed at the left, what that would do at the right."""
    st.title("What-if", anchor=False)
    if ctx.desk.run.evaluation is None:
        feedback.no_evaluation("there is nothing to measure a change by.")
        return
    left, right = st.columns([2, 3], gap="large")
    with left:
        changes.changes(ctx)
        _about(ctx)
        _all_stages(ctx)
        watch.past(ctx)
    with right, feedback.refusals():
        _answer(ctx)


def _about(ctx: Context) -> None:
    """On which examples, and by what."""
    s = ctx.selection
    about = literal(subject(ctx.desk, s))
    st.caption(f"Judged on {about} by the {literal(judged(s))}. Pick others in Explore.")
    if s.examples or s.filtered:
        kept = {name: getattr(s, name) for name in CHANGES}
        st.button(
            "Judge on all examples",
            type="tertiary",
            icon=":material/select_all:",
            on_click=session.replace_all,
            args=(replace(s.everything, **kept),),
        )


def _all_stages(ctx: Context) -> None:
    """Every stage left out once, in one job."""
    st.markdown("**Every stage at once**")
    with feedback.refusals():
        known = checking.calibration(ctx.desk, ctx.selection)
        if known is not None and known.here:
            st.caption("Each stage was left out once and the model trained again: see which estimator that bears out.")
            shell.link("Reliability", "All stages, estimated and retrained", ctx.selection, icon=":material/verified:")
            return
        spec = checking.calibration_job(ctx.desk, ctx.selection)
        job = acts.job_of(spec)
        if job is None or job.status == "done":
            feedback.start("Verify all stages", spec, ":material/done_all:")
            st.caption(f"{plural(len(ctx.desk.run.stages), 'retraining')} in one job.")
        else:
            feedback.follow(job)


def _answer(ctx: Context) -> None:
    s = ctx.selection
    if not (s.skip or s.leave or s.without):
        feedback.empty("Nothing is changed yet", "Tick a stage at the left to see what the model would be without it.")
        return
    if not len(ctx.desk.rows(s)):
        feedback.empty("No example passes the filters", "Change the filters in Explore, then come back.")
        return
    what = retraining.counterfactual(s)
    name = literal(retraining.words(what))
    st.markdown(f"**Predicted: {name[:1].lower()}{name[1:]}**")
    try:
        with feedback.working("Replaying the training") as progress:
            found = estimates.predicted(ctx.desk, s, what, progress)
    except Waiting as waiting:  # meanwhile it can be retrained
        feedback.follow(waiting.job)
    else:
        _prediction(ctx, found)
        seen = replace(ctx, selection=replace(s, method=what.method_like(s.method)))
        pin(seen, {what: found.effect}, found.unit, found.belief.words)
    watch.verification(ctx)


def _prediction(ctx: Context, found: estimates.Prediction) -> None:
    s = ctx.selection
    figures = (
        (f"{judged(s)[:1].upper()}{judged(s)[1:]} as recorded", found.recorded),
        ("Predicted", found.without),
        ("Effect of the change", found.effect),
    )
    st.html(tables.facts([(label, glossary.fmt_effect(value, found.effect)) for label, value in figures]))
    st.caption(
        f"{literal(effect_words(found.effect, found.unit, s))} {literal(measure(s, found.unit, found.n))} "
        "Positive = training as recorded did better."
    )
    if s.method == "additive":
        st.caption(f"A what-if is estimated by boundary; Explore shows this run by {OPTIONS[s.method].lower()}.")
    noise = checking.noise(ctx.desk, s)
    if noise is not None and abs(found.effect) <= noise:
        st.caption(
            f":material/blur_on: Within noise: a mean effect moves by up to {glossary.fmt_small(noise)} "
            f"{literal(found.unit)} by itself."
        )
    feedback.believe(found.belief)
