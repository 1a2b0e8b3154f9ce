"""The user's live model and optimizer, as the recorder reads them; nothing here changes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aa_core.errors import RecordingError, UnsupportedError
from aa_core.header import TensorSpec
from aa_core.records import Hyper
from aa_core.rules import UpdateRule, rule_for
from aa_core.state import Buffers, Params, Snapshot, State
from aa_core.store import dtype_name

LossFunction = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Live:
    """What is trained, by which rule, and the names of it all."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: LossFunction
    rule: UpdateRule
    groups: tuple[tuple[str, ...], ...]
    trained: Params
    """The optimizer's parameters by name, in the order of its groups: the live tensors."""
    carried: Buffers
    """Model buffers by name, and parameters that the optimizer does not have: the live tensors."""

    @property
    def device(self) -> torch.device:
        return next(iter(self.trained.values())).device


def observe(model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: LossFunction) -> Live:
    """Raises UnsupportedError for an optimizer that cannot be replayed or parameters that are not the model's."""
    rule = rule_for(optimizer)
    names = {id(p): n for n, p in model.named_parameters()}
    strangers = [tuple(p.shape) for g in optimizer.param_groups for p in g["params"] if id(p) not in names]
    if strangers:
        raise UnsupportedError(
            f"the optimizer has {len(strangers)} parameters that are not the model's (shapes {strangers[:5]}); "
            "make them part of the model, or build the optimizer from model.parameters()"
        )
    groups = tuple(tuple(names[id(p)] for p in g["params"]) for g in optimizer.param_groups)
    trained = {names[id(p)]: p for g in optimizer.param_groups for p in g["params"]}
    carried = {**dict(model.named_buffers()), **{n: p for n, p in model.named_parameters() if n not in trained}}
    return Live(model, optimizer, loss_fn, rule, groups, trained, carried)


def tensor_specs(tensors: dict[str, Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=n, shape=tuple(t.shape), dtype=dtype_name(t.dtype)) for n, t in tensors.items())  # type: ignore[arg-type]


def read_count(live: Live) -> float:
    """How many updates the optimizer has made so far; UnsupportedError if parameters disagree."""
    counts = {live.rule.read_count(live.optimizer.state.get(p, {})) for p in live.trained.values()}
    if len(counts) > 1:
        raise UnsupportedError(
            f"parameters were updated unequally often ({sorted(counts)} times); start recording with a fresh optimizer"
        )
    return counts.pop()


def read_buffers(live: Live) -> Buffers:
    """Copies of the carried tensors, on their device. Looked up by name: a module may replace its buffers."""
    now = {**dict(live.model.named_buffers()), **dict(live.model.named_parameters())}
    return {n: now[n].detach().clone() for n in live.carried}


def read_snapshot(live: Live, step: int, count: float) -> Snapshot:
    """The state before `step`, copied to the CPU. `count` is the number of updates that the recorder knows of."""
    steps = {float(s["step"]) for s in live.optimizer.state.values() if "step" in s}
    if steps and steps != {count}:
        raise RecordingError(
            f"before step {step} the optimizer counts {sorted(steps)} updates, the recorder {count:g}; "
            "its state was reset or loaded during the run: record the parts as separate runs"
        )
    slots = {n: live.rule.read_slots(live.optimizer.state.get(p, {}), p) for n, p in live.trained.items()}
    state = State(
        {n: _copy(p) for n, p in live.trained.items()},
        {slot: {n: _copy(slots[n][slot]) for n in live.trained} for slot in live.rule.slots},
        torch.tensor(count, dtype=torch.float64),
    )
    return Snapshot(step, state, {n: t.cpu() for n, t in read_buffers(live).items()})


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def read_hyper(live: Live) -> tuple[Hyper, ...]:
    """Hyperparameters in force; RecordingError if the optimizer's groups are not those of the start."""
    groups = live.optimizer.param_groups
    known = [id(p) for p in live.trained.values()]
    if [len(g["params"]) for g in groups] != list(map(len, live.groups)) or [
        id(p) for g in groups for p in g["params"]
    ] != known:
        raise RecordingError(
            "the optimizer's parameter groups changed during the run; record the parts as separate runs, "
            "or build all groups before recording (lr=0 keeps one at rest)"
        )
    return tuple(live.rule.read_hyper(group) for group in groups)


def read_gradients(live: Live) -> dict[str, Tensor]:
    """p.grad by name; RecordingError where there is none."""
    missing = [n for n, p in live.trained.items() if p.grad is None]
    if missing:
        raise RecordingError(
            f"the gradient of {', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''} is None, so torch "
            "would skip it; call backward() before step(), and leave unused parameters out of the optimizer"
        )
    return {n: p.grad for n, p in live.trained.items() if p.grad is not None}
