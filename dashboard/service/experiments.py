"""The experiments whose results ship, and the runs that ship with them. Nothing here rebuilds a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dashboard.service.engine import memo
from sample_runs.experiment.blocks import Block, Heading, Picture, Table, Text
from sample_runs.experiment.page import READ, TARGETS, experiment_blocks, made, stored, summary
from sample_runs.experiment.plan import Plan
from sample_runs.experiment.results import Results

__all__ = ["READ", "TARGETS", "Block", "Experiment", "Heading", "Line", "Picture", "Table", "Text", "known"]


class Line(NamedTuple):
    """One training that was measured, over its seeds."""

    name: str
    figures: Sequence[str]
    run: str
    """Digest of the run that ships of it; empty if none does."""


class Experiment(NamedTuple):
    """An experiment in short, and all that was found."""

    title: str
    made: str
    """When, and on what machine."""
    head: Sequence[str]
    """Of the lines: their name, then their figures."""
    lines: Sequence[Line]
    blocks: Sequence[Block]


def known() -> dict[str, Experiment]:
    """Every experiment that ships with its results, by name; they are read once."""
    return memo().recall("experiments", lambda: {name: _experiment(name, *of) for name, of in stored().items()})


def _experiment(name: str, plan: Plan, found: Results) -> Experiment:
    head, rows = summary({name: (plan, found)})
    measured = [(case, of) for case in plan.cases if (of := found.of_case(case.name))]
    shipped = [of[0].run if case.name == plan.shipped else "" for case, of in measured]
    lines = [Line(row[0], row[1:], run) for row, run in zip(rows, shipped, strict=True)]
    return Experiment(plan.title, made(found), head, lines, experiment_blocks(plan, found))
