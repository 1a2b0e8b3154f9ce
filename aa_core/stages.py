"""Stages: named sets of steps that partition a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aa_core.errors import UnknownStageError


@dataclass(frozen=True)
class Stage:
    """A named set of steps: one or more contiguous blocks [start, stop)."""

    name: str
    blocks: tuple[tuple[int, int], ...]
    note: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(k for start, stop in self.blocks for k in range(start, stop))

    @property
    def start(self) -> int:
        return min((start for start, _ in self.blocks), default=0)

    @property
    def stop(self) -> int:
        return max((stop for _, stop in self.blocks), default=0)

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.blocks)


def find(stages: Sequence[Stage], name: str) -> Stage:
    """The stage of that name, or UnknownStageError."""
    for stage in stages:
        if stage.name == name:
            return stage
    raise UnknownStageError(name, (s.name for s in stages))


def select(stages: Sequence[Stage], names: Iterable[str] | None) -> tuple[Stage, ...]:
    """The stages of those names in their order of training; all of them for None."""
    if names is None:
        return tuple(stages)
    wanted = {find(stages, name).name for name in names}
    return tuple(s for s in stages if s.name in wanted)


def stage_of_steps(stages: Sequence[Stage], steps: int) -> list[str]:
    """The name of the stage of each step 0..steps-1."""
    owner = [""] * steps
    for stage in stages:
        for k in stage.steps:
            owner[k] = stage.name
    return owner
