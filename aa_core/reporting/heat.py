"""Stage x subgroup as tinted cells that say their number."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from aa_core.reporting.escape import chart_text, shorten
from aa_core.reporting.glossary import axis_title, fmt_count, scale_of, sign
from aa_core.reporting.marks import HELPED, HURT, Grid, columns_axis, grid_words, hover
from aa_core.reporting.sketch import Sketch

CELL, HEAD = 30, 116
"""Height of a row, and of what stands below the cells, pixels."""
NAMES, COLUMN, FEW = 160, 48, 8
"""Width of the groups' names and, at least, of a column, pixels; how many columns leave room for larger numbers."""
PALE = 1.7
"""The strongest effect is tinted as if it were this much weaker: the number on it must stay readable."""
SCALE = [[0, HURT], [0.5, "rgba(213,94,0,0)"], [0.5, "rgba(0,114,178,0)"], [1, HELPED]]
"""No tint at zero: whatever the page is coloured shows through."""


def least_width(columns: int) -> int:
    """In pixels: in less, its numbers would run into each other."""
    return NAMES + COLUMN * columns


def heat_map(
    stage: Sequence[str],
    group: Sequence[str],
    n: Sequence[int],
    effect: Grid,
    low: Grid,
    high: Grid,
    unsure: Sequence[Sequence[bool]],
    performance: str,
    unit: str,
    title: str,
) -> go.Figure:
    """Mean effect of each stage on each subgroup: grids as of `marks.grid_words`, n is [group]. Rows are subgroups."""
    scale = scale_of(v for row in effect for v in row)
    by_group = [list(row) for row in zip(*effect, strict=True)]
    figure = Sketch()
    figure.add(
        "heatmap",
        z=by_group,
        x=list(range(len(stage))),
        y=list(range(len(group))),
        zmin=-PALE * scale or -1.0,
        zmax=PALE * scale or 1.0,
        colorscale=SCALE,
        showscale=False,
        xgap=2,
        ygap=2,
        text=[list(row) for row in zip(*grid_words(effect, low, high, unsure), strict=True)],
        texttemplate="%{text}",
        textfont={"size": 11 if len(stage) <= FEW else 9},  # by itself plotly shrinks all to what fits the longest
        customdata=[[[s, g] for s in stage] for g in group],
        hovertext=[
            [f"{hover(f'{s}, {g}', v or 0.0, unit)}<br>n = {fmt_count(k)}" for s, v in zip(stage, row, strict=True)]
            for g, k, row in zip(group, n, by_group, strict=True)
        ],
        hoverinfo="text",
    )
    rows = [f"{chart_text(shorten(g, 28))}  <br>n = {fmt_count(k)}  " for g, k in zip(group, n, strict=True)]
    figure.yaxis(zeroline=False, tickvals=list(range(len(rows))), ticktext=rows, autorange="reversed", showgrid=False)
    columns_axis(figure, stage, "bottom")
    lines = [sign(), axis_title(performance, unit)]
    return figure.done(chart_text(title), lines, HEAD + CELL * len(rows), "heat")
