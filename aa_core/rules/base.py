"""What an optimizer is to the engine: one pure function and the names of its leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from aa_core.errors import UnsupportedError
from aa_core.records import Hyper

Slots = dict[str, Tensor]
Update = Callable[[Tensor, Tensor, Slots, Tensor, Hyper], tuple[Tensor, Slots]]
Many = list[Tensor] | tuple[Tensor, ...]
ManySlots = Mapping[str, Many]
ForeachUpdate = Callable[[Many, Many, ManySlots, float, Hyper], tuple[Many, dict[str, Many]]]
Write = Callable[[Slots, float], dict[str, Any]]


class Derivative(Protocol):
    """The derivative of an update of many tensors at one point: linear maps of [R, ...] rays, count [R]."""

    def push(self, params: Many, grads: Many, slots: ManySlots, count: Tensor) -> tuple[Many, ManySlots]:
        """Tangents of what the update takes -> those of what it makes."""
        ...

    def pull(self, params: Many, slots: ManySlots) -> tuple[Many, Many, ManySlots, Tensor]:
        """The transpose: cotangents of (parameters', slots') -> those of (parameters, gradients, slots, count)."""
        ...


INEXACT = {
    "fused": "its rounding differs from the replayed update; build the optimizer without fused=True",
    "capturable": "its rounding differs from the replayed update; build the optimizer without capturable=True",
    "differentiable": "the recorder differentiates on its own; build the optimizer without differentiable=True",
}
"""Switches of torch's optimizers that no rule replays, with the way out."""


def write_slots(slots: Slots, count: float) -> dict[str, Any]:
    """state[p] of an optimizer that keeps nothing else."""
    return dict(slots)


def write_counted(slots: Slots, count: float) -> dict[str, Any]:
    """state[p] of an optimizer that keeps the number of updates too, as torch keeps it."""
    double = torch.get_default_dtype() == torch.float64
    return {**slots, "step": torch.tensor(count, dtype=torch.float64 if double else torch.float32)}


def read_betas(group: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group with its `betas`, if it has any, as beta1 and beta2."""
    return {**group, **dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))}


@dataclass(frozen=True)
class UpdateRule:
    """U: (parameter, gradient, slots, count, hyper) -> (parameter', slots'), for one tensor.

    `count` is the 0-dim float64 number of updates made *including* this one. `update` must be pure,
    differentiable in its first four arguments, and equal to torch.optim bit for bit.
    """

    name: str
    slots: tuple[str, ...]
    hyper: tuple[str, ...]
    update: Update
    refused: Mapping[str, str] = field(default_factory=dict)
    """Switches of the torch optimizer that are not supported, with the way out."""
    elementwise: bool = True
    """Whether every coordinate is updated on its own, so that tensors may be packed side by side."""
    stiff: Callable[[Slots], Tensor] | None = None
    """Which coordinates react to a gradient without bound (Adam at zero second moment), as a bool tensor."""
    effective_lr: Callable[[Hyper], float] = lambda hyper: hyper["lr"]
    """How far a steady gradient of one moves a parameter in a step, before any division by its size."""
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = read_betas
    """A parameter group of the optimizer as a mapping that has all of `hyper`, as numbers."""
    write: Write | None = None
    """state[p] of the optimizer after so many updates (at least 1), the inverse of `read_slots`: to resume a recording.
    None where it is not known."""
    foreach: ForeachUpdate | None = None
    """`update` of many tensors in torch's foreach operations, as torch.optim takes them on a GPU, where that rounds
    differently there or is faster."""
    differentiated: Update | None = None
    """The update that derivatives are taken of, where `update` itself has none (it rounds on purpose)."""
    derivative: Callable[[Many, Many, ManySlots, float, Hyper], Derivative] | None = None
    """The derivative of `update` of many vectors, written down where that is faster than autograd."""
    assumptions: tuple[str, ...] = ()
    """What derivatives of this rule take for granted; results say so."""
    blind: str = ""
    """Why the derivative of the update does not see the gradient, where it does not; no estimate is trusted then."""

    @property
    def smooth(self) -> UpdateRule:
        """The rule that is differentiated."""
        return self if self.differentiated is None else replace(self, update=self.differentiated)

    def check(self, groups: list[dict[str, Any]]) -> None:
        """Raise UnsupportedError for a parameter group that uses a refused switch or value."""
        for index, group in enumerate(groups):
            self.read_hyper(group)
            for switch, way_out in self.refused.items():
                if _is_on(group, switch):
                    raise UnsupportedError(
                        f"{self.name}({switch}={group[switch]!r}) in parameter group {index}: {way_out}"
                    )

    def read_hyper(self, group: Mapping[str, Any]) -> dict[str, float]:
        """The hyperparameters in force for one group of the torch optimizer, as plain floats."""
        flat = self.read(group)
        for name in self.hyper:
            if isinstance(flat[name], Tensor):
                raise UnsupportedError(
                    f"{self.name}: {name} is a tensor, whose rounding differs; make it a Python number"
                )
        return {name: float(flat[name]) for name in self.hyper}

    def read_slots(self, state: Mapping[str, Any], param: Tensor) -> Slots:
        """The slots of one parameter; zeros where torch has not made them yet."""
        found = {slot: state.get(slot) for slot in self.slots}
        return {s: torch.zeros_like(param) if t is None else t.detach().clone() for s, t in found.items()}

    def read_count(self, state: Mapping[str, Any]) -> float:
        """How many updates a parameter has seen, as far as the optimizer's state tells (at least 1 if it has slots)."""
        if "step" in state:
            return float(state["step"])
        return float(any(state.get(slot) is not None for slot in self.slots))


def _is_on(group: Mapping[str, Any], switch: str) -> bool:
    """Whether torch will use a switch; left open, foreach is on for parameters on a GPU."""
    if switch == "foreach" and group.get(switch) is None:
        return any(p.is_cuda for p in group["params"])
    return bool(group.get(switch))
