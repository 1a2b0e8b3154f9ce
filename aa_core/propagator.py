"""One training step as a map Phi_k of the state, and its linearization M_k = d Phi_k / d xi."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.func import jvp, vmap

from aa_core.curvature import Curvature, Product, gradient, gradient_and_curvature
from aa_core.packing import Groups, Packing
from aa_core.problem import Problem
from aa_core.records import Clip, Hyper, StepInput
from aa_core.rules import UpdateRule
from aa_core.rules.clipping import clip
from aa_core.state import Params, Snapshot, State, leaves, rays, unflatten


def update(
    rule: UpdateRule,
    groups: Groups,
    state: State,
    grads: Params,
    hyper: tuple[Hyper, ...],
    clipping: Clip | None = None,
) -> State:
    """U: clipping and the optimizer as one pure function of the state and the gradient."""
    grads = clip(grads, clipping)
    by_name = {name: values for names, values in zip(groups, hyper, strict=True) for name in names}
    count = state.count + 1
    stepped = {
        n: rule.update(p, grads[n], {s: state.slots[s][n] for s in rule.slots}, count, by_name[n])
        for n, p in state.params.items()
    }
    return State(
        {n: param for n, (param, _) in stepped.items()},
        {s: {n: slots[s] for n, (_, slots) in stepped.items()} for s in rule.slots},
        count,
    )


class Training:
    """What stays the same over all steps: the problem, the update rule and the parameter groups."""

    def __init__(self, problem: Problem, rule: UpdateRule, groups: Groups, like: Params) -> None:
        self.problem, self.rule, self.groups = problem, rule, groups
        self._shapes = like

    @cached_property
    def packing(self) -> Packing:
        return Packing(self.groups, self._shapes, together=self.rule.elementwise)

    def update(self, state: State, grads: Params, step: StepInput) -> State:
        """U of a recorded step."""
        return update(self.rule, self.groups, state, grads, step.hyper, step.clip)

    def step(self, at: Snapshot, step: StepInput) -> Snapshot:
        """Phi_k: the recorded step, replayed in the very operations of torch.optim. One forward, one backward pass."""
        grads, buffers = gradient(self.problem, at, step)
        with torch.no_grad():
            return Snapshot(at.step + 1, self.update(at.state, grads, step), buffers)

    def step_without_data(self, at: Snapshot, step: StepInput) -> Snapshot:
        """U(xi, 0): weight decay and momentum go on, the data are ignored (`zero_gradient`)."""
        zeros = {n: torch.zeros_like(p) for n, p in at.state.params.items()}
        with torch.no_grad():
            return Snapshot(at.step + 1, self.update(at.state, zeros, step), at.buffers)

    def linearize(
        self, at: Snapshot, step: StepInput, curvature: Curvature
    ) -> tuple[Callable[[], Snapshot], Propagator]:
        """(how to take the step, M_k). Costs one forward and backward pass with its graph kept."""
        grads, buffers, product = gradient_and_curvature(self.problem, at, step, curvature)

        def take() -> Snapshot:
            with torch.no_grad():
                return Snapshot(at.step + 1, self.update(at.state, grads, step), buffers)

        return take, Propagator(self, at.state, grads, step, product)

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
    so each application is one derivative of the optimizer and one curvature product.
    """

    def __init__(self, training: Training, state: State, grads: Params, step: StepInput, product: Product) -> None:
        self._rule, self._packing = training.rule.smooth, training.packing
        self._step, self._product = step, product
        self._state, self._grads = self._packing.pack_state(state), self._packing.pack(grads)
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
        return self._packing.unpack_state(unflatten((t.detach() for t in pushed), packed), lead)

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
        lead = (rays(cotangent),)
        packed = self._packing.pack_state(cotangent, lead)
        primals = tuple(t.detach().requires_grad_() for t in self._primals())
        batched = lead[0] > 1
        given = [a if batched else a[0] for a in leaves(packed)]
        found = torch.autograd.grad(
            self._update(*primals), primals, given, is_grads_batched=batched, materialize_grads=True
        )
        pulled = found if batched else [f[None] for f in found]
        state = self._packing.unpack_state(unflatten(pulled[: self._size], packed), lead)
        return state, self._packing.unpack(dict(zip(self._grads, pulled[self._size :], strict=True)), lead)

    def _primals(self) -> tuple[Tensor, ...]:
        return (*leaves(self._state), *self._grads.values())

    def _update(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """U on the packed leaves, packed gradients last."""
        grads = dict(zip(self._grads, tensors[self._size :], strict=True))
        state = unflatten(tensors[: self._size], self._state)
        step = self._step
        return tuple(leaves(update(self._rule, self._packing.groups, state, grads, step.hyper, step.clip)))


class Transposed:
    """M_k^T: `M.T @ cotangent`."""

    def __init__(self, propagator: Propagator) -> None:
        self._propagator = propagator

    def __matmul__(self, cotangent: State) -> State:
        return self._propagator.pull(cotangent)
