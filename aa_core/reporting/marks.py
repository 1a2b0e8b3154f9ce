"""What the charts are made of: colours, bars that say their sign three times, names shown literally."""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from aa_core.reporting.escape import chart_text, shorten, visible
from aa_core.reporting.glossary import fmt_effect, scale_of
from aa_core.reporting.sketch import INK, ZERO, Sketch

HELPED, HURT, NEUTRAL = "#0072B2", "#D55E00", "#8A8F98"
STAGES = ("#44AA99", "#DDCC77", "#882255", "#999933", "#AA4499", "#117733")
"""Paul Tol's muted scheme without its blues and its red, which would read as helped or hurt."""
CLEAR = "rgba(0,0,0,0)"
LAPS = ("", "/", "\\", "x")
"""Hatches of a strip of stages: where the colours begin again, the next."""
DARK = ("#882255", "#AA4499", "#117733")
CONFIG: dict[str, Any] = {"displayModeBar": False, "displaylogo": False, "responsive": True, "doubleClickDelay": 1}
"""How every chart is shown. The delay keeps Streamlit's selection when one clicks fast."""
Grid = Sequence[Sequence[float | None]]
AFTER = "\N{NO-BREAK SPACE}" * 5
"""Between a diamond and the value beside it."""
NEAR = 0.05
"""Of the width of a chart: what is nearer to a diamond is hidden by it."""
HATCHED = 200
"""Bars up to which a hatch can be seen."""
LINE, COLUMN = 22, 13
"""Characters of a name on each of its two lines: beside a bar, above or below a column."""
SLIM, BROAD = frozenset(" \N{NO-BREAK SPACE}.,:;'|!()[]{}°-/fijlrtI"), frozenset("mwMW@%…—")
"""Characters that are narrower and wider than others."""
BESIDE = 17
"""Pixels left of an axis that no name takes."""


def bars_of(ids: pd.Series, effects: pd.Series, unit: str) -> dict[str, Any]:
    """What all bars have in common: length, colour, hatch, id, hover."""
    pattern = {
        "shape": ["/" if e < 0 else "" for e in effects],
        "solidity": 0.35,
        "size": 6,
        "fillmode": "overlay",
        "bgcolor": HURT,
        "fgcolor": "white",
    }
    return {
        "y" if ids.name == "step" else "x": plain_list(effects),
        "marker": {
            "color": [HELPED if e > 0 else HURT if e < 0 else NEUTRAL for e in effects],
            "line": {"width": 0},
            **({"pattern": pattern} if len(effects) <= HATCHED else {}),
        },
        "customdata": plain_list(ids),
        "hovertext": [hover(i, e, unit) for i, e in zip(ids, effects, strict=True)],
        "hoverinfo": "text",
    }


def retrained_marks(frame: pd.DataFrame, unit: str) -> dict[str, Any]:
    """A diamond where the retrained effect lies, on the bar of the estimate. frame: stage, truth."""
    known = frame["truth"].notna().to_numpy()
    shown = frame[known]
    return {
        "x": plain_list(shown["truth"]),
        "y": [int(i) for i in known.nonzero()[0]],
        "mode": "markers",
        "marker": {"symbol": "diamond", "size": 11, "color": "#FFFFFF", "line": {"color": INK, "width": 2}},
        "customdata": plain_list(shown["stage"]),
        "hovertext": [
            f"{chart_text(stage)}<br>retrained {fmt_effect(truth)} {chart_text(unit)}"
            for stage, truth in zip(shown["stage"], shown["truth"], strict=True)
        ],
        "hoverinfo": "text",
        "cliponaxis": False,
    }


