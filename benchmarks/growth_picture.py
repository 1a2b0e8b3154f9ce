"""How the engine's time grows, as a picture: one panel for each thing that grows."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from aa_core.reporting.marks import HELPED, NEUTRAL
from sample_runs.experiment.pictures import FONT, svg

WIDTH, HEIGHT, PAD, HEAD, COLUMNS = 250, 190, 34, 44, 3
WORDS = "CPU seconds against what grows; dashed: in proportion to the largest size"


def curves(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Both axes begin at 0, so that what is in proportion lies on the dashed line."""
    panels = [
        f"<g transform='translate({(i % COLUMNS) * WIDTH},{(i // COLUMNS) * HEIGHT})'>{_panel(name, curve)}</g>"
        for i, (name, curve) in enumerate(figures.items())
    ]
    said = "; ".join(f"{name}: exponent {curve['exponent']:.2f}" for name, curve in figures.items())
    rows = -(-len(figures) // COLUMNS)
    return svg(min(COLUMNS, len(figures)) * WIDTH, rows * HEIGHT, "".join(panels), f"{WORDS}. {said}")


def _panel(name: str, curve: Mapping[str, Any]) -> str:
    sizes, seconds = curve["sizes"], curve["seconds"]
    right, bottom, top = WIDTH - PAD / 2, HEIGHT - PAD, HEAD
    most = max(seconds)

    def at(size: float, time: float) -> tuple[float, float]:
        return PAD + (right - PAD) * size / max(sizes), bottom - (bottom - top) * time / most

    points = [at(*pair) for pair in zip(sizes, seconds, strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    (end_x, end_y), what = points[-1], name.partition(",")[0]
    return "".join(
        [
            f"<text x='{PAD}' y='20' font-size='13' font-weight='600' {FONT}>{escape(name)}</text>",
            f"<text x='{PAD}' y='36' font-size='10' {FONT}>{most:.2g} s</text>",
            f"<path d='M{PAD} {top}V{bottom}H{right}' fill='none' stroke='{NEUTRAL}'/>",
            f"<path d='M{PAD} {bottom}L{end_x:.1f} {end_y:.1f}' stroke='{NEUTRAL}' stroke-dasharray='3'/>",
            f"<polyline points='{path}' fill='none' stroke='{HELPED}' stroke-width='2'/>",
            *(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{HELPED}'/>" for x, y in points),
            f"<text x='{right}' y='{bottom + 15}' font-size='10' text-anchor='end' {FONT}>"
            f"{max(sizes):,} {escape(what)}</text>",
        ]
    )
