"""Averaged weights (EMA) that a training loop keeps beside the trained ones, and by which its model is judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim.swa_utils import AveragedModel

from aa_core.errors import RecordingError, UnsupportedError
from aa_core.recording.live import Live
from aa_core.state import Params


@dataclass(frozen=True, eq=False)
class Averaging:
    """The loop's own `AveragedModel`, whose `update_parameters` it calls after every step (or every few).

    decay: that of `get_ema_multi_avg_fn(decay)`, with which a replay is exact to the bit (to rounding with another
    function for the same average).
    """

    model: AveragedModel
    decay: float
    every: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.model, AveragedModel):
            raise UnsupportedError(
                f"the averaged model is a {type(self.model).__name__}, expected a torch.optim.swa_utils.AveragedModel "
                "of the recorded model, with multi_avg_fn=get_ema_multi_avg_fn(decay)"
            )
        if self.every < 1 or not 0 <= self.decay < 1:
            raise RecordingError(f"decay={self.decay}, every={self.every}; expected 0 <= decay < 1, and every >= 1")
        if self.model.use_buffers:
            raise UnsupportedError("AveragedModel(use_buffers=True): averaged buffers are not supported")

    @property
    def updates(self) -> int:
        return int(self.model.n_averaged)

    def weight(self, steps: int, updates: int) -> float | None:
        """How far the average moves towards the parameters after so many steps; None if it is not updated then.

        1 for the first update, which copies; then 1 - decay.
        """
        return None if steps % self.every else 1 - self.decay if updates else 1.0

    def read(self, live: Live) -> Params:
        """The averaged values of the trained parameters."""
        values = dict(self.model.module.named_parameters())
        if missing := [n for n in live.trained if n not in values]:
            raise RecordingError(f"the averaged model has no parameter {missing[0]!r}; average the recorded model")
        return {n: values[n] for n in live.trained}


class AverageWatch:
    """Follows the updates of averaged weights while a run is recorded."""

    def __init__(self, averaging: Averaging, steps: int = 0) -> None:
        """`steps`: how many the optimizer has taken."""
        self.averaging, self._expected, self._steps = averaging, averaging.updates, steps
        self._before: Params = {}
        self._weight = 0.0
        self._seen = False
        """Whether an update that averages, and does not copy, was checked."""

    def before_step(self, live: Live, checked: bool) -> float | None:
        """The weight of the update that is to follow a step; after a `checked` step it is looked at, and so is the
        first that averages."""
        self._steps += 1
        weight = self.averaging.weight(self._steps, self._expected)
        self._expected += weight is not None
        if weight is not None and (checked or not self._seen):
            self._seen = weight < 1
            self._before, self._weight = {n: p.detach().clone() for n, p in self.averaging.read(live).items()}, weight
        return weight

    def check(self, live: Live, step: int) -> None:
        """Before `step`: RecordingError unless the average was updated as announced since the step before."""
        found = self.averaging.updates
        if found != self._expected:
            raise RecordingError(
                f"before step {step} the averaged model was updated {found} times, expected {self._expected}: call its "
                f"update_parameters after every step (Averaging(every={self.averaging.every}): after every so many)"
            )
        now = self.averaging.read(live)
        for name, before in self._before.items():
            expected = before.lerp(live.trained[name].detach(), self._weight)
            if not torch.allclose(now[name], expected, rtol=1e-5, atol=1e-8):
                raise RecordingError(
                    f"before step {step} the average of {name} is not what decay={self.averaging.decay} gives; pass "
                    "the decay of the AveragedModel: Averaging(model, decay)"
                )
        self._before = {}
