"""DataFrame -> chart, for reports and screens alike. Layout only; every number was computed before.

Bars say the sign three times (colour, hatch, signed text); names are shown literally; `customdata` carries the stage's
name or the step. Text has no colour of its own: the page's theme gives it one, light or dark.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from aa_core.reporting.bins import binned, spans_decades
from aa_core.reporting.escape import chart_text
from aa_core.reporting.glossary import CURVES, axis_title, fmt_count, fmt_effect, listed, scale_of, sign
from aa_core.reporting.marks import (
    CONFIG,
    HELPED,
    HURT,
    NEUTRAL,
    STAGES,
    bars_of,
    hover,
    name_axis,
    plain_list,
    retrained_marks,
    room,
    stage_colours,
    stage_strip,
    value_labels,
    zero_line,
)
from aa_core.reporting.sketch import ZERO, Sketch
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
STRIP, CURVE = 34, {"loss": 191, "lr": 111, "grad_norm": 111}
"""Height of the stages, and of each curve below them, pixels."""


def stage_bars(
    frame: pd.DataFrame,
    unit: str,
    selected: str | Collection[str] | None = None,
    *,
    performance: str = "performance",
    title: str = "Effect of each stage",
    meaning: str | None = None,
) -> go.Figure:
    """One bar a stage, in the order of training. frame: stage, effect [, low, high: ends of the interval; truth: the
    effect as retrained, a diamond; NaN where it was not].

    meaning: what a positive effect is, where it is not that the stage helped.
    """
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
    figure = Sketch()
    figure.add("bar", y=list(range(len(frame))), orientation="h", width=0.62, **bars)
    figure.add("scatter", **value_labels(frame))
    if "truth" in frame and frame["truth"].notna().any():
        figure.add("scatter", **retrained_marks(frame, unit))
    name_axis(figure, frame["stage"], range(len(frame)))
    figure.xaxis(title={"text": axis_title(performance, unit)}, range=room(frame))
    return figure.done(chart_text(title), [sign() if meaning is None else meaning], 48 + ROW * len(frame), "stages")


def step_bars(
    frame: pd.DataFrame,
    unit: str,
    *,
    performance: str = "performance",
    chosen: int | None = None,
    stages: Sequence[str] = (),
) -> go.Figure:
    """One bar a step, above a strip of its stages; a dotted line through the chosen step.

    frame: step, stage, effect. Neighbours are summed above 2,000. stages: all of the run, as of `stage_strip`.
    """
    shown, width = binned(frame[["step", "stage", "effect"]], "sum")
    figure = Sketch([0.92, 0.08], 0.03)
    bars = bars_of(shown["step"], shown["effect"], unit)
    bars["hovertext"] = [hover(f"step {step}, {stage}", e, unit) for step, stage, e in shown.itertuples(index=False)]
    figure.add("bar", x=plain_list(shown["step"] + (width - 1) / 2), width=0.85 * width, **bars)
    stage_strip(figure, _blocks_of(frame), row=2, names=stages)
    figure.yaxis(1, title={"text": axis_title(performance, unit)}, tickformat="~g")
    figure.xaxis(2, title={"text": "step"})
    figure.set(hovermode="x")  # all above and below a bar is the bar's: one of a tiny effect could not be hit
    if chosen is not None:
        line = {"color": NEUTRAL, "dash": "dot", "width": 1.5}
        figure.set(
            shapes=[
                {"type": "line", "x0": chosen, "x1": chosen, "y0": 0, "y1": 1, "line": line, **on}
                for on in (_domain(1), _domain(2))
            ]
        )
    note = [f"each bar is the sum of {width} neighbouring steps"] if width > 1 else []
    return figure.done("Effect of each step", [sign("step"), *note], 350, "steps")


def stage_timeline(stages: Sequence[Stage], log_frame: pd.DataFrame) -> go.Figure:
    """The training: stages as coloured blocks over what was recorded of each step.

    log_frame: step, stage, and any of loss, lr, grad_norm; a gradient norm that spans decades has a logarithmic axis.
    """
    columns = [c for c in CURVES if c in log_frame]
    shown, width = binned(log_frame[["step", "stage", *columns]], "mean")
    heights = [STRIP, *(CURVE[c] for c in columns)]
    figure = Sketch([h / sum(heights) for h in heights], 0.05)
    blocks = [(s.name, a, b) for s in stages for a, b in s.blocks]
    stage_strip(figure, blocks, row=1)
    for row, column in enumerate(columns, 2):
        line = {"color": NEUTRAL, "width": 1.4, "shape": "hv" if column == "lr" else "linear"}
        figure.add(
            "scatter",
            row,
            x=plain_list(shown["step"]),
            y=plain_list(shown[column]),
            mode="lines",
            line=line,
            name=column,
            customdata=plain_list(shown["step"]),
            hovertemplate=f"step %{{x}}<br>{column} %{{y:.4g}}<extra></extra>",
        )
        wide = column == "grad_norm" and spans_decades(shown[column])
        scale = {"type": "log", "tickformat": "~g"} if wide else {"rangemode": "tozero"}
        figure.yaxis(row, title={"text": CURVES[column]}, nticks=4 if wide else 5, **scale)
    colours = stage_colours(name for name, _, _ in blocks)
    figure.set(
        shapes=[
            {**_band(start - 0.5, stop - 0.5, colours[name]), **_domain(row)}
            for name, start, stop in blocks
            for row in range(1, len(heights) + 1)
        ]
    )
    figure.xaxis(len(heights), title={"text": "step"})
    note = f", means of {width} neighbouring steps" if width > 1 else ""
    words = f"stages over {listed(CURVES[c] for c in columns)}{note}"
    return figure.done("The training", [words], sum(heights), "timeline")


def agreement_scatter(frame: pd.DataFrame, unit: str = "nats", *, performance: str = "performance") -> go.Figure:
    """Estimated against retrained effects, one point a pair. frame: estimate, truth [, example]."""
    figure = Sketch()
    low, high = (f(f(frame["estimate"], default=0.0), f(frame["truth"], default=0.0), 0.0) for f in (min, max))
    pad = 0.06 * (high - low or 1.0)
    ends = [low - pad, high + pad]
    figure.add(
        "scatter",
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
        figure.add(
            "scatter",
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
    figure.xaxis(title={"text": f"estimated {words}"}, range=ends, **zero_line())
    figure.yaxis(title={"text": f"retrained {words}"}, range=ends, **zero_line())
    figure.set(showlegend=True, legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"})
    return figure.done("Estimate against retraining", [sign()], 390, "agreement")


def compare_bars(
    frame: pd.DataFrame,
    unit: str,
    *,
    performance: str = "performance",
    words: Sequence[str] = ("estimated", "retrained"),
    title: str = "Estimated and retrained",
) -> go.Figure:
    """Two bars a stage or counterfactual, the first one pale. frame: stage, estimate, truth."""
    figure, scale = Sketch(), scale_of([*frame["estimate"], *frame["truth"]])
    for column, word, shift, opacity in (("estimate", words[0], -0.2, 0.45), ("truth", words[1], 0.2, 1.0)):
        part = pd.DataFrame({"stage": frame["stage"], "effect": frame[column]})  # an interval is of neither
        bars = bars_of(part["stage"], part["effect"], unit)
        bars["marker"]["opacity"] = opacity
        figure.add("bar", y=[i + shift for i in range(len(part))], orientation="h", width=0.36, name=word, **bars)
        figure.add("scatter", **value_labels(part, scale, shift))
    name_axis(figure, frame["stage"], range(len(frame)))
    both = pd.concat([frame["estimate"], frame["truth"]])
    figure.xaxis(title={"text": axis_title(performance, unit)}, range=room(pd.DataFrame({"effect": both})))
    key = chart_text(f"pale = {words[0]}, full = {words[1]}")
    return figure.done(chart_text(title), [sign(), key], 48 + PAIR * len(frame), "compare")


def _domain(row: int) -> dict[str, str]:
    """Of a shape: it lies along the x axis of a row, over the row's whole height."""
    number = row if row > 1 else ""
    return {"xref": f"x{number}", "yref": f"y{number} domain"}


def _band(start: float, stop: float, colour: str) -> dict[str, Any]:
    """A stage behind the lines of a row."""
    return {
        "type": "rect",
        "x0": start,
        "x1": stop,
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
