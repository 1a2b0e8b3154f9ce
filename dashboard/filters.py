"""Filters over the evaluation set: which examples a screen is about."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import session
from dashboard.selection import FILTERS, NOTHING, Facts
from dashboard.shell import Context


def filters(ctx: Context) -> None:
    """One row: text, label, prediction, wrong only; the rest behind a button."""
    facts, names = ctx.desk.facts(), ctx.desk.class_names()
    classes = range(facts.classes)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.text_input(
            "Search",
            placeholder="Search",
            icon=":material/search:",
            width=170,
            label_visibility="collapsed",
            **session.mirror("text"),
        )
        _classes("labels", "True label", classes, names)
        _classes("predictions", "Predicted", classes, names)
        _more(ctx, facts)
        st.toggle("Last place wrong" if ctx.desk.sequences else "Wrong only", **session.mirror("wrong"))
        st.button(
            "Clear",
            icon=":material/filter_alt_off:",
            type="tertiary",
            on_click=_clear,
            disabled=not ctx.selection.filtered,
        )


def _classes(name: str, label: str, classes: range, names: list[str]) -> None:
    st.multiselect(
        label,
        list(classes),
        format_func=names.__getitem__,
        placeholder=label,
        label_visibility="collapsed",
        width=165,
        **session.mirror(name, read=_ordered, show=list(getattr(session.current(), name))),
    )


def _more(ctx: Context, facts: Facts) -> None:
    s = ctx.selection
    active = bool(s.where) + (s.confidence != NOTHING.confidence) + bool(s.slice)
    with st.popover(f"More filters ({active})" if active else "More filters", icon=":material/tune:"):
        st.slider("Confidence of the prediction, %", 0, 100, **session.mirror("confidence", read=tuple))
        if facts.slices:
            names = {"": "any", **facts.slices}
            st.selectbox("Saved subgroup", list(names), format_func=names.__getitem__, **session.mirror("slice"))
        for column, values in facts.columns.items():
            _metadata(ctx, column, list(values))
        if not facts.columns:
            st.caption("This evaluation set has no metadata column with few enough values to filter by.")


def _metadata(ctx: Context, column: str, values: list[str]) -> None:
    chosen = [v for c, v in ctx.selection.where if c == column]
    others = [(c, v) for c, v in ctx.selection.where if c != column]

    def read(picked: list[str]) -> tuple[tuple[str, str], ...]:
        return tuple(sorted([*others, *((column, v) for v in picked)]))

    st.multiselect(column, values, placeholder="any", **session.mirror("where", f"pick:where:{column}", read, chosen))


def _ordered(values: list[int]) -> tuple[int, ...]:
    return tuple(sorted(values))


def _clear() -> None:
    changes: dict[str, Any] = {name: getattr(NOTHING, name) for name in FILTERS}
    session.update(**changes)
