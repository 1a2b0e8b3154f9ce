"""Explore: pick examples at the left, see at the right which stages and steps made the model treat them so."""

from __future__ import annotations

import streamlit as st

from dashboard import browser, effects, feedback, filters
from dashboard.shell import Context


def render(ctx: Context) -> None:
    """Filters above; examples and effects side by side."""
    with st.container():  # says how far it is the first time; nothing below moves for it, or is drawn anew
        st.title("Explore", anchor=False)
        if ctx.desk.run.evaluation is None:
            feedback.no_evaluation("there are no examples to explore.")
            return
        ctx.desk.predictions()
    filters.filters(ctx)
    left, right = st.columns([5, 6], gap="medium")
    with left:
        browser.browser(ctx)
    with right:
        effects.effects(ctx)
