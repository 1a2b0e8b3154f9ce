"""Where one phase of a training ends and the next begins: a linear map from its last state to the first of the next."""

from __future__ import annotations

import torch
from torch import Tensor

from aa_core.records import Phase
from aa_core.state import Params, Snapshot, State, rays


class Crossing:
    """Parameters go on under their new names, thaw, rest or begin anew; the optimizer goes on, or begins anew.

    What begins anew has its recorded value whatever happened before, so it passes no derivative on. Neither does what
    the next model no longer has.
    """

    def __init__(self, left: Phase, before: Snapshot, phase: Phase, first: Snapshot, device: torch.device) -> None:
        """`before` is any snapshot of the phase that is left, `first` the recorded one where the next starts."""
        self._old, self._new = _shapes(before.state), _shapes(first.state)
        self._fresh = phase.fresh
        self._sources = {n: phase.sources.get(n, n) for n in (*first.state.params, *first.buffers)}
        values = {**first.state.params, **first.buffers}
        self._initial = {n: values[n].to(device) for n, source in self._sources.items() if source is None}
        self._buffers = tuple(first.buffers)
        self._clocks = [None if phase.fresh else self._clock_before(left, names[0]) for names in phase.clocks]

    def _clock_before(self, left: Phase, name: str) -> int | None:
        source = self._sources[name]
        return next((i for i, names in enumerate(left.clocks) if source in names), None)

    def enter(self, at: Snapshot) -> Snapshot:
        """The same moment, as the next phase finds it."""
        values = {**at.state.params, **at.buffers}
        now = {n: self._initial[n] if s is None else values[s] for n, s in self._sources.items()}
        state = self._carried(at.state, ())
        return Snapshot(
            at.step, state._replace(params={n: now[n] for n in self._new.params}), {n: now[n] for n in self._buffers}
        )

    def push(self, tangent: State) -> State:
        """A tangent of the last state, [R] rays -> the tangent of the first state of the next phase."""
        return self._carried(tangent, (rays(tangent),))

    def pull(self, cotangent: State) -> State:
        """The transpose: a cotangent of the first state -> the cotangent of the last state before it."""
        lead = (rays(cotangent),)
        params = _zeros(self._old.params, cotangent.params, lead)
        slots = {s: _zeros(leaves, cotangent.params, lead) for s, leaves in self._old.slots.items()}
        count = cotangent.count.new_zeros((*lead, *self._old.count.shape))
        for name, source in self._sources.items():
            if name in cotangent.params and source in params:
                params[source] = params[source] + cotangent.params[name]
            for slot in () if self._fresh else slots:
                if name in cotangent.slots[slot] and source in slots[slot]:
                    slots[slot][source] = slots[slot][source] + cotangent.slots[slot][name]
        for clock, before in enumerate(self._clocks):
            if before is not None:
                count[..., before] += cotangent.count[..., clock]
        return State(params, slots, count)

    def _carried(self, state: State, lead: tuple[int, ...]) -> State:
        """What goes on of a state or tangent, with zeros for all that begins anew."""
        params = self._moved(state.params, self._new.params, state.params, lead)
        slots = {
            s: self._moved({} if self._fresh else state.slots[s], leaves, state.params, lead)
            for s, leaves in self._new.slots.items()
        }
        zero = state.count.new_zeros(lead)
        count = [zero if before is None else state.count[..., before] for before in self._clocks]
        return State(params, slots, torch.stack(count, -1))

    def _moved(self, old: Params, new: Params, like: Params, lead: tuple[int, ...]) -> Params:
        zeros = _zeros({n: t for n, t in new.items() if self._sources[n] not in old}, like, lead)
        return {n: zeros[n] if n in zeros else old[self._sources[n] or n] for n in new}


def _shapes(state: State) -> State:
    """The leaves without their data."""
    bare = {s: {n: t.to("meta") for n, t in leaves.items()} for s, leaves in state.slots.items()}
    return State({n: t.to("meta") for n, t in state.params.items()}, bare, state.count.to("meta"))


def _zeros(shapes: Params, like: Params, lead: tuple[int, ...]) -> dict[str, Tensor]:
    device = next(iter(like.values())).device
    return {n: torch.zeros((*lead, *t.shape), dtype=t.dtype, device=device) for n, t in shapes.items()}
