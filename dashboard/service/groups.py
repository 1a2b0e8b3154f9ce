"""Groups of examples: saved subgroups, the values of a column, and what the stages did to each group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from aa_core.reporting.bootstrap import FLOOR
from aa_core.reporting.results import LABEL as CLASSES
from aa_core.reporting.results import grouping_columns
from dashboard.selection import NOTHING, Selection
from dashboard.service import slices
from dashboard.service.desk import Desk
from dashboard.service.engine import Progress
from dashboard.service.estimates import Belief, Effects, every_stage, known_of, mean_over

SAVED, LABEL, PREDICTION = "", "true label", "prediction"
MOST = 40
"""Groups that a heat map can show."""
FEWEST = FLOOR
"""Examples that a group needs for an interval."""
WHOLE = 0.95
"""Of the intervals: each one by itself."""


@dataclass(frozen=True)
class Group:
    """Some of the examples, and the settings of a selection that pick them."""

    name: str
    picks: dict[str, Any] = field(hash=False)
    size: int


@dataclass(frozen=True)
class Cells:
    """What each stage did to each group."""

    frame: pd.DataFrame
    """group, stage, effect, low, high (None for fewer than 8 examples), unsure, n; positive = helped."""
    unit: str
    belief: Belief

    @property
    def counted(self) -> int:
        """Cells that have an interval."""
        return int(self.frame["low"].notna().sum())

    @property
    def apart(self) -> int:
        """Cells whose interval leaves out zero, each taken by itself."""
        return int(((self.frame["low"] > 0) | (self.frame["high"] < 0)).sum())

    @property
    def apart_corrected(self) -> int:
        """The same with intervals that all hold together (Bonferroni, on the bootstrap's standard error)."""
        wider = NormalDist().inv_cdf(1 - (1 - WHOLE) / 2 / max(self.counted, 1)) / NormalDist().inv_cdf((1 + WHOLE) / 2)
        half = (self.frame["high"] - self.frame["low"]).astype(float) / 2 * wider
        return int((self.frame["effect"].abs() > half).sum())


def columns(desk: Desk) -> list[str]:
    """By what the examples can be grouped."""
    return [SAVED, LABEL, PREDICTION, *desk.facts().columns]


def chosen(desk: Desk, s: Selection, fewest: int = 1) -> str:
    """By what the selection groups; where fewer than so many subgroups are saved, by a column instead."""
    by = s.by if s.by in columns(desk) else SAVED
    if by == SAVED and len(desk.facts().slices) < fewest:
        told = desk.remember("grouping columns", lambda: {*grouping_columns(desk.evaluation)} - {CLASSES})
        return next((c for c in desk.facts().columns if c in told), LABEL)  # labels are told by their names
    return by


def two(s: Selection, names: Sequence[str]) -> tuple[str, str] | None:
    """Two different names, chosen by the selection where it can be; None where there are no two."""
    if len(names) < 2:
        return None
    first = s.first if s.first in names else names[0]
    return first, s.second if s.second in names and s.second != first else next(n for n in names if n != first)


def groups_by(desk: Desk, by: str) -> list[Group]:
    """The groups of a column, or the saved ones; empty groups left out, the largest kept where there are too many."""
    names = list(enumerate(desk.class_names()))
    wanted: list[tuple[str, dict[str, Any]]]
    if by == SAVED:
        wanted = [(name, {"slice": digest}) for digest, name in desk.facts().slices.items()]
    elif by in (LABEL, PREDICTION):
        kind = "labels" if by == LABEL else "predictions"
        wanted = [(f"{'is' if by == LABEL else 'predicted'} {name}", {kind: (i,)}) for i, name in names]
    else:
        wanted = [(f"{by} {value}", {"where": ((by, value),)}) for value in desk.facts().columns.get(by, ())]
    found = [Group(name, picks, len(rows_of(desk, picks))) for name, picks in wanted]
    largest = sorted((g.size for g in found), reverse=True)[:MOST]
    return [g for g in found if g.size and g.size >= largest[-1]][:MOST]


def rows_of(desk: Desk, picks: dict[str, Any]) -> np.ndarray:
    """The examples of a group."""
    return desk.rows(replace(NOTHING, **picks))


def defined(desk: Desk, group: Group) -> str:
    """What picks the examples of a saved group: "true label cat or dog; predicted wrongly". Nothing of any other, whose
    name says it."""
    if "slice" not in group.picks:
        return ""
    picks, names = slices.picks_of(slices.definition(group.picks["slice"])), desk.class_names()
    columns = {column: [v for c, v in picks.where if c == column] for column, _ in picks.where}
    low, high = picks.confidence
    said = [
        f"{len(picks.examples):,} picked one by one" if picks.examples else "",
        f"true label {_either(names[i] for i in picks.labels)}" if picks.labels else "",
        f"predicted {_either(names[i] for i in picks.predictions)}" if picks.predictions else "",
        "predicted wrongly" if picks.wrong else "",
        f"confidence {low} to {high} %" if (low, high) != NOTHING.confidence else "",
        *(f"{column} {_either(values)}" for column, values in columns.items()),
        f"with “{picks.text}”" if picks.text else "",
    ]
    return "; ".join(filter(None, said))


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)


def cells(desk: Desk, s: Selection, groups: Sequence[Group], progress: Progress) -> Cells:
    """The mean effect of every stage on every group, with its bootstrap interval over the group's examples."""
    every = every_stage(desk, s, progress)

    def work() -> pd.DataFrame:
        frames = []
        for group in groups:
            frame = mean_over(every, rows_of(desk, group.picks), s.readout).assign(group=group.name, n=group.size)
            frames.append(frame.astype({"low": float, "high": float}))
        return pd.concat(frames, ignore_index=True)

    key = ("cells", s.performance, s.method, s.curvature, s.semantics, s.readout, repr(groups))
    everyone = np.arange(len(every.labels))
    return Cells(desk.remember(key, work), every.unit, Belief.of(known_of(desk, every, everyone, s)))


def gap(desk: Desk, s: Selection, first: Group, second: Group, progress: Progress) -> Effects:
    """How much more each stage helped the first group than the second: the difference of the means.

    Its interval takes the two groups as drawn independently: half widths add up as squares.
    """
    found = cells(desk, s, (first, second), progress)
    one, two = (found.frame[found.frame["group"] == g.name].reset_index(drop=True) for g in (first, second))
    difference = one["effect"] - two["effect"]
    below = np.hypot(one["effect"] - one["low"], two["high"] - two["effect"])
    above = np.hypot(one["high"] - one["effect"], two["effect"] - two["low"])
    frame = pd.DataFrame({"stage": one["stage"], "effect": difference, "first": one["effect"], "second": two["effect"]})
    frame = frame.assign(low=difference - below, high=difference + above)
    return Effects(frame, found.unit, first.size + second.size, found.belief)
