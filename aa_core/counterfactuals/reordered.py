"""A recorded run with its batches in another order: as another shuffle of the same batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from aa_core.records import RunLike, StepInput, StepRecord


def reordered(run: RunLike, order: tuple[int, ...]) -> RunLike:
    """Step k uses the examples of recorded step order[k]; hyperparameters, clipping and stages stay where they were."""
    return cast(RunLike, _Reordered(run, order))


@dataclass(frozen=True)
class _Reordered:
    """The run in all else."""

    run: RunLike
    order: tuple[int, ...]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    def step_input(self, step: int, device: torch.device) -> StepInput:
        here = self.run.step_input(step, device)
        return here._replace(batches=self.run.step_input(self.order[step], device).batches)

    def record(self, step: int) -> StepRecord:
        return self.run.record(step)._replace(micro_batches=self.run.record(self.order[step]).micro_batches)


def shuffled(run: RunLike, generator: torch.Generator) -> tuple[int, ...]:
    """An order of all steps in which every stage keeps its own batches."""
    order = list(range(run.steps))
    for stage in run.stages:
        own = [k for k in stage.steps if run.record(k).micro_batches]
        for place, chosen in zip(own, torch.randperm(len(own), generator=generator).tolist(), strict=True):
            order[place] = own[chosen]
    return tuple(order)
