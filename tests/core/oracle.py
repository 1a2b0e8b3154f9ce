"""Brute force: dense Jacobians and unrolled autograd, written again from the papers' formulas and without the engine.

Nothing here imports the engine's rules, curvature, propagator or estimators. Everything is float64, slow and plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from aa_core.records import Batch, Hyper, StepInput
from aa_core.state import Params, State
from tests.core import oracle_rules

Loss = Callable[[Tensor, Tensor], Tensor]
Flat = Callable[[Tensor], Tensor]


# ---- the state as one vector: parameters, then each slot, then the count ---------------------------------------------


def flatten(state: State) -> Tensor:
    tensors = [*state.params.values(), *(t for slot in state.slots.values() for t in slot.values()), state.count]
    return torch.cat([t.reshape(-1) for t in tensors])


def unflatten(vector: Tensor, like: State) -> State:
    position = 0

    def take(t: Tensor) -> Tensor:
        nonlocal position
        position += t.numel()
        return vector[position - t.numel() : position].reshape(t.shape)

    params = {n: take(p) for n, p in like.params.items()}
    slots = {s: {n: take(t) for n, t in named.items()} for s, named in like.slots.items()}
    return State(params, slots, take(like.count))


def parameter_count(state: State) -> int:
    return sum(p.numel() for p in state.params.values())


# ---- the optimizers, as their papers (and torch's documentation) write them ------------------------------------------


def sgd(p: Tensor, g: Tensor, slots: dict[str, Tensor], count: Tensor, h: Hyper) -> tuple[Tensor, dict[str, Tensor]]:
    v = slots["momentum_buffer"]
    g = (-g if h["maximize"] else g) + h["weight_decay"] * p
    if h["momentum"]:
        is_first = bool(count.detach() <= 1)  # then v = g; without dampening that is the formula itself at v = 0
        v = g if is_first and h["dampening"] else h["momentum"] * v + (1 - h["dampening"]) * g
        g = g + h["momentum"] * v if h["nesterov"] else v
    return p - h["lr"] * g, {"momentum_buffer": v}


def adam(p: Tensor, g: Tensor, slots: dict[str, Tensor], count: Tensor, h: Hyper) -> tuple[Tensor, dict[str, Tensor]]:
    return _adam_step(p, (-g if h["maximize"] else g) + h["weight_decay"] * p, slots, count, h)


def adamw(p: Tensor, g: Tensor, slots: dict[str, Tensor], count: Tensor, h: Hyper) -> tuple[Tensor, dict[str, Tensor]]:
    return _adam_step(p - h["lr"] * h["weight_decay"] * p, -g if h["maximize"] else g, slots, count, h)


def _adam_step(
    p: Tensor, g: Tensor, slots: dict[str, Tensor], count: Tensor, h: Hyper
) -> tuple[Tensor, dict[str, Tensor]]:
    m = h["beta1"] * slots["exp_avg"] + (1 - h["beta1"]) * g
    v = h["beta2"] * slots["exp_avg_sq"] + (1 - h["beta2"]) * g * g
    m_hat, v_hat = m / (1 - h["beta1"] ** count), v / (1 - h["beta2"] ** count)
    return p - h["lr"] * m_hat / (v_hat.sqrt() + h["eps"]), {"exp_avg": m, "exp_avg_sq": v}


UPDATES = {"SGD": sgd, "Adam": adam, "AdamW": adamw, **oracle_rules.UPDATES}


class Oracle:
    """A recorded run once more: model, loss, optimizer and steps, and Phi_k written out."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        optimizer: str,
        groups: tuple[tuple[str, ...], ...],
        steps: Sequence[StepInput],
    ) -> None:
        self.model, self.loss_fn, self.groups, self.steps = model, loss_fn, groups, steps
        self._update = UPDATES[optimizer]

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self.model, params, (inputs,))

    def batch_loss(self, params: Params, k: int) -> Tensor:
        batches = self.steps[k].batches
        return sum(w * self.loss_fn(self.outputs(params, b.inputs), b.targets) for b, w in batches)  # type: ignore[return-value]

    def update(self, state: State, grads: Params, k: int) -> State:
        """U(xi, g)."""
        hyper = {n: h for names, h in zip(self.groups, self.steps[k].hyper, strict=True) for n in names}
        count = state.count + 1
        new = {
            n: self._update(p, grads[n], {s: state.slots[s][n] for s in state.slots}, count[0], hyper[n])
            for n, p in state.params.items()
        }
        slots = {s: {n: new[n][1][s] for n in new} for s in state.slots}
        return State({n: new[n][0] for n in new}, slots, count)

    def step(self, state: State, k: int) -> State:
        """Phi_k(xi) = U(xi, g_k(theta)), the gradient computation included."""
        return self.update(state, grad(lambda p: self.batch_loss(p, k))(state.params), k)

    def step_without_data(self, state: State, k: int) -> State:
        """U(xi, 0)."""
        return self.update(state, {n: torch.zeros_like(p) for n, p in state.params.items()}, k)

    # ---- dense matrices ----------------------------------------------------------------------------------------------

    def jacobian(self, state: State, k: int) -> Tensor:
        """d Phi_k / d xi, [N, N], differentiated as a whole."""
        return jacrev(lambda v: flatten(self.step(unflatten(v, state), k)))(flatten(state))

    def jacobian_with(self, state: State, k: int, curvature: Tensor) -> Tensor:
        """dU/dxi + dU/dg C at the true gradient, [N, N], for any symmetric C, [P, P]."""
        size = parameter_count(state)
        grads = grad(lambda p: self.batch_loss(p, k))(state.params)
        shape_of_grads = state._replace(params=grads)

        def update(v: Tensor, g: Tensor) -> Tensor:
            return flatten(self.update(unflatten(v, state), unflatten(g, shape_of_grads).params, k))

        g = flatten(shape_of_grads)
        by_state, by_grad = jacrev(update, argnums=(0, 1))(flatten(state), g)
        by_state[:, :size] += by_grad[:, :size] @ curvature
        return by_state

    def gauss_newton(self, state: State, k: int) -> Tensor:
        """sum over micro-batches of w J^T (d2 loss / d f2) J, [P, P], with J and the middle formed."""
        size = parameter_count(state)
        total = torch.zeros(size, size, dtype=torch.float64)
        for batch, weight in self.steps[k].batches:
            total += weight * self._gauss_newton(state, batch)
        return total

    def _gauss_newton(self, state: State, batch: Batch) -> Tensor:
        at = flatten(state)[: parameter_count(state)]

        def outputs(v: Tensor) -> Tensor:
            padded = torch.cat([v, flatten(state)[len(v) :]])
            return self.outputs(unflatten(padded, state).params, batch.inputs).reshape(-1)

        f = outputs(at)
        shape = self.outputs(state.params, batch.inputs).shape
        j = jacrev(outputs)(at)
        middle = jacrev(grad(lambda z: self.loss_fn(z.reshape(shape), batch.targets)))(f)
        return j.T @ middle @ j

    def dense(self, state: State, k: int, curvature: str) -> Tensor:
        """M_k, [N, N], with the curvature asked for."""
        if curvature == "exact":
            return self.jacobian(state, k)
        size = parameter_count(state)
        matrix = self.gauss_newton(state, k) if curvature == "ggn" else torch.zeros(size, size, dtype=torch.float64)
        return self.jacobian_with(state, k, matrix)

    # ---- training unrolled -------------------------------------------------------------------------------------------

    def final(self, start: State, treatments: Tensor, semantics: str = "freeze") -> State:
        """xi_K with xi_{k+1} = base + T_k (Phi_k(xi_k) - base); differentiable in the treatments [K]."""
        state = start
        for k in range(len(self.steps)):
            base = state if semantics == "freeze" else self.step_without_data(state, k)
            stepped, t = self.step(state, k), treatments[k]
            state = unflatten(flatten(base) + t * (flatten(stepped) - flatten(base)), state)
        return state

    def treatment_gradient(self, start: State, gamma: Callable[[Params], Tensor], semantics: str = "freeze") -> Tensor:
        """d gamma / d T at the recorded run, [K, values], by reverse mode through all of training."""
        treatments = torch.ones(len(self.steps), dtype=torch.float64, requires_grad=True)
        values = gamma(self.final(start, treatments, semantics).params)
        rows = [torch.autograd.grad(v, treatments, retain_graph=True)[0] for v in values]
        return torch.stack(rows, 1)

    def treatment_difference(
        self, start: State, steps: Sequence[int], semantics: str = "freeze", h: float = 1e-5
    ) -> State:
        """d xi_K / d T for one treatment shared by `steps`, by central differences."""
        ends = []
        for sign in (1, -1):
            treatments = torch.ones(len(self.steps), dtype=torch.float64)
            treatments[list(steps)] += sign * h
            ends.append(flatten(self.final(start, treatments, semantics)))
        return unflatten((ends[0] - ends[1]) / (2 * h), start)
