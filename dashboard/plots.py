"""Charts that only screens have: heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard.light import escape, glossary, marks, sketch
from dashboard.words import chart_text

DIVERGING = [
    [0, "rgba(213,94,0,.62)"],
    [0.5, "rgba(213,94,0,0)"],
    [0.5, "rgba(0,114,178,0)"],
    [1, "rgba(0,114,178,.62)"],
]
"""Hurt to helped; near zero the page shows through. The figures in the cells stay readable in both themes."""
ROW, WIDEST = 34, 24
BEYOND = 12
"""Pixels that names beside a map take more than those beside bars."""


def effect_map(frame: pd.DataFrame, unit: str) -> go.Figure:
    """Stages across, groups down. frame: group, stage, effect, low, high, unsure, n; cells as of `marks.cell_words`."""
    stages, names = list(dict.fromkeys(frame["stage"])), list(dict.fromkeys(frame["group"]))
    scale = glossary.scale_of(frame["effect"])
    cells = {(r.group, r.stage): r for r in frame.itertuples()}
    grid = [[cells[g, s] for s in stages] for g in names]
    sizes = dict(zip(frame["group"], frame["n"], strict=True))
    return _map(
        [[r.effect for r in row] for row in grid],
        [[marks.cell_words(r.effect, r.low, r.high, r.unsure, scale) for r in row] for row in grid],
        [[_cell_hover(r, unit) for r in row] for row in grid],
        stages,
        [f"{_named(g)}  <span style='font-size:11px'>n = {sizes[g]:,}</span>" for g in names],
        scale,
    )  # fmt: skip


def cosine_map(cosines: pd.DataFrame) -> go.Figure:
    """How far two stages moved the final weights the same way: 1 the same, 0 unrelated, -1 against each other."""
    names = list(cosines.index)
    values = cosines.to_numpy().tolist()
    words = [[glossary.fmt_correlation(v) for v in row] for row in values]
    both = [[f"{chart_text(a)}<br>{chart_text(b)}" for b in names] for a in names]
    hovers = [[f"{n}<br>cosine {w}" for n, w in zip(*row, strict=True)] for row in zip(both, words, strict=True)]
    return _map(values, words, hovers, names, [_named(n) for n in names], 1.0)


def _map(
    values: list[list[float]],
    words: list[list[str]],
    hovers: list[list[str]],
    across: Sequence[str],
    down: Sequence[str],
    scale: float,
) -> go.Figure:
    figure = sketch.Sketch()
    figure.add(
        "heatmap",
        z=values,
        text=words,
        texttemplate="%{text}",
        hovertext=hovers,
        hoverinfo="text",
        zmin=-scale,
        zmax=scale,
        colorscale=DIVERGING,
        showscale=False,
        xgap=2,
        ygap=2,
    )
    marks.columns_axis(figure, across, "top")
    figure.yaxis(
        tickmode="array",
        tickvals=list(range(len(down))),
        ticktext=list(down),
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    figure.set(margin={"l": BEYOND + marks.room_beside(down), "b": 12})
    return figure.done("Map", [], 60 + ROW * len(down), "map")


def _cell_hover(cell: Any, unit: str) -> str:
    return f"{chart_text(cell.group)}<br>{marks.hover(cell.stage, cell.effect, unit)}<br>n = {cell.n:,}"


def _named(name: object) -> str:
    return chart_text(escape.shorten(name, WIDEST))
