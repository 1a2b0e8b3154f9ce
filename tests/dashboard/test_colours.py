"""The palette as people see it who lack a kind of cone, on both themes' pages.

Simulation: Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
IEEE TVCG 15(6), 2009, matrices of severity 1.0 on linear RGB. Difference: CIE76 in CIELAB (D65); about 2.3 is just
noticeable.
"""

from __future__ import annotations

import re
import tomllib
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aa_core.reporting import breakdown, figures, marks
from dashboard import plots, tables

ASSETS = Path(plots.__file__).parent
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
APART, NEIGHBOURS, SEEN = 40.0, 12.0, 20.0
"""Least differences: helped and hurt; two series side by side, which have names, too; a bar and the page."""
EFFECTS = pd.DataFrame({"stage": ["a", "b"], "effect": [0.4, -0.3]})


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def lab(colour: np.ndarray, sight: str) -> np.ndarray:
    """sRGB as it is seen, in CIELAB."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.asarray(SIGHT[sight]) @ linear, 0, 1) / (XYZ @ np.ones(3))
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(a: np.ndarray, b: np.ndarray, sight: str) -> float:
    return float(np.linalg.norm(lab(a, sight) - lab(b, sight)))


def page(theme: str) -> np.ndarray:
    settings = tomllib.loads((ASSETS / ".streamlit" / "config.toml").read_text())
    return rgb(settings["theme"][theme]["backgroundColor"])


def over(colour: str, theme: str) -> np.ndarray:
    """A colour of the heat map, rgba(...), on the page of a theme."""
    *channels, opacity = map(float, re.findall(r"[\d.]+", colour))
    return opacity * np.array(channels) / 255 + (1 - opacity) * page(theme)


def test_the_measure_knows_red_from_green_and_who_does_not() -> None:
    red, green = rgb("#B05030"), rgb("#607030")
    assert difference(red, green, "deuteranopia") < 0.5 * difference(red, green, "normal")
    assert difference(rgb("#FFFFFF"), rgb("#000000"), "normal") == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("sight", SIGHT)
def test_helped_and_hurt_differ(sight: str) -> None:
    assert difference(rgb(marks.HELPED), rgb(marks.HURT), sight) > APART
    assert difference(rgb(breakdown.ROSE), rgb(breakdown.FELL), sight) > SEEN  # a share's sign is written beside it


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_bars_and_cells_stand_out_from_the_page(sight: str, theme: str) -> None:
    for colour in (marks.HELPED, marks.HURT, marks.NEUTRAL, breakdown.ROSE, breakdown.FELL):
        assert difference(rgb(colour), page(theme), sight) > SEEN, colour
    hurt, helped = (over(plots.DIVERGING[i][1], theme) for i in (0, -1))
    assert difference(hurt, helped, sight) > SEEN
    assert min(difference(end, page(theme), sight) for end in (hurt, helped)) > SEEN


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("palette", [marks.STAGES, breakdown.PARTS], ids=["stages", "parts"])
def test_series_side_by_side_differ(palette: tuple[str, ...], sight: str) -> None:
    for a, b in pairwise([*palette, palette[0]]):
        assert difference(rgb(a), rgb(b), sight) > NEIGHBOURS, (a, b)


def test_no_two_parts_or_stages_have_one_colour() -> None:
    for palette in (marks.STAGES, breakdown.PARTS):
        assert min(difference(rgb(a), rgb(b), "normal") for a, b in combinations(palette, 2)) > SEEN


def test_the_sign_is_told_without_colour() -> None:
    bars, labels = figures.stage_bars(EFFECTS, "nats").data
    assert list(bars.marker.pattern.shape) == ["", "/"]
    assert [text.strip()[0] for text in labels.text] == ["+", "−"]
    assert [text.rpartition(": ")[2] for text in bars.hovertext] == ["helped", "hurt"]
    heat = plots.effect_map(EFFECTS.assign(group="g", low=np.nan, high=np.nan, unsure=False, n=3), "nats").data[0]
    assert [text[0] for text in heat.text[0]] == ["+", "−"]
    row = tables.stage_table(EFFECTS.assign(steps=1, note=""), "nats", "")
    assert "+0.4" in row and "−0.3" in row
    for sheet in ("style.css", "gallery.css"):
        rules = re.findall(r"[^{}]*\.hurt[^{]*{[^}]*D55E00[^}]*}", (ASSETS / "assets" / sheet).read_text())
        assert rules and all("gradient" in rule or "dashed" in rule for rule in rules), sheet
