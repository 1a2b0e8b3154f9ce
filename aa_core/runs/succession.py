"""From one phase of a training to the next: what the recorder finds changed when a stage begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aa_core.errors import RecordingError, UnsupportedError
from aa_core.recording.live import Live, LossFunction, observe, tensor_specs
from aa_core.runs.header import PhaseEntry
from aa_core.state import Params


class Left(NamedTuple):
    """How a stage was left, to notice what was changed before the next one."""

    values: Params
    """A copy of each parameter."""
    has_state: bool
    """Whether the optimizer had a state."""


def parameters(live: Live) -> Params:
    """All that nothing but a recorded step may change: the live tensors."""
    return live.trained | live.rested | {n: t for n, t in live.carried.items() if isinstance(t, nn.Parameter)}


def leave(live: Live) -> Left:
    return Left({n: p.detach().clone() for n, p in parameters(live).items()}, any(live.optimizer.state.values()))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def check_untouched(live: Live, kept: Params, step: int) -> None:
    """Before `step`: RecordingError unless all kept parameters have the bytes that the step before left."""
    now = parameters(live)
    changed = [n for n, before in kept.items() if not torch.equal(_bytes(now[n]), _bytes(before))]
    if changed:
        raise RecordingError(
            f"{listed_names(changed)} changed between steps {step - 1} and {step}, outside the recorded optimizer's "
            "step(): by a clamp or projection, another optimizer, or values that were loaded. A replay cannot know of "
            "it: make constraints part of the model (torch.nn.utils.parametrize), and train all by one optimizer"
        )


def listed_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def succeed(
    before: Live,
    left: Left,
    now: tuple[nn.Module, torch.optim.Optimizer, LossFunction],
    reset: Collection[str],
) -> tuple[Live, PhaseEntry | None]:
    """What is trained from now on, and the phase that begins with it; None if nothing changed.

    A tensor is the one it was before if it is the same object, or has the same name and values.

    Args:
        left: how `before` was left after its last step.
        now: model, optimizer and loss from here on.
        reset: names of parameters that were initialised anew.

    Raises:
        RecordingError: parameters changed since the last step, and nobody said that they begin anew.
        UnsupportedError: the optimizer has a state for what begins anew.
    """
    model, optimizer, loss_fn = now
    found = observe(model, optimizer, loss_fn)
    sources = _sources(before, found, reset)
    _check_unchanged(found, {n: s for n, s in sources.items() if s is not None}, left.values)
    trained_before = {n for n, s in sources.items() if s in before.trained or s in before.rested}
    live = observe(model, optimizer, loss_fn, trained_before)
    replaced = _outline(before) != _outline(live) or loss_fn is not before.loss_fn
    live = replace(live, problem=before.problem + replaced)
    fresh = _is_fresh(before, live, left)
    _check_slots(live, [n for n in live.trained if fresh or sources[n] is None])
    same = live.groups == before.groups and not replaced and not fresh and not reset
    return (before if same else live), None if same else phase_entry(live, sources, fresh)


def phase_entry(live: Live, sources: Mapping[str, str | None], fresh: bool) -> PhaseEntry:
    """What is trained now, as the log describes it."""
    model = type(live.model)
    return PhaseEntry(
        model_class=f"{model.__module__}.{model.__qualname__}",
        parameters=tensor_specs(live.trained | live.rested),
        groups=live.groups,
        buffers=tensor_specs(live.carried),
        optimizer=live.rule.name,
        slots=live.rule.slots,
        loss=str(getattr(live.loss_fn, "__qualname__", repr(live.loss_fn))),
        sources={n: s for n, s in sources.items() if s != n},
        fresh=fresh,
        problem=live.problem,
    )


def _tensors(live: Live) -> Params:
    return live.trained | live.rested | live.carried


def _sources(before: Live, now: Live, reset: Collection[str]) -> dict[str, str | None]:
    """The former name of every tensor of the model; None for those that begin anew."""
    old, new = _tensors(before), _tensors(now)
    if unknown := sorted(set(reset) - set(new)):
        raise RecordingError(f"reset={unknown[0]!r}: the model has no parameter of that name")
    known = {id(t): n for n, t in old.items()}

    def source(name: str, tensor: Tensor) -> str | None:
        if name in reset:
            return None
        if id(tensor) in known:
            return known[id(tensor)]
        continues = name in old and (old[name].shape, old[name].dtype) == (tensor.shape, tensor.dtype)
        return name if continues else None

    return {n: source(n, t) for n, t in new.items()}


def _check_unchanged(now: Live, sources: Mapping[str, str], values: Params) -> None:
    found = parameters(now)
    pairs = {n: (found[n], values[s]) for n, s in sources.items() if n in found and s in values}
    changed = [n for n, (a, b) in pairs.items() if not torch.equal(_bytes(a), _bytes(b).to(a.device))]
    if changed:
        raise RecordingError(
            f"{listed_names(changed)} changed between two stages, outside any recorded step, so how they depend on the "
            "training before is not known. If they were initialised anew, say so: recorder.stage(name, reset=[names]); "
            "else record the parts as separate runs"
        )


def _outline(live: Live) -> tuple[str, list[tuple[str, torch.Size]]]:
    """What makes a model another one."""
    return repr(live.model), sorted((n, t.shape) for n, t in _tensors(live).items())


def _is_fresh(before: Live, live: Live, left: Left) -> bool:
    """Whether the optimizer begins anew: another one, or one whose state was cleared."""
    cleared = left.has_state and not any(live.optimizer.state.values())
    return live.optimizer is not before.optimizer or cleared


def _check_slots(live: Live, begin: Sequence[str]) -> None:
    """UnsupportedError if the optimizer has a state for parameters that begin anew, or begins with one itself."""
    begun = [n for n in begin if live.optimizer.state.get(live.trained[n])]
    if begun:
        raise UnsupportedError(
            f"{begun[0]} begins anew, but the optimizer has a state for it ({len(begun)} such parameters); how that "
            "depends on the training before is not known. Begin the stage with a new optimizer without a state: "
            "recorder.stage(name, optimizer=...)"
        )
