"""Charts that only screens have: heat maps, splits of an effect, and the path of the performance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard.service import glossary, marks, sketch
from dashboard.words import chart_text

DIVERGING = [
    [0, "rgba(213,94,0,.62)"],
    [0.5, "rgba(213,94,0,0)"],
    [0.5, "rgba(0,114,178,0)"],
    [1, "rgba(0,114,178,.62)"],
]
"""Hurt to helped; near zero the page shows through. The figures in the cells stay readable in both themes."""
ROW, WIDEST = 34, 24
PARTS = ("#44AA99", "#DDCC77", "#882255", "#999933", "#AA4499", "#117733", "#88CCEE", "#CC6677")
ROSE, FELL = "#44AA99", "#AA4499"


def effect_map(frame: pd.DataFrame, unit: str) -> go.Figure:
    """Stages across, groups down. frame: group, stage, effect, low, high, n. In brackets: zero is in the interval."""
    stages, names = list(dict.fromkeys(frame["stage"])), list(dict.fromkeys(frame["group"]))
    scale = glossary.scale_of(frame["effect"])
    cells = {(r.group, r.stage): r for r in frame.itertuples()}
    grid = [[cells[g, s] for s in stages] for g in names]
    sizes = dict(zip(frame["group"], frame["n"], strict=True))
    return _map(
        [[r.effect for r in row] for row in grid],
        [[_cell_words(r, scale) for r in row] for row in grid],
        [[_cell_hover(r, unit) for r in row] for row in grid],
        stages,
        [f"{chart_text(_short(g))}  <span style='font-size:11px'>n = {sizes[g]:,}</span>" for g in names],
        scale,
    )  # fmt: skip


def cosine_map(cosines: pd.DataFrame) -> go.Figure:
    """How far two stages moved the final weights the same way: 1 the same, 0 unrelated, -1 against each other."""
    names = list(cosines.index)
    values = cosines.to_numpy().tolist()
    words = [[glossary.fmt_correlation(v) for v in row] for row in values]
    both = [[f"{chart_text(a)}<br>{chart_text(b)}" for b in names] for a in names]
    hovers = [[f"{n}<br>cosine {w}" for n, w in zip(*row, strict=True)] for row in zip(both, words, strict=True)]
    return _map(values, words, hovers, names, [chart_text(_short(n)) for n in names], 1.0)


def split_bars(frame: pd.DataFrame, part: str, unit: str, performance: str) -> go.Figure:
    """One bar a stage, made of its parts: helped to the right, hurt to the left. frame: stage, PART, effect.

    A part that is zero in all stages is left out.
    """
    stages, names = list(dict.fromkeys(frame["stage"])), list(dict.fromkeys(frame.loc[frame["effect"] != 0, part]))
    figure = sketch.Sketch()
    for i, name in enumerate(names):
        own = frame[frame[part] == name].set_index("stage")["effect"].reindex(stages, fill_value=0.0)
        figure.add(
            "bar",
            x=own.tolist(),
            y=list(range(len(stages))),
            orientation="h",
            width=0.62,
            name=chart_text(_short(name)),
            marker={"color": PARTS[i % len(PARTS)], "pattern": {"shape": "" if i < len(PARTS) else "x"}},
            hovertext=[f"{chart_text(name)}<br>{marks.hover(s, e, unit)}" for s, e in own.items()],
            hoverinfo="text",
        )
    marks.name_axis(figure, pd.Series(stages), range(len(stages)))
    figure.xaxis(title={"text": glossary.axis_title(performance, unit)})
    figure.set(barmode="relative", showlegend=True, legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"})
    return figure.done("Parts", [glossary.sign()], 48 + ROW * len(stages), f"parts-{part}")


def waterfall(shares: pd.DataFrame, start: float, unit: str, performance: str) -> go.Figure:
    """From the first weights to the last: what the performance gained or lost meanwhile. shares: stage, share."""
    names = ["At the start", *shares["stage"], "At the end"]
    values = [start, *shares["share"], start + shares["share"].sum()]
    labels = [glossary.fmt_number(start), *map(glossary.fmt_effect, shares["share"]), glossary.fmt_number(values[-1])]
    figure = sketch.Sketch()
    figure.add(
        "waterfall",
        orientation="h",
        measure=["absolute", *["relative"] * len(shares), "total"],
        y=list(range(len(names))),
        x=values,
        text=labels,
        textposition="outside",
        cliponaxis=False,
        increasing={"marker": {"color": ROSE}},
        decreasing={"marker": {"color": FELL}},
        totals={"marker": {"color": marks.NEUTRAL}},
        connector={"line": {"color": sketch.GRID}},
        hovertext=[f"{chart_text(n)}<br>{w} {chart_text(unit)}" for n, w in zip(names, labels, strict=True)],
        hoverinfo="text",
    )
    marks.name_axis(figure, pd.Series(names), range(len(names)))
    low, high = _reach(start, shares["share"])
    pad = 0.22 * (high - low or 1.0)
    figure.xaxis(title={"text": f"{performance}, {glossary.unit_words(unit)}"}, range=[low - pad, high + pad])
    return figure.done("Path", [], 48 + ROW * len(names), "path")


def _reach(start: float, shares: pd.Series) -> tuple[float, float]:
    path = [0.0, start, *(start + shares.cumsum())]
    return min(path), max(path)


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
    ticks: dict[str, Any] = {"tickmode": "array", "showgrid": False, "zeroline": False}
    figure.xaxis(
        tickvals=list(range(len(across))), ticktext=[chart_text(_short(a, 16)) for a in across], side="top", **ticks
    )
    figure.yaxis(tickvals=list(range(len(down))), ticktext=list(down), autorange="reversed", **ticks)
    figure.set(margin={"b": 12})
    return figure.done("Map", [], 60 + ROW * len(down), "map")


def _cell_hover(cell: Any, unit: str) -> str:
    return f"{chart_text(cell.group)}<br>{marks.hover(cell.stage, cell.effect, unit)}<br>n = {cell.n:,}"


def _cell_words(cell: Any, scale: float) -> str:
    words = glossary.fmt_effect(cell.effect, scale)
    unsure = pd.notna(cell.low) and cell.low <= 0 <= cell.high
    return f"({words})" if unsure else words


def _short(name: object, length: int = WIDEST) -> str:
    text = str(name)
    return text if len(text) <= length else f"{text[: length - 1]}…"
