"""The charts of Explore: what each stage did to the examples, its parts, and inside a stage each step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import streamlit as st

from dashboard import charts, feedback, session, shell
from dashboard.batch import batch
from dashboard.light import breakdown, figures, glossary
from dashboard.pin import pin
from dashboard.selection import CHARTS, CONFOUNDER, OPTIONS, Selection
from dashboard.service import Effects, checking, estimates, retraining
from dashboard.shell import Context
from dashboard.words import (
    CHART_WORDS,
    CONTROLS,
    chart_text,
    help_of,
    judged,
    literal,
    measure,
    option,
    retrained_words,
    subject,
)

ALL = ""


@shell.alone
def effects(ctx: Context) -> None:
    """Stages, or the steps of the stage that was clicked."""
    s = ctx.selection
    if not len(ctx.desk.rows(s)):
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Effect on {literal(subject(ctx.desk, s))}**", width="stretch")
        _settings(ctx)
    _zoom(ctx)
    with feedback.refusals():
        if s.stage:
            _steps(ctx)
        else:
            {"effects": _stages, "shares": _shares}.get(s.chart, _parts)(ctx)


def _zoom(ctx: Context) -> None:
    """Which stage and step are zoomed into: the keyboard's way, and the way back."""
    s = ctx.selection
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if s.stage:
            st.button("All stages", icon=":material/arrow_back:", on_click=_into, args=(ALL,))
        st.selectbox(
            "Stage",
            [ALL, *ctx.desk.facts().stages],
            format_func=lambda n: n or "All stages",
            label_visibility="collapsed",
            **session.mirror("stage", read=_zoomed),
        )
        if s.stage:
            _step_by_number(ctx)
            without = replace(s, skip=(s.stage,), stage="", steps=None)
            shell.link("What-if", "What if without it?", without, icon=":material/alt_route:")
    if not s.stage:
        st.segmented_control(
            "Show",
            CHARTS,
            format_func=CHART_WORDS.__getitem__,
            required=True,
            label_visibility="collapsed",
            **session.mirror("chart"),
        )


def _zoomed(stage: str) -> str:
    session.update(steps=None)
    return stage


def _step_by_number(ctx: Context) -> None:
    steps = next(stage.steps for stage in ctx.desk.run.stages if stage.name == ctx.selection.stage)
    chosen = ctx.selection.steps
    st.number_input(
        "Step",
        min(steps),
        max(steps),
        placeholder="Step",
        label_visibility="collapsed",
        width=130,
        **session.mirror("steps", read=_one, show=chosen[0] if chosen and chosen[0] == chosen[1] else None),
    )


def _one(step: int | None) -> tuple[int, int] | None:
    return None if step is None else (step, step)


# ---- stages ----------------------------------------------------------------------------------------------------------


def _stages(ctx: Context) -> None:
    with feedback.working("Replaying the training to embed its stages") as progress:
        found = estimates.stages(ctx.desk, ctx.selection, progress)
    truths = checking.retrained(ctx.desk, ctx.selection)
    measured = [truths[stage].effect if stage in truths else math.nan for stage in found.frame["stage"]]
    figure = figures.stage_bars(
        found.frame.assign(truth=measured), found.unit, performance=chart_text(judged(ctx.selection))
    )
    alt = "Effect of each stage: " + "; ".join(f"{r.stage} {r.effect:+.3g}" for r in found.frame.itertuples())
    alt += "".join(f"; {stage} retrained {truth.effect:+.3g}" for stage, truth in truths.items())
    charts.clickable(figure, "stages", alt, _into)
    within_noise(ctx, ctx.selection, found)
    diamonds = f"Diamonds: {literal(retrained_words(truths))}. " if truths else ""
    _beside(ctx, found, f"{diamonds}Click a bar to see its steps.")
    left_out = {retraining.without(ctx.selection, r.stage): r.effect for r in found.frame.itertuples()}
    pin(ctx, left_out, found.unit, found.belief.words)


def within_noise(ctx: Context, s: Selection, found: Effects) -> None:
    """Which stages' effects mean nothing, where the noise floor is known."""
    floor = checking.noise(ctx.desk, s)
    small = [] if floor is None else [literal(r.stage) for r in found.frame.itertuples() if abs(r.effect) <= floor]
    if floor is not None and small:
        st.caption(
            f":material/blur_on: Within noise, neither sign nor size means anything: {', '.join(small)}. A start moved "
            f"by a millionth of itself moves an effect by up to {glossary.fmt_small(floor)} {literal(found.unit)}."
        )


