"""What-if: leave stages out, see the predicted effect at once, retrain to know."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard import feedback, session, tables, watch
from dashboard.pin import pin
from dashboard.service import estimates, glossary
from dashboard.shell import Context
from dashboard.words import effect_words, literal, measure, plural, subject

DECIDES = "First-order estimate of leaving these out together; a retraining decides."


def render(ctx: Context) -> None:
    """Stages at the left, what leaving them out would do at the right."""
    st.title("What-if", anchor=False)
    if ctx.desk.run.evaluation is None:
        feedback.empty(
            "No evaluation set", "This run was recorded without one: there is nothing to measure a change by."
        )
        return
    left, right = st.columns([2, 3], gap="large")
    with left:
        _stages(ctx)
        _about(ctx)
        watch.past(ctx)
    with right, feedback.refusals():
        _answer(ctx)


def _stages(ctx: Context) -> None:
    st.markdown("**Leave out**")
    with st.container(border=True, gap="xsmall"):
        for place, row in enumerate(ctx.desk.stage_notes().to_dict("records")):
            key = f"skip:{place}"
            st.session_state[key] = row["stage"] in ctx.selection.skip
            label = f"{literal(row['stage'])} :small[:gray[{plural(row['steps'], 'step')}]]"
            st.checkbox(label, key=key, on_change=_tick, args=(row["stage"], key))


def _tick(stage: str, key: str) -> None:
    kept = [s for s in session.current().skip if s != stage]
    session.update(skip=tuple([*kept, stage] if st.session_state[key] else kept))


def _about(ctx: Context) -> None:
    """On which examples, and how estimated."""
    s = ctx.selection
    rows = ctx.desk.rows(s)
    st.caption(
        f"Judged on {subject(s, len(rows), ctx.desk.facts().examples)} by the {s.performance}. Pick others in Explore."
    )
    if s.examples or s.filtered:
        st.button(
            "Judge on all examples",
            type="tertiary",
            icon=":material/select_all:",
            on_click=session.replace_all,
            args=(replace(s.everything, skip=s.skip),),
        )


def _answer(ctx: Context) -> None:
    s = ctx.selection
    if not s.skip:
        feedback.empty(
            "Nothing is left out yet", "Tick one or several stages to see what the model would be without them."
        )
        return
    with feedback.working("Replaying the training to embed these stages") as progress:
        found = estimates.predicted(ctx.desk, s, progress)
    st.markdown(f"**Predicted without {literal(glossary.listed(s.skip))}**")
    st.html(
        tables.facts(
            [
                (label, glossary.fmt_effect(value, found.effect))
                for label, value in (
                    (f"{s.performance.capitalize()} as recorded", found.recorded),
                    ("Predicted without", found.without),
                    ("Effect of what is left out", found.effect),
                )
            ]
        )
    )
    st.caption(f"{effect_words(found.effect, found.unit, s)} {measure(s, found.unit, found.n)} First-order estimate.")
    pin(replace(ctx, selection=replace(s, method="boundary")), {s.skip: found.effect}, found.unit, DECIDES)
    watch.verification(ctx)
