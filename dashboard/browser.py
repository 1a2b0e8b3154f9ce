"""Looking through the examples: gallery and table, and picking from them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import feedback, session
from dashboard.examples import described
from dashboard.gallery import PAGE, gallery
from dashboard.light import glossary
from dashboard.shell import Context
from dashboard.words import plural

HEIGHT = 496
TABLE_ROWS = 200_000
MOST_OFFERED = 2_000
"""Examples that are offered by number; of more the browser makes too long a list, and the number is typed."""


def browser(ctx: Context) -> None:
    """Gallery or table of what passes the filters, and the picked examples."""
    table = ctx.desk.filtered(ctx.selection)
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        looks = ["Gallery", "Table"]
        look = st.segmented_control(
            "Show as", looks, default=looks[0], required=True, key="look", label_visibility="collapsed"
        )
        st.caption(f"{len(table):,} of {plural(ctx.desk.facts().examples, 'example')}", width="stretch")
        if look == "Gallery":
            _pager(min(ctx.selection.page, pages(table)), pages(table))
    if table.empty:
        feedback.empty("No example passes these filters", "Clear a filter above to see examples again.")
    elif look == "Gallery":
        _gallery(ctx, table)
    else:
        _table(ctx, table)
    picked_examples(ctx, "None picked: the charts are about all examples shown")


def pages(table: pd.DataFrame) -> int:
    """How many pages the gallery has."""
    return max(1, -(-len(table) // PAGE))


def _pager(page: int, last: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", width="content"):
        _turn("Prev", page - 1, last, icon=":material/chevron_left:")
        st.caption(f"{page} / {last:,}", width="content")
        _turn("Next", page + 1, last, icon=":material/chevron_right:", icon_position="right")


def _turn(label: str, to: int, last: int, **look: Any) -> None:
    reachable = 1 <= to <= last
    st.button(label, type="tertiary", disabled=not reachable, on_click=session.update, kwargs={"page": to}, **look)


def _gallery(ctx: Context, table: pd.DataFrame) -> None:
    start = (min(ctx.selection.page, pages(table)) - 1) * PAGE
    page = table.iloc[start : start + PAGE]
    looks = ctx.desk.shown(page["example"].tolist())
    items = [_item(row, look, ctx) for row, look in zip(page.to_dict("records"), looks, strict=True)]
    with st.container(height=HEIGHT, border=False):
        gallery(items, "Evaluation examples", "gallery", _toggle)


def _item(row: dict[str, Any], look: dict[str, str], ctx: Context) -> dict[str, Any]:
    """What one tile shows."""
    share, mark = glossary.fmt_percent(row["confidence"]), "✓" if row["correct"] else "✕"
    key, says = ("last", "last place is") if ctx.desk.sequences else ("is", "is")
    verdict = f", {share}" if row["correct"] else f", {share}, which is wrong"
    return look | {
        "id": row["example"],
        "lines": [[key, row["label_name"], ""], [mark, "" if row["correct"] else row["prediction_name"], share]],
        "wrong": not row["correct"],
        "picked": row["example"] in ctx.selection.examples,
        "title": f"Example {row['example']}: {says} {row['label_name']}; predicted {row['prediction_name']}{verdict}",
    }


def _toggle(ids: tuple[int, ...], add: bool, on: bool) -> None:
    """Pick these examples, alone or in addition; or let go of them."""
    before = set(session.current().examples)
    kept = before if add else set()
    session.update(examples=tuple(sorted(kept | set(ids) if on else kept - set(ids))))


def _table(ctx: Context, table: pd.DataFrame) -> None:
    shown = (
        described(table, ctx.desk.described()).head(TABLE_ROWS).drop(columns=["label", "prediction", "right", "places"])
    )

    def picked() -> None:
        rows = st.session_state["table"]["selection"]["rows"]
        session.update(examples=tuple(sorted(int(shown["example"].iloc[r]) for r in rows if r < len(shown))))

    st.dataframe(
        shown.assign(confidence=100 * shown["confidence"]),
        key="table",
        hide_index=True,
        height=HEIGHT,
        on_select=picked,
        selection_default={"selection": {"rows": _places(shown, ctx.selection.examples)}},
        column_config={
            "example": st.column_config.NumberColumn("Example", width="small"),
            "label_name": "Last place" if ctx.desk.sequences else "True label",
            "prediction_name": "Predicted",
            "confidence": st.column_config.ProgressColumn(
                "Confidence", width="small", format="%.0f %%", min_value=0, max_value=100
            ),
            "correct": st.column_config.CheckboxColumn("Correct", width="small"),
        },
    )


def _places(table: pd.DataFrame, examples: tuple[int, ...]) -> list[int]:
    """Where these examples stand in the table."""
    return table["example"].isin(examples).to_numpy().nonzero()[0].tolist()


def picked_examples(ctx: Context, nothing: str) -> None:
    """The picked examples by number: the way to pick with the keyboard, and to see what is picked on other pages."""
    chosen = list(ctx.selection.examples)
    total = ctx.desk.facts().examples
    typed = total > MOST_OFFERED
    st.multiselect(
        "Picked examples",
        chosen if typed else range(total),
        placeholder=f"{nothing}; type a number to pick" if typed else nothing,
        format_func=lambda i: f"#{i}",
        label_visibility="collapsed",
        select_all=False,
        accept_new_options=typed,
        **session.mirror("examples", read=numbers, show=chosen),
    )


def numbers(values: list[int | str]) -> tuple[int, ...]:
    """Examples by number, as offered or as typed; what is no number is left out with a note."""
    written = [str(v).strip().lstrip("#") for v in values]
    known = {int(v) for v in written if v.isdecimal()}
    for text in (v for v in written if not v.isdecimal()):
        session.note(f"picked examples: {text[:40]!r} is not the number of an example")
    return tuple(sorted(known))
