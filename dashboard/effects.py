"""The charts of Explore: what each stage did to the examples, and inside a stage each step."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import charts, feedback, session
from dashboard.gallery import still_gallery
from dashboard.selection import OPTIONS
from dashboard.service import Effects, estimates, figures, glossary
from dashboard.shell import Context
from dashboard.words import CONTROLS, help_of, measure, plural, subject
from dashboard.words import OPTIONS as WORDS

ALL = ""


def effects(ctx: Context) -> None:
    """Stages, or the steps of the stage that was clicked."""
    s = ctx.selection
    rows = ctx.desk.rows(s)
    if not len(rows):
        return
    st.markdown(f"**Effect on {subject(s, len(rows), ctx.desk.facts().examples)}**")
    _zoom(ctx)
    with feedback.refusals():
        if s.stage:
            _steps(ctx)
        else:
            _stages(ctx)


def _zoom(ctx: Context) -> None:
    """Which stage is zoomed into: the keyboard's way, and the way back."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if ctx.selection.stage:
            st.button(
                "All stages",
                icon=":material/arrow_back:",
                on_click=session.update,
                kwargs={"stage": ALL, "steps": None},
            )
        options = [ALL, *ctx.desk.facts().stages]
        st.selectbox(
            "Stage",
            options,
            format_func=lambda n: n or "All stages",
            label_visibility="collapsed",
            **session.mirror("stage"),
        )


def _stages(ctx: Context) -> None:
    with feedback.working("Replaying the training to embed its stages") as progress:
        found = estimates.stages(ctx.desk, ctx.selection, progress)
    figure = figures.stage_bars(found.frame, found.unit, performance=ctx.selection.performance)
    alt = "Effect of each stage: " + "; ".join(f"{r.stage} {r.effect:+.3g}" for r in found.frame.itertuples())
    charts.clickable(figure, "stages", alt, _into)
    _beside(ctx, found, "Click a bar to see its steps.")


def _steps(ctx: Context) -> None:
    with feedback.working("Walking back through the training") as progress:
        found = estimates.steps(ctx.desk, ctx.selection, progress)
    figure = figures.step_bars(found.frame, found.unit, performance=ctx.selection.performance)
    chosen = found.frame[found.frame["step"].isin(ctx.selection.steps or ())]
    for step in chosen["step"]:
        figure.add_vline(step, line_dash="dot", line_width=1.5, line_color=figures.NEUTRAL)
    charts.clickable(figure, "steps", f"Effect of each step of stage {ctx.selection.stage}", _step)
    _beside(ctx, found, "Their sum need not equal the effect of the stage. Click a bar to see its training examples.")
    for row in chosen.to_dict("records"):
        _batch(ctx, row, found.unit)


def _batch(ctx: Context, row: dict[str, Any], unit: str) -> None:
    """What a step trained on."""
    step = row["step"]
    frame, looks = ctx.desk.batch(step)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Step {step:,}: {glossary.fmt_effect(row['effect'])} {unit}**", width="stretch")
        st.button("Close", icon=":material/close:", type="tertiary", on_click=session.update, kwargs={"steps": None})
    st.caption(f"It trained on these {plural(len(frame), 'example')}; the labels are those of the training.")
    items = [
        look | {"id": r["example"], "lines": [["as", r["label"], ""]], "title": f"{r['id']}, trained as {r['label']}"}
        for r, look in zip(frame.to_dict("records"), looks, strict=True)
    ]
    with st.container(height=330, border=False):
        still_gallery(items, f"Training examples of step {step}", "batch")


def _beside(ctx: Context, found: Effects, hint: str) -> None:
    """Unit, number of examples and reliability, right under the chart."""
    interval = (
        " Whiskers: 95 % bootstrap interval over the examples."
        if "low" in found.frame and found.frame["low"].notna().any()
        else ""
    )
    thing = "step" if ctx.selection.stage else "stage"
    words = f"{measure(ctx.selection, found.unit, found.n)} **{glossary.sign(thing).capitalize()}.**"
    st.caption(f"{words}{interval} {hint}")
    feedback.reliability(found)


def _into(stage: Any) -> None:
    session.update(stage=str(stage), steps=None)


def _step(step: Any) -> None:
    session.update(steps=(int(step), int(step)))


def controls() -> None:
    """How the effects are estimated, each setting with its meaning."""
    with st.expander("Estimator", icon=":material/tune:"):
        columns = st.columns(2)
        for place, (name, options) in enumerate(OPTIONS.items()):
            label, _, _ = CONTROLS[name]
            columns[place % 2].selectbox(
                label, options, format_func=WORDS.__getitem__, help=help_of(name), **session.mirror(name)
            )
