"""U: clipping, the optimizer and averaging as one pure function of state and gradient, and its derivative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap

from aa_core.curvature import pull_back
from aa_core.packing import Packing
from aa_core.records import Groups, Hyper, StepInput
from aa_core.rules import UpdateRule
from aa_core.rules.base import Derivative, ForeachUpdate, Many, ManySlots, Slots
from aa_core.rules.clipping import clip
from aa_core.state import AVERAGE, Params, State, rays


def update(
    rule: UpdateRule,
    groups: Groups,
    clocks: Groups,
    state: State,
    grads: Params,
    step: StepInput,
    *,
    foreach: bool = False,
) -> State:
    """U: clipping and the optimizer as one pure function of the state and the gradient.

    What the optimizer does not have, or passed over for want of a gradient, stays as it is. `foreach` takes many
    parameters at once where the rule knows how: for replays, since that cannot be differentiated.
    """
    hyper = _in_force(groups, step)
    count = state.count + _ticks(clocks, step.idle, state.count)
    clock = _clock_of(clocks)
    clipped = clip({n: g for n, g in grads.items() if n in hyper}, step.clip)
    if foreach and rule.foreach is not None:
        stepped = _stepped_together(rule.foreach, groups, clock, state, clipped, count.tolist(), step)
    else:
        stepped = {
            n: rule.update(state.params[n], clipped[n], {s: state.slots[s][n] for s in rule.slots}, count[clock[n]], h)
            for n, h in hyper.items()
        }
    params = {n: stepped[n][0] if n in stepped else p for n, p in state.params.items()}
    slots = {s: {n: stepped[n][1][s] if n in stepped else t for n, t in state.slots[s].items()} for s in rule.slots}
    return State(params, slots | _averaged(state, params, step.averaging), count)


def _stepped_together(
    foreach: ForeachUpdate,
    groups: Groups,
    clock: Mapping[str, int],
    state: State,
    grads: Params,
    counts: Sequence[float],
    step: StepInput,
) -> dict[str, tuple[Tensor, Slots]]:
    """The parameters of one group, clock and dtype at once."""
    stepped: dict[str, tuple[Tensor, Slots]] = {}
    for names, hyper in zip(groups, step.hyper, strict=True):
        kinds = {n: (clock[n], state.params[n].dtype) for n in names if n not in step.idle}
        for kind in dict.fromkeys(kinds.values()):
            alike = [n for n, k in kinds.items() if k == kind]
            slots = {s: [leaves[n] for n in alike] for s, leaves in state.slots.items() if s != AVERAGE}
            params, made = foreach(
                [state.params[n] for n in alike], [grads[n] for n in alike], slots, counts[kind[0]], hyper
            )
            stepped |= {n: (params[i], {s: ts[i] for s, ts in made.items()}) for i, n in enumerate(alike)}
    return stepped


def _in_force(groups: Groups, step: StepInput) -> dict[str, Hyper]:
    """The hyperparameters of each parameter that the step updates."""
    return {n: h for names, h in zip(groups, step.hyper, strict=True) for n in names if n not in step.idle}


def _clock_of(clocks: Groups) -> dict[str, int]:
    return {n: i for i, names in enumerate(clocks) for n in names}


def _ticks(clocks: Groups, idle: tuple[str, ...], like: Tensor) -> Tensor | float:
    """What a step adds to each clock."""
    if not idle:
        return 1.0
    return torch.tensor([float(names[0] not in idle) for names in clocks], dtype=like.dtype, device=like.device)


def _averaged(state: State, params: Params, weight: float | None) -> dict[str, Params]:
    """The averaged weights after a step, where the training keeps any; or their tangents."""
    if AVERAGE not in state.slots or weight is None:
        return {s: leaves for s, leaves in state.slots.items() if s == AVERAGE}
    return {AVERAGE: {n: average.lerp(params[n], weight) for n, average in state.slots[AVERAGE].items()}}


class Linearized:
    """dU at one state and gradient, on packed parameters: bundle by bundle, for all rays at once."""

    def __init__(self, rule: UpdateRule, packing: Packing, state: State, grads: Params, step: StepInput) -> None:
        self._rule, self._packing, self._state, self._grads = rule, packing, state, grads
        self._step = step._replace(idle=packing.pack_names(step.idle))
        self._clock = _clock_of(packing.clocks)

    @cached_property
    def _gradient(self) -> Params:
        """Of what the step updates, before clipping."""
        return {
            n: g for n, g in self._packing.pack(self._grads).items() if n in _in_force(self._packing.groups, self._step)
        }

    @cached_property
    def _parts(self) -> list[tuple[list[str], Derivative]]:
        """The derivative of the rule for the bundles that the step updates: of those alike together."""
        rule, at = self._rule, self._packing.pack_state(self._state)
        counts = at.count + _ticks(self._packing.clocks, self._step.idle, at.count)
        clipped = clip(self._gradient, self._step.clip)
        alike = dict[tuple[int, int, torch.dtype], list[str]]()
        hyper = _in_force(self._packing.groups, self._step)
        for n, h in hyper.items():
            alike.setdefault((id(h), self._clock[n], at.params[n].dtype), []).append(n)

        def derivative(names: list[str]) -> Derivative:
            params, grads, slots = _named(names, at.params), _named(names, clipped), _of(rule, names, at.slots)
            count, h = counts[self._clock[names[0]]], hyper[names[0]]
            if rule.derivative is not None:
                return rule.derivative(params, grads, slots, float(count), h)
            own = ({s: slots[s][i] for s in slots} for i in range(len(names)))
            return Each([Autograd(rule, p, g, o, count, h) for p, g, o in zip(params, grads, own, strict=True)])

        return [(names, derivative(names)) for names in alike.values()]

    def prepare(self) -> None:
        """Compute what does not depend on rays."""
        _ = self._parts

    def push(self, tangent: State, grads: Params) -> State:
        """dU/dxi d + dU/dg dg."""
        lead = (rays(tangent),)
        at, curved = self._packing.pack_state(tangent, lead), self._push_clip(self._packing.pack(grads, lead))
        params, slots = _copied(at)
        for names, part in self._parts:
            own, count = _of(self._rule, names, slots), at.count[:, self._clock[names[0]]]
            pushed, made = part.push(_named(names, params), _named(names, curved), own, count)
            params |= zip(names, pushed, strict=True)
            for s, ts in made.items():
                slots[s] |= zip(names, ts, strict=True)
        after = State(params, slots | _averaged(at, params, self._step.averaging), at.count)
        return self._packing.unpack_state(after, lead)

    def pull(self, cotangent: State) -> tuple[State, Params]:
        """((dU/dxi)^T a, (dU/dg)^T a)."""
        lead = (rays(cotangent),)
        at = self._packing.pack_state(cotangent, lead)
        (params, slots), count = _copied(at), at.count.clone()
        if AVERAGE in slots and (weight := self._step.averaging) is not None:
            params |= {n: params[n] + weight * a for n, a in slots[AVERAGE].items()}
            slots[AVERAGE] = {n: (1 - weight) * a for n, a in slots[AVERAGE].items()}
        grads = Params()
        for names, part in self._parts:
            pulled, taught, made, ticks = part.pull(_named(names, params), _of(self._rule, names, slots))
            params |= zip(names, pulled, strict=True)
            grads |= zip(names, taught, strict=True)
            count[:, self._clock[names[0]]] += ticks
            for s, ts in made.items():
                slots[s] |= zip(names, ts, strict=True)
        rest = {n: torch.zeros_like(a) for n, a in params.items() if n not in grads}
        through = self._packing.unpack(self._pull_clip(grads) | rest, lead)
        return self._packing.unpack_state(State(params, slots, count), lead), through

    def _push_clip(self, tangent: Params) -> Params:
        if self._step.clip is None:
            return tangent
        own = {n: tangent[n] for n in self._gradient}
        return vmap(lambda t: jvp(lambda g: clip(g, self._step.clip), (self._gradient,), (t,))[1])(own)

    def _pull_clip(self, cotangent: Params) -> Params:
        if self._step.clip is None:
            return cotangent
        at = {n: g.detach().requires_grad_() for n, g in self._gradient.items()}
        clipped = clip(at, self._step.clip)
        found = pull_back([clipped[n] for n in cotangent], list(at.values()), list(cotangent.values()))
        return dict(zip(at, found, strict=True))


def _copied(state: State) -> tuple[Params, dict[str, Params]]:
    """Its dictionaries, to change."""
    return dict(state.params), {s: dict(leaves) for s, leaves in state.slots.items()}


def _named(names: Sequence[str], leaves: Params) -> list[Tensor]:
    return [leaves[n] for n in names]


def _of(rule: UpdateRule, names: Sequence[str], slots: Mapping[str, Params]) -> dict[str, Many]:
    """What the rule keeps of them."""
    return {s: _named(names, slots[s]) for s in rule.slots}


class Each(NamedTuple):
    """The derivative of an update of many tensors, one by one."""

    parts: list[Autograd]

    def push(self, params: Many, grads: Many, slots: ManySlots, count: Tensor) -> tuple[Many, ManySlots]:
        pushed = [
            part.push(p, g, {s: ts[i] for s, ts in slots.items()}, count)
            for i, (part, p, g) in enumerate(zip(self.parts, params, grads, strict=True))
        ]
        return [p for p, _ in pushed], {s: [own[s] for _, own in pushed] for s in slots}

    def pull(self, params: Many, slots: ManySlots) -> tuple[Many, Many, ManySlots, Tensor]:
        pulled = [
            part.pull(p, {s: ts[i] for s, ts in slots.items()})
            for i, (part, p) in enumerate(zip(self.parts, params, strict=True))
        ]
        params, grads, own, counts = zip(*pulled, strict=True)
        return params, grads, {s: [o[s] for o in own] for s in slots}, torch.stack(counts).sum(0)


class Autograd(NamedTuple):
    """A rule's derivative for one tensor, where none is written down."""

    rule: UpdateRule
    param: Tensor
    grad: Tensor
    slots: Slots
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    hyper: Hyper

    def push(self, param: Tensor, grad: Tensor, slots: Slots, count: Tensor) -> tuple[Tensor, Slots]:
        def one(*direction: Tensor) -> tuple[Tensor, ...]:
            return jvp(self._made, self._taken, direction)[1]

        pushed = vmap(one)(param, grad, count, *(slots[s] for s in self.slots))
        return pushed[0], dict(zip(self.slots, pushed[1:], strict=True))

    def pull(self, param: Tensor, slots: Slots) -> tuple[Tensor, Tensor, Slots, Tensor]:
        taken = [t.detach().requires_grad_() for t in self._taken]
        found = pull_back(self._made(*taken), taken, [param, *(slots[s] for s in self.slots)])
        return found[0], found[1], dict(zip(self.slots, found[3:], strict=True)), found[2]

    @property
    def _taken(self) -> tuple[Tensor, ...]:
        return self.param, self.grad, self.count, *self.slots.values()

    def _made(self, param: Tensor, grad: Tensor, count: Tensor, *slots: Tensor) -> tuple[Tensor, ...]:
        """The update, flat."""
        param, made = self.rule.update(param, grad, dict(zip(self.slots, slots, strict=True)), count, self.hyper)
        return param, *(made[s] for s in self.slots)
