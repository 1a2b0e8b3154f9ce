"""What an effect is made of, and how the performance got from its start to its end, as charts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from aa_core.reporting.escape import chart_text, shorten
from aa_core.reporting.glossary import axis_title, fmt_effect, fmt_number, scale_of, sign, unit_words
from aa_core.reporting.marks import NEUTRAL, hover, name_axis
from aa_core.reporting.sketch import GRID, Sketch

PARTS = ("#44AA99", "#DDCC77", "#882255", "#999933", "#AA4499", "#117733", "#88CCEE", "#CC6677")
MOST = 2 * len(PARTS)
"""Each colour plain, and hatched."""
ROSE, FELL = "#44AA99", "#AA4499"
ENDS = ("At the start", "At the end")
ROW, WIDEST, LEGEND = 34, 24, 19


def split_bars(frame: pd.DataFrame, part: str, unit: str, performance: str, title: str = "Parts") -> go.Figure:
    """One bar a stage, made of its parts: helped to the right, hurt to the left, their sum at its end. frame: stage,
    PART, effect.

    Of more parts than can be told apart, those that do least are added up.
    """
    stages, parts = list(dict.fromkeys(frame["stage"])), list(dict.fromkeys(frame[part]))
    grid = frame.pivot(index="stage", columns=part, values="effect").reindex(index=stages, columns=parts)
    names, effects = told_apart(parts, grid.fillna(0.0).to_numpy().tolist())
    figure = Sketch()
    for i, name in enumerate(names):
        own = [of_stage[i] for of_stage in effects]
        figure.add(
            "bar",
            x=own,
            y=list(range(len(stages))),
            orientation="h",
            width=0.62,
            name=chart_text(shorten(name, WIDEST)),
            marker={"color": PARTS[i % len(PARTS)], "pattern": {"shape": "" if i < len(PARTS) else "x"}},
            hovertext=[f"{chart_text(name)}<br>{hover(s, e, unit)}" for s, e in zip(stages, own, strict=True)],
            hoverinfo="text",
        )
    totals = [math.fsum(of_stage) for of_stage in effects]
    ends = [math.fsum(e for e in of_stage if e > 0) for of_stage in effects]
    figure.add(
        "scatter",
        x=ends,
        y=list(range(len(stages))),
        mode="text",
        text=[f" {fmt_effect(total, scale_of(totals))} " for total in totals],
        textposition="middle right",
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )
    name_axis(figure, pd.Series(stages), range(len(stages)))
    low = min(math.fsum(e for e in of_stage if e < 0) for of_stage in effects)
    width = max(ends) - low or 1.0
    span = [low - 0.02 * width, max(ends) + 0.2 * width]
    figure.xaxis(title={"text": axis_title(performance, unit)}, range=span)
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "maxheight": 1}
    figure.set(barmode="relative", showlegend=True, legend=legend)
    drawn = figure.done(chart_text(title), [sign()], 48 + ROW * len(stages), f"parts-{part}")
    more = legend_room(drawn)
    return drawn.update_layout(height=drawn.layout.height + more, margin_t=drawn.layout.margin.t + more)


def legend_room(figure: go.Figure) -> int:
    """Pixels above the bars for further rows of a legend; it has three entries a row, where the page is narrow."""
    entries = sum(trace.name is not None for trace in figure.data) if figure.layout.showlegend else 0
    return LEGEND * (max(1, math.ceil(entries / 3)) - 1)


def told_apart(parts: Sequence[str], effects: Sequence[Sequence[float | None]]) -> tuple[list[str], list[list[float]]]:
    """(at most `MOST` parts, their effects); effects: [stages, parts].

    What is zero in all stages is left out. Of those that do least in every stage, what helped is added up, and what
    hurt.
    """
    rows = [[e or 0.0 for e in of_stage] for of_stage in effects]
    largest = {j: max(abs(row[j]) for row in rows) for j in range(len(parts)) if any(row[j] for row in rows)}
    apart = sorted(largest, key=lambda j: -largest[j])[: MOST - 2 if len(largest) > MOST else MOST]
    kept, rest = [j for j in largest if j in apart], [j for j in largest if j not in apart]
    names, told = [str(parts[j]) for j in kept], [[row[j] for j in kept] for row in rows]
    for word, way in (("help", 1), ("hurt", -1)) if rest else ():
        names.append(f"{len(rest)} others, where they {word}")
        told = [[*own, sum(row[j] for j in rest if row[j] * way > 0)] for own, row in zip(told, rows, strict=True)]
    return names, told


def waterfall(shares: pd.DataFrame, start: float | None, unit: str, performance: str, title: str = "Path") -> go.Figure:
    """From the first weights to the last: what the performance gained or lost meanwhile. shares: stage, share."""
    names = [ENDS[0], *shares["stage"], ENDS[1]]
    labels = path_labels(start, shares["share"].tolist())
    start, gained = start or 0.0, shares["share"].fillna(0.0)
    values = [start, *gained, start + gained.sum()]
    figure = Sketch()
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
        totals={"marker": {"color": NEUTRAL}},
        connector={"line": {"color": GRID}},
        hovertext=[f"{chart_text(n)}<br>{w} {chart_text(unit)}" for n, w in zip(names, labels, strict=True)],
        hoverinfo="text",
    )
    name_axis(figure, pd.Series(names), range(len(names)))
    path = [0.0, start, *(start + gained.cumsum())]
    low, high = min(path), max(path)
    pad = 0.22 * (high - low or 1.0)
    figure.xaxis(title={"text": f"{performance}, {unit_words(unit)}"}, range=[low - pad, high + pad])
    return figure.done(chart_text(title), [], 48 + ROW * len(names), "path")


def path_labels(start: float | None, shares: Sequence[float | None]) -> list[str]:
    """The two ends as numbers, what lies between them with its sign; what is not known adds nothing."""
    end = sum(v for v in (start, *shares) if v is not None and math.isfinite(v))
    return [fmt_number(start), *map(fmt_effect, shares), fmt_number(end)]
