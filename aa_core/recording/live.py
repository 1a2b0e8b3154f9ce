"""The user's live model and optimizer, as the recorder reads them; nothing here changes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from aa_core.errors import RecordingError, UnsupportedError
from aa_core.records import Hyper
from aa_core.rules import UpdateRule, rule_for
from aa_core.runs.header import TensorSpec
from aa_core.runs.store import dtype_name
from aa_core.state import AVERAGE, Buffers, Params, Snapshot, State

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
    """Model buffers by name, and parameters that were never trained: the live tensors."""
    rested: Params = field(default_factory=dict)
    """Parameters that an earlier phase trained and this one's optimizer does not have: the live tensors."""
    problem: int = 0
    """How often model or loss were replaced so far."""

    @property
    def device(self) -> torch.device:
        return next(iter(self.trained.values())).device


def observe(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: LossFunction, rested: Collection[str] = ()
) -> Live:
    """What is trained from now on; `rested` names what was trained before.

    Raises UnsupportedError for a model or optimizer that cannot be replayed, or parameters that are not the model's."""
    _check_model(model)
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
    others = {n: p for n, p in model.named_parameters() if n not in trained}
    carried = {**dict(model.named_buffers()), **{n: p for n, p in others.items() if n not in rested}}
    return Live(
        model, optimizer, loss_fn, rule, groups, trained, carried, {n: p for n, p in others.items() if n in rested}
    )


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"the model is a {type(model).__name__}, expected a torch.nn.Module")
    if "_orig_mod" in model._modules:
        raise UnsupportedError(
            "a compiled model is another module around the model: record the one inside, Recorder(path, "
            "model._orig_mod, ...), and train by the compiled one as before"
        )
    spread = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    if spread or (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        raise UnsupportedError(
            f"the batches of a {type(model).__name__} are split over devices or processes, and a recorder sees those "
            "of one: train in one process, on one device, without DataParallel, DistributedDataParallel and FSDP"
        )
    unmade = [n for n, p in (*model.named_parameters(), *model.named_buffers()) if is_lazy(p)]
    if unmade:
        raise UnsupportedError(f"{unmade[0]} has no shape yet; call the model once on a batch before it is recorded")


def tensor_specs(tensors: dict[str, Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=n, shape=tuple(t.shape), dtype=dtype_name(t.dtype)) for n, t in tensors.items())  # type: ignore[arg-type]


def read_counts(live: Live) -> dict[str, float]:
    """How many updates the optimizer has made of each parameter so far."""
    return {n: live.rule.read_count(live.optimizer.state.get(p, {})) for n, p in live.trained.items()}


def carried_now(live: Live, names: Collection[str] | None = None) -> Buffers:
    """The carried tensors, or these, as they are now. By name, since a module may replace its buffers."""
    if names is not None and not names:
        return {}
    now = {**dict(live.model.named_buffers()), **dict(live.model.named_parameters())}
    return {n: now[n].detach() for n in (live.carried if names is None else names)}


def read_buffers(live: Live, names: Collection[str] | None = None) -> Buffers:
    """Copies of them, on their device."""
    return {n: b.clone() for n, b in carried_now(live, names).items()}


def read_snapshot(live: Live, step: int, counts: Mapping[str, float], averaged: Params | None = None) -> Snapshot:
    """The state before `step`, copied, with the number of updates of each parameter that the recorder knows.

    Copies stay on their device, where they are made at once, unless its memory is full. The count is that of
    `stored_count`.
    """
    for name, p in live.trained.items():
        found = live.optimizer.state.get(p, {}).get("step")
        if found is not None and float(found) != counts[name]:
            raise RecordingError(
                f"before step {step} the optimizer counts {float(found):g} updates of {name}, the recorder "
                f"{counts[name]:g}; its state was reset or loaded during the run: record the parts as separate runs, "
                "or begin a stage with a new optimizer: recorder.stage(name, optimizer=...)"
            )
    slots = {n: live.rule.read_slots(live.optimizer.state.get(p, {}), p) for n, p in live.trained.items()}
    average = {} if averaged is None else {AVERAGE: {n: _copy(p) for n, p in averaged.items()}}
    state = State(
        {n: _copy(p) for n, p in (live.trained | live.rested).items()},
        {slot: {n: _copy(slots[n][slot]) for n in live.trained} for slot in live.rule.slots} | average,
        stored_count([counts[n] for n in live.trained]),
    )
    return Snapshot(step, state, read_buffers(live))


def stored_count(updates: Sequence[float]) -> Tensor:
    """The number of updates of each trained parameter, as a run keeps it: 0-dim where all are equal."""
    return torch.tensor(updates[0] if len(set(updates)) == 1 else updates, dtype=torch.float64)


def _copy(tensor: Tensor) -> Tensor:
    try:
        return tensor.detach().clone()
    except torch.OutOfMemoryError:
        return tensor.detach().cpu()


def read_hyper(live: Live) -> tuple[Hyper, ...]:
    """Hyperparameters in force; RecordingError if the optimizer's groups are not those of the start."""
    groups = live.optimizer.param_groups
    known = [id(p) for p in live.trained.values()]
    if [len(g["params"]) for g in groups] != list(map(len, live.groups)) or [
        id(p) for g in groups for p in g["params"]
    ] != known:
        raise RecordingError(
            "the optimizer's parameter groups changed within a stage; change them between two stages, "
            "or build all groups before recording (lr=0 keeps one at rest)"
        )
    return tuple(live.rule.read_hyper(group) for group in groups)


def read_gradients(live: Live) -> dict[str, Tensor]:
    """p.grad by name, where there is one: torch passes over the others. RecordingError if there is none at all,
    UnsupportedError for a sparse one."""
    found = {n: p.grad for n, p in live.trained.items() if p.grad is not None}
    if not found:
        names = [*live.trained]
        raise RecordingError(
            f"the gradient of {', '.join(names[:5])}{' and others' if len(names) > 5 else ''} is None, so torch would "
            "change nothing; call backward() before step(), and do not freeze all parameters"
        )
    if sparse := [n for n, g in found.items() if g.layout is not torch.strided]:
        raise UnsupportedError(
            f"the gradient of {sparse[0]} is sparse; replays are dense: build the layer with sparse=False"
        )
    return found
