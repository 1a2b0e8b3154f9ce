"""Charts on a page: how they are shown, and what a click on a bar means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.light import Stage, breakdown, figures, glossary

INK = {"light": "#3A4454", "dark": "#D5DBE3"}
"""Streamlit's own chart text is too pale to read in the light theme."""
FONT = '"Source Sans", sans-serif'


def show(figure: go.Figure, key: str, alt: str) -> None:
    """A chart to look at."""
    st.plotly_chart(_on_page(figure), key=key, config=figures.CONFIG, alt=alt)


def training(stages: Sequence[Stage], log: pd.DataFrame, key: str = "timeline") -> None:
    """The stages over what was recorded of each step."""
    curves = glossary.listed(words for name, words in glossary.CURVES.items() if name in log)
    alt = f"{curves.capitalize()} over the steps, with the stages as coloured blocks"
    st.subheader("The training", anchor=False)
    show(figures.stage_timeline(stages, log), key, alt)


def clickable(figure: go.Figure, key: str, alt: str, picked: Callable[[Any], None]) -> None:
    """A chart whose bars can be clicked; `picked` gets the id that the bar carries in `customdata`."""

    def clicked() -> None:
        for identifier in ids(st.session_state.get(key)):
            picked(identifier)

    st.plotly_chart(
        _on_page(figure), key=key, config=figures.CONFIG, alt=alt, on_select=clicked, selection_mode="points"
    )


def ids(state: Any) -> list[Any]:
    """The id of the clicked bar, if there is one."""
    points = ((state or {}).get("selection") or {}).get("points") or []
    found = [point.get("customdata") for point in points]
    return [f[0] if isinstance(f, list | tuple) else f for f in found if f is not None][:1]


def _on_page(figure: go.Figure) -> go.Figure:
    """The report's figure in the page's font; its title is the page's business, so the room for it goes."""
    room = 30 + breakdown.legend_room(figure) if figure.layout.showlegend else 6
    ink = INK.get(st.context.theme.type or "")
    layout = figure.layout  # one by one: an update of many walks through the whole figure
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        axis.tickfont.color = axis.title.font.color = ink
    for axis in figure.select_yaxes():
        axis.title.standoff = 16
    for cells in figure.select_traces({"type": "heatmap"}):
        cells.textfont.color = ink
    layout.title = None
    layout.font = {"family": FONT, "color": ink}
    layout.legend.font.color = ink
    layout.height = layout.height - layout.margin.t + room
    layout.margin.t = max(room, _names_above(layout))
    return figure


def _names_above(layout: go.Layout) -> int:
    """The top margin that names above the columns of a map need: plotly would make it, but draw all again for it."""
    names = layout.xaxis.ticktext if layout.xaxis.side == "top" else None
    return 27 + 15 * max(1 + name.count("<br>") for name in names) if names else 0
