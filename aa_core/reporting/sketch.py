"""A chart as plain values, which Plotly checks once, when it is finished: each change afterwards walks through it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

GRID, ZERO = "rgba(128,128,128,0.22)", "rgba(128,128,128,0.95)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
INK = "#22262B"
AXES: dict[str, Any] = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 12}},
}
TITLED = 76
"""Pixels that figures and a title take at the left, about. Plotly makes room for more, but draws all again for it."""
LOOK: dict[str, Any] = {
    "template": {},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": FONT, "size": 12},
    "showlegend": False,
    "hovermode": "closest",
    "barmode": "overlay",
    "dragmode": False,
    "hoverlabel": {"bgcolor": INK, "bordercolor": INK, "font": {"color": "#FFFFFF", "family": FONT}},
    "title": {
        "font": {"size": 15},
        "x": 0,
        "xref": "container",
        "xanchor": "left",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 20, "l": 2},
    },
}
"""No background, no box, a quiet grid, the title at the left."""


class Sketch:
    """Traces and layout of a chart to be. With `heights`, its rows stand one above the other and share their x axis."""

    def __init__(self, heights: Sequence[float] = (1.0,), spacing: float = 0.0) -> None:
        self._traces: list[dict[str, Any]] = []
        self._rows = len(heights)
        self._layout: dict[str, Any] = deepcopy(_stacked(tuple(heights), spacing))

    def add(self, kind: str, row: int = 1, **trace: Any) -> None:
        """A trace of this type; rows count from 1 at the top."""
        number = row if row > 1 else ""
        axes = {"xaxis": f"x{number}", "yaxis": f"y{number}"} if self._rows > 1 else {}
        self._traces.append({"type": kind, **trace, **axes})

    def xaxis(self, row: int | None = None, **settings: Any) -> None:
        """Settings of the x axis of a row, of all rows if it is None; what is nested is merged."""
        self._axis("x", row, settings)

    def yaxis(self, row: int | None = None, **settings: Any) -> None:
        """The same for the y axis."""
        self._axis("y", row, settings)

    def set(self, **settings: Any) -> None:
        """Settings of the layout; what is nested is merged."""
        _merge(self._layout, settings)

    def done(self, title: str, lines: Sequence[str], height: int, revision: str) -> go.Figure:
        """The chart in the common look, where nothing else was set; `height` is without the title's lines."""
        top = 44 + 17 * len(lines) + (28 if self._layout.get("showlegend") else 0)
        words = "".join(f"<br><span style='font-size:12px'>{line}</span>" for line in lines)
        layout = deepcopy(LOOK) | {
            "height": height + top,
            "margin": {"l": TITLED if self._has_titled_rows else 8, "r": 24, "t": top, "b": 50},
            "uirevision": revision,
        }
        layout["title"]["text"] = f"<b>{title}</b>{words}"
        for row in range(1, self._rows + 1):
            layout[_name("x", row)] = deepcopy(AXES) | {"zeroline": False}
            layout[_name("y", row)] = deepcopy(AXES) | {"zerolinecolor": ZERO, "zerolinewidth": 2}
        return go.Figure(self._traces, _merge(layout, self._layout))

    @property
    def _has_titled_rows(self) -> bool:
        return any("title" in self._layout.get(_name("y", row), {}) for row in range(1, self._rows + 1))

    def _axis(self, which: str, row: int | None, settings: dict[str, Any]) -> None:
        for number in range(1, self._rows + 1) if row is None else (row,):
            _merge(self._layout.setdefault(_name(which, number), {}), settings)


def _name(which: str, row: int) -> str:
    return f"{which}axis{row if row > 1 else ''}"


def _merge(into: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    for name, value in settings.items():
        inner = into.get(name)
        into[name] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return into


@cache
def _stacked(heights: tuple[float, ...], spacing: float) -> dict[str, Any]:
    if len(heights) == 1:
        return {}
    figure = make_subplots(len(heights), 1, shared_xaxes=True, row_heights=heights, vertical_spacing=spacing)
    layout: dict[str, Any] = figure.to_dict()["layout"]
    return {name: value for name, value in layout.items() if "axis" in name}
