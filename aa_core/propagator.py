"""One training step as a map Phi_k of the state, and its linearization M_k = d Phi_k / d xi."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from aa_core.crossing import Crossing
from aa_core.curvature import Curvature, Product, gradient, gradient_and_curvature
from aa_core.packing import Packing
from aa_core.problem import Problem
from aa_core.records import Phase, StepInput
from aa_core.rules import UpdateRule, rule_named
from aa_core.state import Buffers, Params, Snapshot, State
from aa_core.update import Linearized, update


class Stretch:
    """What stays the same over all steps of a phase: the problem, the update rule and the parameters."""

    def __init__(self, problem: Problem, phase: Phase, like: Params, crossing: Crossing | None) -> None:
        self.problem, self.phase, self.rule, self.crossing = problem, phase, rule_named(phase.optimizer), crossing
        self._shapes, self._on_gpu = like, problem.device.type == "cuda"

    @cached_property
    def packing(self) -> Packing:
        together, on_gpu = self.rule.elementwise, self._on_gpu
        return Packing(self.phase.groups, self.phase.clocks, self._shapes, together=together, on_gpu=on_gpu)

    def update(self, state: State, grads: Params, step: StepInput, *, vmapped: bool = False) -> State:
        """U of a recorded step; if vmap allows, in the foreach operations that torch.optim takes on a GPU.

        On a CPU they are those of one parameter at a time, and fewer."""
        return update(self.rule, self.phase.groups, self.phase.clocks, state, grads, step, foreach=not vmapped)

    def linearized(self, state: State, grads: Params, step: StepInput) -> Linearized:
        """dU of a recorded step."""
        return Linearized(self.rule.smooth, self.packing, state, grads, step)


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

        return take, Propagator(stretch.linearized(at.state, grads, step), product, self.crossing(at.step))

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

    def __init__(self, update: Linearized, product: Product, crossing: Crossing | None = None) -> None:
        self._update, self._product, self._crossing = update, product, crossing

    def prepare(self) -> None:
        """Compute what does not depend on the rays, if it is not yet."""
        self._update.prepare()

    def __matmul__(self, tangent: State) -> State:
        """Push a tangent of xi_k forward to a tangent of xi_{k+1}."""
        curved = dict(zip(tangent.params, self._product(list(tangent.params.values())), strict=True))
        after = self._update.push(tangent, curved)
        return after if self._crossing is None else self._crossing.push(after)

    @property
    def T(self) -> Transposed:
        return Transposed(self)

    def pull(self, cotangent: State) -> State:
        """Pull a cotangent of xi_{k+1} back to a cotangent of xi_k."""
        state, through = self._pull_update(cotangent)
        curved = self._product(list(through.values()))
        added = torch._foreach_add(list(state.params.values()), curved)
        return state._replace(params=dict(zip(state.params, added, strict=True)))

    def pull_to_gradient(self, cotangent: State) -> Params:
        """(dU/dg)^T a: what a unit of each coordinate of the step's gradient is worth, [R, ...] per parameter."""
        return self._pull_update(cotangent)[1]

    def _pull_update(self, cotangent: State) -> tuple[State, Params]:
        """((dU/dxi)^T a, (dU/dg)^T a)."""
        return self._update.pull(cotangent if self._crossing is None else self._crossing.pull(cotangent))


class Transposed:
    """M_k^T: `M.T @ cotangent`."""

    def __init__(self, propagator: Propagator) -> None:
        self._propagator = propagator

    def __matmul__(self, cotangent: State) -> State:
        return self._propagator.pull(cotangent)


def _shaped(params: Params) -> Params:
    """Shapes and dtypes without the data."""
    return {n: p.to("meta") for n, p in params.items()}
