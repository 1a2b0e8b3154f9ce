"""What was recorded of one step, and the contract of a recorded run that the engine reads. No I/O, no autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from aa_core.stages import Stage
from aa_core.state import Snapshot

Inputs = Tensor | dict[str, Tensor]
Groups = tuple[tuple[str, ...], ...]
Hyper = Mapping[str, float]
"""Hyperparameters in force for one parameter group; switches are 0.0 or 1.0."""


class Batch(NamedTuple):
    """Inputs and targets of n examples; every tensor has the examples as its first dimension."""

    inputs: Inputs
    targets: Tensor
    weights: Tensor | None = None
    """[n]: what each example's part of the loss is multiplied by, every denominator as recorded; None = all 1."""
    rng: Tensor | None = None
    """State of the device's random number generator before the forward pass; None where nothing was drawn."""
    autocast: torch.dtype | None = None
    """What torch.autocast computed model and loss in; None where it was off."""


def map_inputs(function: Callable[..., Tensor], *inputs: Inputs) -> Inputs:
    """Apply `function` to the inputs of all arguments: to the tensor, or to each named tensor."""
    first = inputs[0]
    if isinstance(first, dict):
        return {name: function(*(i[name] for i in inputs if isinstance(i, dict))) for name in first}
    return function(*inputs)


class Clip(NamedTuple):
    """Gradient clipping in force at a step."""

    kind: Literal["norm", "value"]
    limit: float


class Precision(NamedTuple):
    """Mixed precision in force at a step."""

    autocast: Literal["bfloat16", "float16"] | None = None
    scale: float = 1.0
    """What a GradScaler multiplied the loss with, and divided the gradient by."""

    @property
    def dtype(self) -> torch.dtype | None:
        return None if self.autocast is None else getattr(torch, self.autocast)


FULL = Precision()


class MicroBatch(NamedTuple):
    """Which stored examples one backward pass used, and the weight of its loss."""

    rows: Tensor
    """int64 [n]: rows of the run's example table."""
    weight: float
    rng: Tensor | None = None
    """uint8: state of the random number generator before the forward pass, where the model drew from it."""


class StepRecord(NamedTuple):
    """What was in force at one optimizer step.

    Where batches that no step was taken with moved buffers at the end of a stage, they are a step of their own: without
    micro-batches, all parameters idle.
    """

    step: int
    stage: str
    hyper: tuple[Hyper, ...]
    """One mapping per parameter group."""
    micro_batches: tuple[MicroBatch, ...]
    training: bool
    """Whether the model was in train mode."""
    loss: float
    """Recorded loss (weighted sum over micro-batches); NaN where it could not be observed."""
    grad_norm: float
    """Of the gradient that the optimizer saw, clipping applied."""
    clip: Clip | None = None
    idle: tuple[str, ...] = ()
    """Parameters of the optimizer that had no gradient (frozen, or not used), so that it passed over them."""
    precision: Precision = FULL
    averaging: float | None = None
    """How far the averaged weights moved towards the parameters after the step; None if they did not."""
    passed: tuple[MicroBatch, ...] = ()
    """Batches before it that the loop took no step with: they went through the model and moved its buffers."""

    @property
    def stored(self) -> tuple[MicroBatch, ...]:
        """All batches in their order, as a run keeps them: those of weight 0 had no say in the step."""
        return (*self.passed, *self.micro_batches)

    @property
    def rows(self) -> Tensor:
        """int64 [examples]: the rows of its micro-batches, one after the other; none if no parameter was updated."""
        return torch.cat([torch.zeros(0, dtype=torch.int64), *(m.rows for m in self.micro_batches)])


class StepInput(NamedTuple):
    """A step ready to be replayed: the recorded examples themselves, on a device."""

    step: int
    hyper: tuple[Hyper, ...]
    batches: tuple[tuple[Batch, float], ...]
    """(examples, weight of the loss) per micro-batch."""
    training: bool
    clip: Clip | None = None
    idle: tuple[str, ...] = ()
    scale: float = 1.0
    """What the loss is multiplied with, and the gradient divided by, against underflow in half precision."""
    averaging: float | None = None
    passed: tuple[Batch, ...] = ()
    """What went through the model before, and only moved its buffers."""


class Phase(NamedTuple):
    """Steps from `start` on that share one optimizer over one set of parameters, until the next phase begins."""

    start: int
    optimizer: str
    """Name of the update rule."""
    groups: Groups
    """Names of the trained parameters, per parameter group."""
    clocks: Groups
    """The same names, divided into those that were always updated together: each part has one step count."""
    sources: Mapping[str, str | None] = {}  # read only
    """What parameters and buffers were called in the phase before, if it was something else; None = they are new."""
    fresh: bool = True
    """Whether the optimizer begins anew: slots at zero, no step counted."""
    problem: int = 0
    """Which model and loss: 0 for the first, 1 for the one that took its place, ..."""

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group)


class RunLike(Protocol):
    """All that the engine asks of a recorded run."""

    @property
    def digest(self) -> str: ...
    @property
    def phases(self) -> tuple[Phase, ...]:
        """At least one; the first starts at step 0, and a checkpoint is stored where each starts."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]: ...
    @property
    def steps(self) -> int: ...
    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps k for which the state before step k is stored, ascending; the first is 0."""
        ...

    @property
    def first_nonfinite(self) -> int | None:
        """The first step with a NaN or infinite recorded loss, gradient or state; None for a sound run."""
        ...

    def record(self, step: int) -> StepRecord: ...
    def step_input(self, step: int, device: torch.device) -> StepInput: ...
    def example_ids(self, rows: Tensor) -> Sequence[int] | Sequence[str] | None:
        """The ids that the training loop gave these examples; None if it gave none."""
        ...

    def load(self, step: int) -> Snapshot:
        """The stored snapshot before `step`, on the CPU; `step` must be in `checkpoints`.

        Where a phase starts: as that phase finds it. Every parameter that was trained up to this phase is in the state.
        """
        ...
