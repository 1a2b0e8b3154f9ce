"""The phases of a recorded run: which parameters were updated together, as its steps tell."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aa_core.records import Groups, Phase
from aa_core.runs.columns import StepTable
from aa_core.runs.header import PhaseEntry

History = tuple[object, ...]
"""What tells when a parameter was updated: equal for two of them if and only if they were always updated together."""


def read_phases(entries: Sequence[tuple[int, PhaseEntry]], tables: Sequence[StepTable]) -> tuple[Phase, ...]:
    """The phases with their clocks."""
    phases, known = [], dict[str, History]()
    for number, ((start, entry), table) in enumerate(zip(entries, tables, strict=True)):
        known = _histories(number, entry, table, known)
        clocks = _alike(known)
        phases.append(Phase(start, entry.optimizer, entry.groups, clocks, entry.sources, entry.fresh, entry.problem))
    return tuple(phases)


def _histories(number: int, entry: PhaseEntry, table: StepTable, before: dict[str, History]) -> dict[str, History]:
    """When each trained parameter was passed over in this phase, and in those whose optimizer it goes on with."""
    idle, begun = _idle_steps(table), {} if entry.fresh else before
    histories = {}
    for place, name in enumerate(table.names):
        source = entry.sources.get(name, name)
        earlier = begun.get(source, (number,)) if source is not None else (number,)
        histories[name] = (*earlier, idle.get(place, b""))
    return histories


def _idle_steps(table: StepTable) -> dict[int, bytes]:
    """The steps in which a parameter was passed over, by its place; those that never were are left out."""
    if not len(table) or not len(table.columns["idle"]):
        return {}
    steps = torch.repeat_interleave(torch.arange(len(table)), table.columns["idle.count"])
    places = table.columns["idle"]
    return {int(p): steps[places == p].numpy().tobytes() for p in places.unique()}


def _alike(histories: dict[str, History]) -> Groups:
    found: dict[History, list[str]] = {}
    for name, history in histories.items():
        found.setdefault(history, []).append(name)
    return tuple(tuple(names) for names in found.values())
