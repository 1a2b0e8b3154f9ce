"""SVG charts of an experiment: effects of the stages beside the truth, and estimate against truth pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from aa_core.reporting.marks import HELPED, HURT, NEUTRAL

PANEL, GAP, COLUMNS = 330, 24, 3
ROW, HEAD, NAMES = 26, 40, 118
"""Pixels of a stage's row, of the head of a panel, of the stages' names."""
FONT = "font-family='system-ui, sans-serif' fill='#22262B'"


class Effects(NamedTuple):
    """One panel: a performance, and for every stage the estimate and the truth, one a seed."""

    title: str
    stages: Sequence[str]
    estimate: Sequence[Sequence[float]]
    """[seeds, stages]"""
    truth: Sequence[Sequence[float]]


def effects_chart(panels: Sequence[Effects], words: str) -> str:
    """Bars of means over the seeds, a dot for each seed; hollow = estimated, full = retrained."""
    height = HEAD + ROW * max(len(p.stages) for p in panels) + GAP
    rows = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    drawn = "".join(
        f"<g transform='translate({(i % COLUMNS) * (PANEL + GAP)},{(i // COLUMNS) * height})'>{_panel(p)}</g>"
        for i, p in enumerate(panels)
    )
    return svg(columns * (PANEL + GAP), rows * height + 20, drawn, words) if panels else ""


def _panel(panel: Effects) -> str:
    values = [v for of_seed in (*panel.estimate, *panel.truth) for v in of_seed]
    low, high = min(0.0, *values), max(0.0, *values)
    width = PANEL - NAMES

    def x(value: float) -> float:
        return NAMES + width * (value - low) / ((high - low) or 1.0)

    parts = [f"<text x='0' y='16' font-size='13' font-weight='600' {FONT}>{escape(panel.title)}</text>"]
    parts += [
        f"<text x='{x(v):.1f}' y='32' font-size='10' text-anchor='{anchor}' {FONT}>{v:+.2g}</text>"
        for v, anchor in ((low, "start"), (high, "end"))
        if v
    ]
    for i, name in enumerate(panel.stages):
        top = HEAD + ROW * i
        parts.append(
            f"<text x='{NAMES - 8}' y='{top + 16}' font-size='11' text-anchor='end' {FONT}>{escape(name)}</text>"
        )
        for j, (by_seed, full) in enumerate(((panel.estimate, False), (panel.truth, True))):
            seeds = [of_seed[i] for of_seed in by_seed]
            parts.append(_bar(x, sum(seeds) / len(seeds), top + 3 + 10 * j, full))
            parts += [
                f"<circle cx='{x(v):.1f}' cy='{top + 7.5 + 10 * j}' r='1.7' fill='{NEUTRAL}' stroke='white' "
                "stroke-width='0.5'/>"
                for v in seeds
            ]
    bottom = HEAD + ROW * len(panel.stages)
    parts.append(f"<line x1='{x(0):.1f}' x2='{x(0):.1f}' y1='{HEAD}' y2='{bottom}' stroke='{NEUTRAL}'/>")
    return "".join(parts)


def _bar(x: Callable[[float], float], value: float, top: float, full: bool) -> str:
    colour, (left, right) = (HELPED if value >= 0 else HURT), sorted((x(0.0), x(value)))
    look = f"fill='{colour}'" if full else f"fill='{colour}' fill-opacity='0.18' stroke='{colour}'"
    return f"<rect x='{left:.1f}' y='{top}' width='{right - left:.1f}' height='9' {look}/>"


def scatter(points: Sequence[tuple[float, float]], words: str, unit: str = "nats") -> str:
    """Estimate (across) against truth (up), with the line on which they are equal."""
    size, pad = 320, 36
    low, high = min(0.0, *(min(p) for p in points)), max(0.0, *(max(p) for p in points))
    scale = (size - 2 * pad) / ((high - low) or 1.0)

    def place(value: float) -> float:
        return pad + scale * (value - low)

    dots = "".join(
        f"<circle cx='{place(e):.1f}' cy='{size - place(t):.1f}' r='2.6' fill='{HELPED if e * t >= 0 else HURT}' "
        "fill-opacity='0.6'/>"
        for e, t in points
    )
    lines = "".join(
        f"<line x1='{place(a):.1f}' y1='{size - place(b):.1f}' x2='{place(c):.1f}' y2='{size - place(d):.1f}' "
        f"stroke='{NEUTRAL}' stroke-dasharray='{dash}'/>"
        for a, b, c, d, dash in ((low, low, high, high, "3"), (low, 0, high, 0, "0"), (0, low, 0, high, "0"))
    )
    labels = (
        f"<text x='{size / 2}' y='{size - 8}' font-size='11' text-anchor='middle' {FONT}>estimated, {unit}</text>"
        f"<text x='14' y='{size / 2}' font-size='11' text-anchor='middle' {FONT} "
        f"transform='rotate(-90 14 {size / 2})'>retrained, {unit}</text>"
        f"<text x='{size - pad}' y='{size - 22}' font-size='10' text-anchor='end' {FONT}>"
        f"{low:+.2g} to {high:+.2g}</text>"
    )
    return svg(size, size, lines + dots + labels, words)


def svg(width: float, height: float, content: str, words: str) -> str:
    """A picture on white, with what it shows in words."""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}' "
        f"role='img' aria-label='{escape(words, quote=True)}'><rect width='100%' height='100%' fill='white'/>"
        f"{content}</svg>\n"
    )
