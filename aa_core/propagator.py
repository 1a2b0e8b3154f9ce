"""One training step as a map Phi_k of the state, and its linearization M_k = d Phi_k / d xi."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.func import jvp, vmap

from aa_core.crossing import Crossing
from aa_core.curvature import Curvature, Product, gradient, gradient_and_curvature, pull_back
from aa_core.packing import Packing
from aa_core.problem import Problem
from aa_core.records import Groups, Phase, StepInput
from aa_core.rules import UpdateRule, rule_named
from aa_core.rules.clipping import clip
from aa_core.state import AVERAGE, Buffers, Params, Snapshot, State, leaves, rays, unflatten


def update(rule: UpdateRule, groups: Groups, clocks: Groups, state: State, grads: Params, step: StepInput) -> State:
    """U: clipping and the optimizer as one pure function of the state and the gradient.

    What the optimizer does not have, or passed over for want of a gradient, stays as it is.
    """
    hyper = {n: h for names, h in zip(groups, step.hyper, strict=True) for n in names if n not in step.idle}
    count = state.count + _ticks(clocks, step.idle, state.count)
    clock = {n: count[i] for i, names in enumerate(clocks) for n in names}
    clipped = clip({n: g for n, g in grads.items() if n in hyper}, step.clip)
    stepped = {
        n: rule.update(state.params[n], clipped[n], {s: state.slots[s][n] for s in rule.slots}, clock[n], h)
        for n, h in hyper.items()
    }
    params = {n: stepped[n][0] if n in stepped else p for n, p in state.params.items()}
    slots = {s: {n: stepped[n][1][s] if n in stepped else t for n, t in state.slots[s].items()} for s in rule.slots}
    return State(params, slots | _averaged(state, params, step.averaging), count)


def _averaged(state: State, params: Params, weight: float | None) -> dict[str, Params]:
    """The averaged weights after a step, where the training keeps any."""
    if AVERAGE not in state.slots or weight is None:
        return {s: leaves for s, leaves in state.slots.items() if s == AVERAGE}
    return {AVERAGE: {n: average.lerp(params[n], weight) for n, average in state.slots[AVERAGE].items()}}


def _ticks(clocks: Groups, idle: tuple[str, ...], like: Tensor) -> Tensor | float:
    """What a step adds to each clock."""
    if not idle:
        return 1.0
    return torch.tensor([float(names[0] not in idle) for names in clocks], dtype=like.dtype, device=like.device)


class Stretch:
    """What stays the same over all steps of a phase: the problem, the update rule and the parameters."""

    def __init__(self, problem: Problem, phase: Phase, like: Params, crossing: Crossing | None) -> None:
        self.problem, self.phase, self.rule, self.crossing = problem, phase, rule_named(phase.optimizer), crossing
        self._shapes = like

    @cached_property
    def packing(self) -> Packing:
        return Packing(self.phase.groups, self.phase.clocks, self._shapes, together=self.rule.elementwise)

    def update(self, state: State, grads: Params, step: StepInput) -> State:
        """U of a recorded step."""
        return update(self.rule, self.phase.groups, self.phase.clocks, state, grads, step)


class Training:
    """A recorded training as a map of its states, step by step; where a phase ends, its last step leads into the next.

    So xi_{k+1} is always the state as step k + 1 finds it.
    """

    def __init__(self, problem: Problem, phases: Sequence[Phase], load: Callable[[int], Snapshot]) -> None:
        """`load` gives the recorded snapshot before the first step of each phase."""
        self.problem = problem
        """The last one, by which the trained model is judged."""
        problems = problem.sequence(phases[-1].problem + 1)
        firsts = [load(phase.start) for phase in phases]
        for index, own in enumerate(problems):
            own.check_fits(next(f for f, phase in zip(firsts, phases, strict=True) if phase.problem == index))
        crossings = [
            Crossing(a, x, b, y, problem.device) for (a, x), (b, y) in pairwise(zip(phases, firsts, strict=True))
        ]
        self.stretches = tuple(
            Stretch(problems[phase.problem], phase, _shaped(first.state.params), crossing)
            for phase, first, crossing in zip(phases, firsts, [*crossings, None], strict=True)
        )
        self._starts = [phase.start for phase in phases]

    @property
    def rules(self) -> tuple[UpdateRule, ...]:
        """The update rules of all phases, each once."""
        return tuple({stretch.rule.name: stretch.rule for stretch in self.stretches}.values())

    def stretch(self, step: int) -> Stretch:
        """The phase that a step belongs to."""
        return self.stretches[bisect_right(self._starts, step) - 1]

    def crossing(self, step: int) -> Crossing | None:
        """What follows `step`, if the next one begins a phase."""
        at = bisect_right(self._starts, step)
        return self.stretches[at - 1].crossing if at < len(self._starts) and self._starts[at] == step + 1 else None

    def _arrive(self, at: Snapshot, state: State, buffers: Buffers) -> Snapshot:
        """The snapshot after the step at `at`."""
        after, crossing = Snapshot(at.step + 1, state, buffers), self.crossing(at.step)
        return after if crossing is None else crossing.enter(after)

    def step(self, at: Snapshot, step: StepInput) -> Snapshot:
        """Phi_k: the recorded step, replayed in the very operations of torch.optim. One forward, one backward pass."""
        stretch = self.stretch(at.step)
        updated = [n for n in stretch.phase.trained if n not in step.idle]
        grads, buffers = gradient(stretch.problem, at, step, updated)
        with torch.no_grad():
            return self._arrive(at, stretch.update(at.state, grads, step), buffers)

    def step_without_data(self, at: Snapshot, step: StepInput) -> Snapshot:
        """U(xi, 0): weight decay and momentum go on, the data are ignored (`zero_gradient`)."""
        zeros = {n: torch.zeros_like(p) for n, p in at.state.params.items()}
        with torch.no_grad():
            return self._arrive(at, self.stretch(at.step).update(at.state, zeros, step), at.buffers)

    def skip(self, at: Snapshot, stop: int) -> Snapshot:
        """The state at `stop` if no update occurs until then: phases begin as recorded, nothing else happens."""
        while at.step < stop:
            at = self._arrive(at, at.state, at.buffers)
        return at

    def linearize(
        self, at: Snapshot, step: StepInput, curvature: Curvature
    ) -> tuple[Callable[[], Snapshot], Propagator]:
        """(how to take the step, M_k). Costs one forward and backward pass with its graph kept."""
        stretch = self.stretch(at.step)
        grads, buffers, product = gradient_and_curvature(stretch.problem, at, step, curvature)

        def take() -> Snapshot:
            with torch.no_grad():
                return self._arrive(at, stretch.update(at.state, grads, step), buffers)

        return take, Propagator(stretch, at.state, grads, step, product, self.crossing(at.step))

    def graph_bytes(self, at: Snapshot, step: StepInput, curvature: Curvature) -> int:
        """What a propagator of this step holds on to beside the states, measured on one."""
        held: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _ = self.linearize(at, step, curvature)
        return sum(held.values())


class Propagator:
    """M_k, never formed: `M @ tangent` and `M.T @ cotangent` on states with [R] rays.

    With xi' = U(xi, g(theta)):  M d = dU/dxi d + dU/dg H d_theta  and  M^T a = (dU/dxi)^T a + H (dU/dg)^T a,
    so each application is one derivative of the optimizer and one curvature product. Where the step ends a phase, the
    crossing to the next is part of it.
    """

    def __init__(
        self,
        stretch: Stretch,
        state: State,
        grads: Params,
        step: StepInput,
        product: Product,
        crossing: Crossing | None = None,
    ) -> None:
        self._rule, self._packing, self._product, self._crossing = (
            stretch.rule.smooth,
            stretch.packing,
            product,
            crossing,
        )
        self._state, self._grads = self._packing.pack_state(state), self._packing.pack(grads)
        self._step = step._replace(idle=self._packing.pack_names(step.idle))
        self._size = len(leaves(self._state))

    def __matmul__(self, tangent: State) -> State:
        """Push a tangent of xi_k forward to a tangent of xi_{k+1}."""
        lead = (rays(tangent),)
        curved = dict(zip(tangent.params, self._product(list(tangent.params.values())), strict=True))
        packed = self._packing.pack_state(tangent, lead)
        directions = (*leaves(packed), *self._packing.pack(curved, lead).values())

        def push(*direction: Tensor) -> tuple[Tensor, ...]:
            return jvp(self._update, self._primals(), direction)[1]

        pushed = vmap(push)(*directions) if lead[0] > 1 else [t[None] for t in push(*(d[0] for d in directions))]
        after = self._packing.unpack_state(unflatten((t.detach() for t in pushed), packed), lead)
        return after if self._crossing is None else self._crossing.push(after)

    @property
    def T(self) -> Transposed:
        return Transposed(self)

    def pull(self, cotangent: State) -> State:
        """Pull a cotangent of xi_{k+1} back to a cotangent of xi_k."""
        state, through = self._pull_update(cotangent)
        curved = self._product(list(through.values()))
        return state._replace(params={n: a + c for (n, a), c in zip(state.params.items(), curved, strict=True)})

    def pull_to_gradient(self, cotangent: State) -> Params:
        """(dU/dg)^T a: what a unit of each coordinate of the step's gradient is worth, [R, ...] per parameter."""
        return self._pull_update(cotangent)[1]

    def _pull_update(self, cotangent: State) -> tuple[State, Params]:
        """((dU/dxi)^T a, (dU/dg)^T a)."""
        if self._crossing is not None:
            cotangent = self._crossing.pull(cotangent)
        lead = (rays(cotangent),)
        packed = self._packing.pack_state(cotangent, lead)
        primals = tuple(t.detach().requires_grad_() for t in self._primals())
        found = pull_back(self._update(*primals), primals, leaves(packed))
        state = self._packing.unpack_state(unflatten(found[: self._size], packed), lead)
        return state, self._packing.unpack(dict(zip(self._grads, found[self._size :], strict=True)), lead)

    def _primals(self) -> tuple[Tensor, ...]:
        return (*leaves(self._state), *self._grads.values())

    def _update(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """U on the packed leaves, packed gradients last."""
        grads = dict(zip(self._grads, tensors[self._size :], strict=True))
        state = unflatten(tensors[: self._size], self._state)
        packing = self._packing
        return tuple(leaves(update(self._rule, packing.groups, packing.clocks, state, grads, self._step)))


class Transposed:
    """M_k^T: `M.T @ cotangent`."""

    def __init__(self, propagator: Propagator) -> None:
        self._propagator = propagator

    def __matmul__(self, cotangent: State) -> State:
        return self._propagator.pull(cotangent)


def _shaped(params: Params) -> Params:
    """Shapes and dtypes without the data."""
    return {n: p.to("meta") for n, p in params.items()}
