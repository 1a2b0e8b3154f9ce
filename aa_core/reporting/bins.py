"""Long series of steps, thinned for a chart or a file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import pandas as pd

BARS = 2_000
WIDE = 100.0
"""Largest over smallest value from which on a positive curve is drawn on a logarithmic axis."""


def binned(frame: pd.DataFrame, how: Literal["sum", "mean"], limit: int = BARS) -> tuple[pd.DataFrame, int]:
    """(rows, steps per row): neighbouring steps of one stage summed or averaged once there are more than `limit`.

    `frame` has the columns step and stage, in the order of training; a row keeps the first step of its bin.
    """
    width = -(-len(frame) // limit)
    if width <= 1:
        return frame.reset_index(drop=True), 1
    block = (frame["stage"] != frame["stage"].shift()).cumsum()
    place = frame.groupby(block.to_numpy()).cumcount() // width
    values = [c for c in frame.columns if c not in ("step", "stage")]
    rules = {"step": "first", "stage": "first", **dict.fromkeys(values, how)}
    grouped = frame.groupby([block.to_numpy(), place.to_numpy()], sort=True).agg(rules)
    return grouped[list(frame.columns)].reset_index(drop=True), width


def spans_decades(values: Iterable[float | None]) -> bool:
    """Do the finite ones lie so far apart, all above zero, that only a logarithmic axis shows the small ones?"""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return bool(known) and min(known) > 0 and max(known) >= WIDE * min(known)
