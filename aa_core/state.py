"""The training state as a value, and its arithmetic.

A `State` is also the type of tangents and cotangents: then every leaf carries one leading
dimension [R] of *rays* (one ray per stage for tangents, one per query for cotangents).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors as flatten

Params = dict[str, Tensor]
ALONE = 1 << 15
"""Elements of a leaf from which calls cost less than a copy."""
AVERAGE = "average"
"""The slot of averaged weights, where the training keeps them."""
Buffers = dict[str, Tensor]


class State(NamedTuple):
    """xi = (parameters, optimizer slots, number of updates made): all that training differentiates through."""

    params: Params
    slots: dict[str, Params]
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    """float64 [clocks]: how often the optimizer stepped. A float leaf, because a skipped step does not count.

    One clock, unless some parameters were passed over in some steps: see `records.Phase.clocks`."""

    @property
    def judged(self) -> Params:
        """The parameters by which the model is judged: the averaged ones where there are any."""
        return {**self.params, **self.slots.get(AVERAGE, {})}


class Snapshot(NamedTuple):
    """xi_k: the state *before* step k, with the tensors that are carried along but not differentiated."""

    step: int
    state: State
    buffers: Buffers
    """Model buffers and frozen parameters: replayed values, held fixed by every derivative."""


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` leaf by leaf."""
    first = states[0]
    return State(
        {n: function(*(s.params[n] for s in states)) for n in first.params},
        {
            slot: {n: function(*(s.slots[slot][n] for s in states)) for n in leaves}
            for slot, leaves in first.slots.items()
        },
        function(*(s.count for s in states)),
    )


def leaves(state: State) -> list[Tensor]:
    """All leaves in a fixed order: parameters, slots, count."""
    return [*state.params.values(), *(t for slot in state.slots.values() for t in slot.values()), state.count]


def unflatten(tensors: Iterable[Tensor], like: State) -> State:
    """The inverse of `leaves`, with the names of `like`."""
    stream = iter(tensors)
    return map_state(lambda _: next(stream), like)


def add(a: State, b: State) -> State:
    return map_state(torch.add, a, b)


def subtract(a: State, b: State) -> State:
    return map_state(torch.sub, a, b)


def detach(state: State) -> State:
    return map_state(Tensor.detach, state)


def zeros_like(state: State) -> State:
    return map_state(torch.zeros_like, state)


def blend(at: State, stepped: State, treatment: float) -> State:
    """xi + T (Phi(xi) - xi); T = 1 and T = 0 return their argument itself, bit for bit."""
    if treatment == 1.0:
        return stepped
    if treatment == 0.0:
        return at
    return map_state(lambda a, b: a + treatment * (b - a), at, stepped)


def as_rays(state: State) -> State:
    """Give every leaf a leading dimension of one ray."""
    return map_state(lambda t: t.unsqueeze(0), state)


def stack_rays(states: Iterable[State]) -> State:
    """Stack states without ray dimension into [R] rays."""
    return map_state(lambda *ts: torch.stack(ts), *states)


def concat_rays(*states: State) -> State:
    return map_state(lambda *ts: torch.cat(ts), *states)


def ray(state: State, index: int) -> State:
    return map_state(lambda t: t[index], state)


def rays(state: State) -> int:
    """How many rays a tangent or cotangent carries."""
    return state.count.shape[0]


def pair(cotangent: State, tangent: State) -> Tensor:
    """<a, d> for rays: the inner product of each cotangent ray with each tangent ray, float64 [R_a, R_d].

    Products of leaves are computed in their own precision, but never in less than float32, and added up in float64.
    """
    each = zip(_vectors(leaves(cotangent), 1), _vectors(leaves(tangent), 1), strict=True)
    return torch.stack([(a @ d.T).double() for a, d in each]).sum(0)


def pair_change(cotangent: State, after: State, before: State) -> Tensor:
    """<a, after - before> for every ray, float64 [R]: `pair` with one change that is not needed itself."""
    each = zip(_vectors(leaves(cotangent), 1), _vectors(leaves(after)), _vectors(leaves(before)), strict=True)
    return torch.stack([(a @ (x - y)).double() for a, x, y in each]).sum(0)


def _vectors(tensors: Sequence[Tensor], lead: int = 0) -> list[Tensor]:
    """[*rays, size] in float32 or more; small tensors of one dtype side by side, to be computed with in a few calls."""
    shape = tensors[0].shape[:lead]
    large, small = list[Tensor](), dict[torch.dtype, list[Tensor]]()
    for tensor in tensors:
        if tensor.numel() >= ALONE * shape.numel():
            large.append(tensor.reshape(*shape, -1))
        else:
            small.setdefault(tensor.dtype, []).append(tensor)
    vectors = large + [side_by_side(alike, shape) for alike in small.values()]
    return [v.float() if v.itemsize < 4 else v for v in vectors]


def side_by_side(tensors: Sequence[Tensor], rays: Sequence[int]) -> Tensor:
    """[*rays, ...] each -> [*rays, size]; in one call where there is no more than one ray. One is not copied."""
    if math.prod(rays) == 1:
        return flatten(tensors).view(*rays, -1)
    flat = [t.reshape(*rays, -1) for t in tensors]
    return torch.cat(flat, len(rays)) if len(flat) > 1 else flat[0]


def norm(tangent: State) -> Tensor:
    """Euclidean norm of each ray's parameters, averaged ones among them, [R].

    Other slots have other units (gradients, their squares) and stay out.
    """
    judged = [*tangent.params.values(), *tangent.slots.get(AVERAGE, {}).values()]
    norms = [torch.linalg.vector_norm(v, dim=1, dtype=torch.float64) for v in _vectors(judged, 1)]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


def max_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest absolute difference between two sets of tensors of the same names; NaN if any is."""
    differences = [(a[n] - b[n]).abs().max().double() for n in a if a[n].numel()]
    return float(torch.stack(differences).max()) if differences else 0.0


def is_finite(state: State) -> bool:
    return all(map(all_finite, leaves(state)))


def all_finite(tensor: Tensor) -> bool:
    """Infinity and NaN survive a sum, which is taken quicker than a look at each number; a sum may overflow, too."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def to_device(snapshot: Snapshot, device: torch.device) -> Snapshot:
    return Snapshot(
        snapshot.step,
        map_state(lambda t: t.to(device), snapshot.state),
        {n: t.to(device) for n, t in snapshot.buffers.items()},
    )


def nbytes(snapshot: Snapshot) -> int:
    """Bytes that one snapshot occupies."""
    tensors = [*leaves(snapshot.state), *snapshot.buffers.values()]
    return sum(t.numel() * t.element_size() for t in tensors)