def value_labels(frame: pd.DataFrame, scale: float | None = None, shift: float = 0.0) -> dict[str, Any]:
    """The signed values, beyond the end of each bar, of its interval and of what was retrained."""
    scale = scale or scale_of(frame["effect"])
    known = frame[[c for c in ("effect", "low", "high", "truth") if c in frame]].astype(float)
    ends = known.max(axis=1).where(frame["effect"] >= 0, known.min(axis=1))
    span = max(known.max().max(), 0.0) - min(known.min().min(), 0.0)
    beyond = (ends - known.get("truth", math.nan)).abs() <= NEAR * span  # a diamond is there
    return {
        "x": plain_list(ends),
        "y": [i + shift for i in range(len(frame))],
        "mode": "text",
        "text": [
            f"{AFTER if far else ' '}{fmt_effect(e, scale)}{AFTER if far else ' '}"
            for e, far in zip(frame["effect"], beyond, strict=True)
        ],
        "textposition": ["middle left" if e < 0 else "middle right" for e in frame["effect"]],
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def name_axis(figure: Sketch, names: pd.Series, places: Sequence[int]) -> None:
    """Names down the left side; places are numbers, since a stage called "2020" must not become a number."""
    ticks = ["<br>".join(f"{chart_text(line)}  " for line in _lines(n)) for n in names]
    figure.yaxis(
        tickmode="array",
        tickvals=list(places),
        ticktext=ticks,
        range=[len(ticks) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.set(margin={"l": room_beside(ticks)})
    figure.xaxis(tickformat="~g", nticks=7, **zero_line())


def room_beside(ticks: Iterable[str]) -> int:
    """The left margin that names need at 12 pixels, about. Plotly gives wider ones more, but draws all again for it."""
    lines = (html.unescape(re.sub("<[^>]*>", "", line)) for tick in ticks for line in tick.split("<br>"))
    return BESIDE + round(max((sum(map(_width, line)) for line in lines), default=0.0))


def _width(c: str) -> float:
    return 3.1 if c in SLIM else 9.4 if c in BROAD else 6.6 if c.isupper() else 5.7


def columns_axis(figure: Sketch, names: Sequence[str], side: str) -> None:
    """Names above or below the columns of a map, in two lines at most."""
    ticks = ["<br>".join(chart_text(line) for line in _lines(n, COLUMN)) for n in names]
    # plotly would leave out a turned name that ends beyond the chart, of all names the last
    figure.xaxis(
        tickmode="array",
        tickvals=list(range(len(ticks))),
        ticktext=ticks,
        ticklabeloverflow="allow",
        showgrid=False,
        zeroline=False,
        side=side,
    )


def _lines(name: str, width: int = LINE) -> list[str]:
    first, *rest = textwrap.wrap(visible(name), width) or [""]
    return [first, shorten(" ".join(rest), width)] if rest else [first]


def stage_strip(figure: Sketch, blocks: Sequence[tuple[str, int, int]], row: int, names: Sequence[str] = ()) -> None:
    """Stages as coloured blocks along the steps; a name that does not fit is left to the hover.

    names: all stages of the run, where these are but some: each keeps its colour.
    """
    order = list(dict.fromkeys([*names, *(name for name, _, _ in blocks)]))
    colours, lap = stage_colours(order), {name: i // len(STAGES) % len(LAPS) for i, name in enumerate(order)}
    figure.add(
        "bar",
        row,
        **_along(blocks),
        marker={"color": [colours[n] for n, _, _ in blocks], "line": {"width": 0}},
        opacity=0.85,
        text=[chart_text(shorten(n, 32)) for n, _, _ in blocks],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        insidetextfont={"color": ["#FFFFFF" if colours[n] in DARK else "#1A1C20" for n, _, _ in blocks]},
        customdata=[n for n, _, _ in blocks],
        hoverinfo="text",
        hovertext=[f"{chart_text(n)}<br>steps {start} to {stop - 1}" for n, start, stop in blocks],
    )
    if again := [block for block in blocks if lap[block[0]]]:
        shapes = {"shape": [LAPS[lap[n]] for n, _, _ in again], "fgcolor": "rgba(255,255,255,.5)", "solidity": 0.15}
        clear = {"color": CLEAR, "line": {"width": 0}, "pattern": {"bgcolor": CLEAR, "fillmode": "overlay", **shapes}}
        figure.add("bar", row, **_along(again), marker=clear, hoverinfo="skip")
    figure.yaxis(row, visible=False, range=[-0.5, 0.5])
    figure.set(uniformtext={"mode": "hide", "minsize": 10})


def _along(blocks: Sequence[tuple[str, int, int]]) -> dict[str, Any]:
    """Bars along the steps."""
    return {
        "base": [start - 0.5 for _, start, _ in blocks],
        "x": [stop - start for _, start, stop in blocks],
        "y": [0] * len(blocks),
        "orientation": "h",
        "width": 1,
    }


def stage_colours(names: Iterable[str]) -> dict[str, str]:
    """{stage: colour}, in their order."""
    return {name: STAGES[i % len(STAGES)] for i, name in enumerate(dict.fromkeys(names))}


def hover(name: Any, effect: float, unit: str) -> str:
    """What a bar says of itself."""
    word = "helped" if effect > 0 else "hurt" if effect < 0 else "no effect"
    return f"{chart_text(name)}<br>{fmt_effect(effect)} {chart_text(unit)}: {word}"


def cell_words(effect: float | None, low: float | None, high: float | None, unsure: bool, scale: float) -> str:
    """ "+0.120"; "(+0.120)" where the interval includes zero; "+0.120?" where the readouts disagree in its sign."""
    words = fmt_effect(effect, scale)
    if low is not None and high is not None and low <= 0 <= high:
        words = f"({words})"
    return f"{words}?" if unsure else words


def grid_words(effect: Grid, low: Grid, high: Grid, unsure: Sequence[Sequence[bool]]) -> list[list[str]]:
    """`cell_words` of [stage][group], with one number of decimals; unsure: empty where that is not known."""
    scale = scale_of(v for row in effect for v in row)
    rows = zip(effect, low, high, unsure or [[False] * len(row) for row in effect], strict=True)
    return [[cell_words(*cell, scale) for cell in zip(*row, strict=True)] for row in rows]


def room(frame: pd.DataFrame, share: float = 0.24) -> list[float]:
    """The range of the bars with room for the text at their ends; [-1, 1] if all are zero."""
    values = [v for c in ("effect", "low", "high", "truth") if c in frame for v in frame[c].dropna()]
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    pad = share * (high - low)
    return [low - (pad if low < 0 else 0.04 * pad), high + (pad if high > 0 else 0.04 * pad)] if pad else [-1.0, 1.0]


def zero_line() -> dict[str, Any]:
    """A zero line that cannot be overlooked."""
    return {"zeroline": True, "zerolinecolor": ZERO, "zerolinewidth": 2}


def plain_list(column: pd.Series) -> list[Any]:
    """Plain values; JSON knows no NaN."""
    return [None if pd.isna(v) else v for v in column.tolist()]