def _parts(ctx: Context) -> None:
    """The effects of the stages, split by layer or by cause."""
    s = ctx.selection
    with feedback.working("Walking back through the training") as progress:
        found = estimates.parts(ctx.desk, s, "layers" if s.chart == "layers" else "causes", progress)
    part = "layer" if s.chart == "layers" else "cause"
    figure = breakdown.split_bars(found.frame, part, found.unit, chart_text(judged(s)))
    words = "; ".join(f"{r.stage}, {getattr(r, part)} {r.effect:+.3g}" for r in found.frame.itertuples())
    charts.show(figure, f"split-{part}", f"Effect of each stage by {part}: {words}")
    _other_sign(ctx, found.frame.groupby("stage")["effect"].sum().to_dict(), "parts", found.unit)
    _beside(ctx, found, f"Beside each bar: the sum of its parts. {glossary.ADDS_UP[part]}")


def _shares(ctx: Context) -> None:
    """What the performance gained meanwhile: exact, and another question."""
    s = ctx.selection
    with feedback.working("Replaying the training") as progress:
        table, start, unit = estimates.shares(ctx.desk, s, progress)
    words = "; ".join(f"{r.stage} {r.share:+.3g}" for r in table.itertuples())
    figure = breakdown.waterfall(table, start, unit, chart_text(judged(s)))
    charts.show(figure, "path", f"Start {start:.3g}; {words}")
    st.caption(
        f"How the {literal(judged(s))} rose or fell while each stage was trained, {literal(unit)}, mean over "
        f"{len(ctx.desk.rows(s)):,} examples. {glossary.PATH_SHARES}"
    )


# ---- steps -----------------------------------------------------------------------------------------------------------


def _steps(ctx: Context) -> None:
    s = ctx.selection
    with feedback.working("Walking back through the training") as progress:
        found = estimates.steps(ctx.desk, s, progress)
    zoomed = s.steps if s.steps and s.steps[0] < s.steps[1] else None
    frame = found.frame[found.frame["step"].between(*zoomed)] if zoomed else found.frame
    chosen = None if zoomed or s.steps is None or s.steps[0] not in set(frame["step"]) else s.steps[0]
    how: dict[str, Any] = {"performance": chart_text(judged(s)), "stages": ctx.desk.facts().stages}
    figure = figures.step_bars(frame, found.unit, chosen=chosen, **how)
    width = estimates.bar_width(frame)

    def picked(step: Any) -> None:
        session.update(steps=(int(step), min(int(step) + width - 1, int(frame["step"].max()))))

    charts.clickable(figure, "steps", f"Effect of each step of stage {s.stage}", picked)
    total = float(found.frame["effect"].sum())
    _other_sign(ctx, {s.stage: total}, "steps", found.unit)
    hint = "its training examples" if width == 1 else f"the {width} steps that it sums"
    together = (
        f"Together {glossary.fmt_effect(total)} {literal(found.unit)}, which need not equal the effect of the stage"
    )
    _beside(ctx, found, f"{together}. Click a bar to see {hint}.")
    if zoomed:
        st.button("All steps of the stage", icon=":material/zoom_out:", on_click=_into, args=(s.stage,))
    for row in frame[frame["step"] == chosen].to_dict("records"):
        batch(ctx, int(row["step"]), float(row["effect"]), found.unit)


def _other_sign(ctx: Context, sums: dict[str, float], what: str, unit: str) -> None:
    """Stages that as a whole have the other sign than the sum of what is shown of them."""
    whole = estimates.wholes(ctx.desk, ctx.selection)
    for stage, total in sums.items():
        if total * whole.get(stage, 0.0) < 0:
            summed, at_once = (f"{glossary.fmt_effect(v)} {literal(unit)}" for v in (total, whole[stage]))
            st.caption(
                f":material/warning: The {what} of {literal(stage)} add up to {summed}, as a whole it is estimated at "
                f"{at_once}: **two estimates that disagree about the sign.** A retraining decides."
            )


def _beside(ctx: Context, found: Effects, hint: str) -> None:
    """Unit, number of examples and reliability, right under the chart."""
    interval = (
        " Whiskers: 95 % bootstrap interval over the examples, which says what others like them would show and "
        "nothing of the estimator’s error."
        if "low" in found.frame and found.frame["low"].notna().any()
        else ""
    )
    thing = "step" if ctx.selection.stage else "stage"
    words = f"{literal(measure(ctx.selection, found.unit, found.n))} **{glossary.sign(thing).capitalize()}.**"
    st.caption(f"{words}{interval} {hint}")
    feedback.reliability(found)


def _into(stage: Any) -> None:
    session.update(stage=str(stage), steps=None)


# ---- settings --------------------------------------------------------------------------------------------------------


def _settings(ctx: Context) -> None:
    """By what the model is judged and how effects are estimated, each setting with its meaning."""
    confounders = tuple(CONFOUNDER + c for c in ctx.desk.facts().confounders)
    with st.popover("Performance, estimator", icon=":material/tune:"):
        for name, options in OPTIONS.items():
            label, _, _ = CONTROLS[name]
            offered = (*options, *confounders) if name == "performance" else options
            st.selectbox(label, offered, format_func=option, help=help_of(name), **session.mirror(name))
