"""DataFrame -> chart, for reports and screens alike. Layout only; every number was computed before.

Bars say the sign three times (colour, hatch, signed text); names are shown literally; `customdata` carries the stage's
name or the step. Text has no colour of its own: the page's theme gives it one, light or dark.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from aa_core.reporting.bins import binned
from aa_core.reporting.escape import chart_text
from aa_core.reporting.glossary import axis_title, fmt_count, fmt_effect, scale_of, sign
from aa_core.reporting.marks import (
    CONFIG,
    HELPED,
    HURT,
    NEUTRAL,
    STAGES,
    ZERO,
    bars_of,
    hover,
    name_axis,
    plain_list,
    room,
    stage_colours,
    stage_strip,
    style,
    value_labels,
    zero_line,
)
from aa_core.stages import Stage

__all__ = [
    "CONFIG",
    "HELPED",
    "HURT",
    "NEUTRAL",
    "STAGES",
    "agreement_scatter",
    "compare_bars",
    "stage_bars",
    "stage_timeline",
    "step_bars",
]

ROW, PAIR = 34, 54
"""Height of a bar, and of a pair of bars, pixels."""


def stage_bars(
    frame: pd.DataFrame,
    unit: str,
    selected: str | Collection[str] | None = None,
    *,
    performance: str = "performance",
) -> go.Figure:
    """One bar a stage, in the order of training. frame: stage, effect [, low, high: ends of the interval]."""
    chosen = {selected} if isinstance(selected, str) else set(selected or ())
    bars = bars_of(frame["stage"], frame["effect"], unit)
    bars["marker"]["opacity"] = [1.0 if not chosen or s in chosen else 0.3 for s in frame["stage"]]
    if "low" in frame and frame["low"].notna().any():
        above, below = frame["high"] - frame["effect"], frame["effect"] - frame["low"]
        bars["error_x"] = {
            "array": plain_list(above),
            "arrayminus": plain_list(below),
            "color": ZERO,
            "thickness": 1.5,
            "width": 4,
        }
    figure = go.Figure([go.Bar(y=list(range(len(frame))), orientation="h", width=0.62, **bars), value_labels(frame)])
    name_axis(figure, frame["stage"], range(len(frame)))
    figure.update_xaxes(title_text=axis_title(performance, unit), range=room(frame))
    return style(figure, "Effect of each stage", [sign()], 48 + ROW * len(frame), "stages")


def step_bars(frame: pd.DataFrame, unit: str, *, performance: str = "performance") -> go.Figure:
    """One bar a step, above a strip of its stages. frame: step, stage, effect. Neighbours are summed above 2,000."""
    shown, width = binned(frame[["step", "stage", "effect"]], "sum")
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.92, 0.08], vertical_spacing=0.03)
    figure.add_bar(
        x=plain_list(shown["step"] + (width - 1) / 2),
        width=0.85 * width,
        **bars_of(shown["step"], shown["effect"], unit),
        row=1,
        col=1,
    )
    stage_strip(figure, _blocks_of(frame), row=2)
    figure.update_traces(
        hovertext=[hover(f"step {step}, {stage}", e, unit) for step, stage, e in shown.itertuples(index=False)], row=1
    )
    figure.update_yaxes(title_text=axis_title(performance, unit), tickformat="~g", row=1, col=1)
    figure.update_xaxes(title_text="step", row=2, col=1)
    note = [f"each bar is the sum of {width} neighbouring steps"] if width > 1 else []
    return style(figure, "Effect of each step", [sign("step"), *note], 350, "steps")


def stage_timeline(stages: Sequence[Stage], log_frame: pd.DataFrame) -> go.Figure:
    """The training: stages as coloured blocks over loss and learning rate. log_frame: step, stage, loss, lr."""
    columns = [c for c in ("loss", "lr") if c in log_frame]
    shown, width = binned(log_frame[["step", "stage", *columns]], "mean")
    heights = [0.1, *({"loss": 0.57, "lr": 0.33}[c] for c in columns)]
    figure = make_subplots(len(heights), 1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.05)
    blocks = [(s.name, a, b) for s in stages for a, b in s.blocks]
    stage_strip(figure, blocks, row=1)
    for row, column in enumerate(columns, 2):
        line = {"color": NEUTRAL, "width": 1.4, "shape": "hv" if column == "lr" else "linear"}
        figure.add_scatter(
            x=plain_list(shown["step"]),
            y=plain_list(shown[column]),
            mode="lines",
            line=line,
            name=column,
            customdata=plain_list(shown["step"]),
            hovertemplate=f"step %{{x}}<br>{column} %{{y:.4g}}<extra></extra>",
            row=row,
            col=1,
        )
        figure.update_yaxes(
            title_text={"loss": "training loss", "lr": "learning rate"}[column],
            nticks=5,
            rangemode="tozero",
            row=row,
            col=1,
        )
    colours = stage_colours(blocks)
    figure.update_layout(
        shapes=[  # all at once: one by one each takes Plotly a walk through all of the figure
            _band(start - 0.5, stop - 0.5, colours[name], axis)
            for name, start, stop in blocks
            for axis in ("", *range(2, len(heights) + 1))
        ]
    )
    figure.update_xaxes(title_text="step", row=len(heights), col=1)
    note = f", means of {width} neighbouring steps" if width > 1 else ""
    return style(figure, "The training", [f"stages over loss and learning rate{note}"], 336, "timeline")


def agreement_scatter(frame: pd.DataFrame, unit: str = "nats", *, performance: str = "performance") -> go.Figure:
    """Estimated against retrained effects, one point a pair. frame: estimate, truth [, example]."""
    figure = go.Figure()
    low, high = (f(f(frame["estimate"], default=0.0), f(frame["truth"], default=0.0), 0.0) for f in (min, max))
    pad = 0.06 * (high - low or 1.0)
    ends = [low - pad, high + pad]
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": ZERO, "dash": "dot", "width": 1},
        hoverinfo="skip",
        name="estimate = retrained",
    )
    same = frame["estimate"] * frame["truth"] >= 0
    looks = {
        "same sign": (same, {"color": NEUTRAL, "symbol": "circle", "opacity": 0.75, "size": 6}),
        "opposite sign": (~same, {"color": "#AA4499", "symbol": "x", "size": 7}),
    }
    for name, (rows, marker) in looks.items():
        part = frame[rows]
        ids = plain_list(part["example"]) if "example" in part else plain_list(part.index)
        texts = [
            f"{chart_text(i)}<br>estimate {fmt_effect(e)}<br>retrained {fmt_effect(t)}"
            for i, e, t in zip(ids, part["estimate"], part["truth"], strict=True)
        ]
        figure.add_scatter(
            x=plain_list(part["estimate"]),
            y=plain_list(part["truth"]),
            mode="markers",
            marker=marker,
            customdata=ids,
            hovertext=texts,
            hoverinfo="text",
            name=f"{name} ({fmt_count(len(part))})",
        )
    words = axis_title(performance, unit)
    figure.update_xaxes(title_text=f"estimated {words}", range=ends, **zero_line())
    figure.update_yaxes(title_text=f"retrained {words}", range=ends, **zero_line())
    figure.update_layout(showlegend=True, legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"})
    return style(figure, "Estimate against retraining", [sign()], 390, "agreement")


def compare_bars(
    frame: pd.DataFrame,
    unit: str,
    *,
    performance: str = "performance",
    words: Sequence[str] = ("estimated", "retrained"),
    title: str = "Estimated and retrained",
) -> go.Figure:
    """Two bars a stage or counterfactual, the first one pale. frame: stage, estimate, truth."""
    figure, scale = go.Figure(), scale_of([*frame["estimate"], *frame["truth"]])
    for column, word, shift, opacity in (("estimate", words[0], -0.2, 0.45), ("truth", words[1], 0.2, 1.0)):
        part = frame.assign(effect=frame[column])
        bars = bars_of(part["stage"], part["effect"], unit)
        bars["marker"]["opacity"] = opacity
        figure.add_bar(y=[i + shift for i in range(len(part))], orientation="h", width=0.36, name=word, **bars)
        figure.add_trace(value_labels(part, scale, shift))
    name_axis(figure, frame["stage"], range(len(frame)))
    both = pd.concat([frame["estimate"], frame["truth"]])
    figure.update_xaxes(title_text=axis_title(performance, unit), range=room(pd.DataFrame({"effect": both})))
    key = f"pale = {words[0]}, full = {words[1]}"
    return style(figure, title, [sign(), key], 48 + PAIR * len(frame), "compare")


def _band(start: float, stop: float, colour: str, axis: str | int) -> dict[str, Any]:
    """A stage behind the lines of one subplot, over its whole height."""
    return {
        "type": "rect",
        "xref": f"x{axis}",
        "x0": start,
        "x1": stop,
        "yref": f"y{axis} domain",
        "y0": 0,
        "y1": 1,
        "fillcolor": colour,
        "opacity": 0.1,
        "line": {"width": 0},
        "layer": "below",
    }


def _blocks_of(frame: pd.DataFrame) -> list[tuple[str, int, int]]:
    changes = (frame["stage"] != frame["stage"].shift()) | (frame["step"].diff() != 1)
    grouped = frame.groupby(changes.cumsum().to_numpy())
    return [(g["stage"].iloc[0], int(g["step"].iloc[0]), int(g["step"].iloc[-1]) + 1) for _, g in grouped]
