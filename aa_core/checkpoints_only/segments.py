"""The training between two checkpoints as a stationary linear flow: how a change of the parameters gets through it.

After Bae et al. (2024), SOURCE: in each segment curvature, preconditioner and learning rate stand still, so that its K
steps take a change d of the parameters to

    S d,   S = P^1/2 exp(-rate K P^1/2 (H + lam) P^1/2) P^-1/2

H    mean curvature of the stage's loss at the two checkpoints, Gauss-Newton by default
P    Adam's preconditioner, 1 for SGD
lam  coupled weight decay; decoupled weight decay is a factor exp(-lr lam K) instead
rate lr, for SGD with momentum mu lr / (1 - mu)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from aa_core.checkpoints_only.checkpoints import CheckpointRun, SegmentEntry
from aa_core.checkpoints_only.lanczos import Applied, apply_flow
from aa_core.curvature import Product, gradient, gradient_and_curvature
from aa_core.errors import ConvergenceError, ProblemError, RequestError
from aa_core.memory import spare_memory
from aa_core.problem import Problem
from aa_core.records import Batch, StepInput, map_inputs
from aa_core.state import Params, Snapshot, to_device

SegmentCurvature = Literal["ggn", "none"]
"""No Hessian: held over a whole segment, its negative curvature lets changes grow without bound."""
TOLERANCE, SETTLED = 1e-4, 1e-2
"""Error of a flow that is aimed at, and up to which it is taken, relative to the change that goes through it."""
EXAMPLES = 1024
"""Training examples of a stage that its curvature is taken over, at most; evenly spaced."""
CHUNK = 512
"""Examples of one graph."""
SAMPLED_BATCHES = 8
"""Gradients, at each of two checkpoints, that an unknown second moment is estimated from."""
SAME_LOSS = 1e-3

Weighted = tuple[Batch, float]


@dataclass(frozen=True)
class Flow:
    """S between two checkpoints, on vectors of all parameters side by side, [R, n]."""

    product: Callable[[Tensor], Tensor]
    """A = rate K P^1/2 (H + lam) P^1/2, applied to every row."""
    root: Tensor
    """P^1/2, [n] or [1]."""
    decay: float
    """lr lam K of decoupled weight decay."""
    reach: float
    """rate K: the total learning rate."""

    def push(self, tangents: Tensor) -> Applied:
        """S d for every row."""
        found = self._apply(tangents / self.root, lambda x: torch.exp(-x - self.decay))
        return found._replace(vectors=found.vectors * self.root)

    def pull(self, cotangents: Tensor) -> Applied:
        """S^T a for every row."""
        found = self._apply(cotangents * self.root, lambda x: torch.exp(-x - self.decay))
        return found._replace(vectors=found.vectors / self.root)

    def gather(self, cotangents: Tensor) -> Applied:
        """-d<a, theta_end> / dg for a gradient g that is added in every step: rate K P^1/2 phi(A) P^1/2 a.

        phi(x) = (1 - e^-x) / x, the mean of the flow over the piece.
        """
        found = self._apply(cotangents * self.root, lambda x: _mean_of_flow(x + self.decay))
        return found._replace(vectors=found.vectors * self.root * self.reach)

    def _apply(self, vectors: Tensor, function: Callable[[Tensor], Tensor]) -> Applied:
        found = apply_flow(self.product, vectors, function, tolerance=TOLERANCE)
        if not found.error <= SETTLED:
            raise ConvergenceError(
                f"the flow between two checkpoints may still be off by {found.error:.1e} of itself after "
                f"{found.iterations} Lanczos iterations: learning rate x curvature is too large there. Keep more "
                "checkpoints, or ask for curvature='none'"
            )
        return found


def _mean_of_flow(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1e-8, 1 - x / 2, -torch.expm1(-x) / x)


def check_segment_curvature(kind: str) -> None:
    """Raise RequestError for a curvature that no segment can hold."""
    if kind not in get_args(SegmentCurvature):
        known = ", ".join(get_args(SegmentCurvature))
        raise RequestError(f"curvature={kind!r}; where only checkpoints are known, expected one of {known}")


def pieces(run: CheckpointRun, index: int) -> list[tuple[int, int]]:
    """The steps [low, high) between neighbouring checkpoints of a stage."""
    return list(pairwise([run.stages[index].start, *run.header.stages[index].checkpoints]))


def flow_between(
    run: CheckpointRun, problem: Problem, index: int, piece: tuple[int, int], curvature: SegmentCurvature
) -> Flow:
    """The flow over a piece of a stage. Cost of a product: one of the curvature over its examples, per state."""
    entry, states = run.header.stages[index], [state_at(run, problem, k) for k in piece]
    rate, coupled, decoupled = pace(entry)
    root = _preconditioner(run, problem, index, states).sqrt()
    curved = _curvature(problem, states, stage_batches(run, problem, entry.name), curvature)
    reach = rate * (piece[1] - piece[0])

    def product(vectors: Tensor) -> Tensor:
        inside = vectors * root
        return reach * root * (curved(inside) + coupled * inside)

    return Flow(product, root, decoupled * (piece[1] - piece[0]), reach)


def pace(entry: SegmentEntry) -> tuple[float, float, float]:
    """(rate at which a lasting gradient moves the parameters, coupled weight decay, lr x decoupled weight decay)."""
    hyper = entry.hyper
    lr, decay = hyper["lr"], hyper["weight_decay"]
    if entry.optimizer == "SGD":
        return lr * (1 - hyper["dampening"]) / (1 - hyper["momentum"]), decay, 0.0
    return (lr, 0.0, lr * decay) if entry.optimizer == "AdamW" else (lr, decay, 0.0)


def momentum_carried(run: CheckpointRun, problem: Problem, index: int, before: Snapshot, after: Snapshot) -> Tensor:
    """What the momentum that the stage before left behind will still do in stage `index`, [1, n]; zero where not known.

    theta - c P m moves by the gradient alone, so a change of the momentum m counts as -c P of it: c = lr mu / (1 - mu)
    (with Nesterov lr mu^2 / (1 - mu)), lr beta1 / (1 - beta1) for Adam.
    """
    entry, (slot, mu) = run.header.stages[index], momentum(run.header.stages[index])
    if not entry.resumes or not momentum_known(run, index):
        return torch.zeros_like(flat(after.state.params))
    weight = entry.hyper["lr"] * mu ** (1 + entry.hyper.get("nesterov", 0.0)) / (1 - mu)
    states = [state_at(run, problem, k) for k in pieces(run, index)[0]]
    change = flat(after.state.slots[slot])
    if run.header.stages[index - 1].resumes:
        change = change - flat(before.state.slots[slot])
    return -weight * _preconditioner(run, problem, index, states) * change


def momentum_known(run: CheckpointRun, index: int) -> bool:
    """Whether it is known what the stage before `index` did to the momentum; an optimizer begins with none."""
    slot, before = momentum(run.header.stages[index])[0], run.stages[index - 1]
    kept = {s.step: s.slots for s in run.header.states}
    return slot in kept[before.stop] and (not run.header.stages[index - 1].resumes or slot in kept[before.start])


def momentum(entry: SegmentEntry) -> tuple[str, float]:
    """(the slot that holds it, its coefficient)."""
    sgd = entry.optimizer == "SGD"
    return ("momentum_buffer", entry.hyper["momentum"]) if sgd else ("exp_avg", entry.hyper["beta1"])


def state_at(run: CheckpointRun, problem: Problem, step: int) -> Snapshot:
    return to_device(run.load(step), problem.device)


def stage_batches(run: CheckpointRun, problem: Problem, stage: str, most: int = EXAMPLES) -> list[Weighted]:
    """The stage's examples, `most` at most, in chunks on the device; the weights are their shares."""
    count = len(run.stage_examples(stage).digests)
    rows = torch.linspace(0, count - 1, min(count, most)).round().long()
    return [(_on_device(run.stage_batch(stage, part), problem), len(part) / len(rows)) for part in rows.split(CHUNK)]


def check_mean_loss(problem: Problem, at: Snapshot, batch: Batch) -> None:
    """Raise ProblemError unless the loss is a mean over examples: how many made a batch is not known otherwise."""
    twice = Batch(map_inputs(lambda t: torch.cat([t, t]), batch.inputs), torch.cat([batch.targets, batch.targets]))
    with torch.no_grad():
        once, double = (
            float(problem.batch_loss(at.state.params, at.buffers, b, training=False)[0]) for b in (batch, twice)
        )
    if abs(double - once) > SAME_LOSS * abs(once):
        raise ProblemError(
            f"the loss of a batch is {once:.6g}, with every example twice {double:.6g}; a run of checkpoints needs a "
            "loss that is a mean over examples. Divide it by their number, and the weight decay and lr accordingly"
        )


def flat(*params: Params) -> Tensor:
    """Parameters side by side, one row each, [R, n]."""
    return torch.stack([torch.cat([t.reshape(-1) for t in p.values()]) for p in params])


def unflat(vectors: Tensor, like: Params) -> list[Tensor]:
    """[R, n] -> [R, ...] per parameter."""
    parts = vectors.split([t.numel() for t in like.values()], 1)
    return [part.reshape(-1, *t.shape).to(t.dtype) for part, t in zip(parts, like.values(), strict=True)]


def _on_device(batch: Batch, problem: Problem) -> Batch:
    return Batch(map_inputs(lambda t: t.to(problem.device), batch.inputs), batch.targets.to(problem.device))


def as_step(batches: Sequence[Weighted]) -> StepInput:
    """One full-batch step in evaluation mode: no dropout, buffers as stored."""
    return StepInput(0, (), tuple(batches), training=False)


def _curvature(
    problem: Problem, states: Sequence[Snapshot], batches: Sequence[Weighted], curvature: SegmentCurvature
) -> Callable[[Tensor], Tensor]:
    """The mean over states of the curvature of the mean loss; its graphs are kept where they fit into memory."""
    like = states[0].state.params
    if curvature == "none":
        return torch.zeros_like
    makers = [partial(_product, problem, at, batch, curvature) for at in states for batch in batches]
    few = _graph_bytes(makers[0]) * len(makers) <= spare_memory(problem.device)
    kept = [make() for make in makers] if few else None

    def product(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for curved in kept or (make() for make in makers):
            total += torch.cat([p.flatten(1) for p in curved(unflat(vectors, like))], 1).to(total) / len(states)
        return total

    return product


def _product(problem: Problem, at: Snapshot, batch: Weighted, curvature: SegmentCurvature) -> Product:
    return gradient_and_curvature(problem, at, as_step([batch]), curvature)[2]


def _graph_bytes(make: Callable[[], object]) -> int:
    """What a product holds on to, measured on one that is let go."""
    held: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        make()
    return sum(held.values())


def _preconditioner(run: CheckpointRun, problem: Problem, index: int, states: Sequence[Snapshot]) -> Tensor:
    """P = 1 / (sqrt(v^) + eps) of Adam at the mean of the known second moments, [n]; else one, [1]."""
    entry, first = run.header.stages[index], run.stages[index].start
    if entry.optimizer == "SGD":
        return torch.ones(1, dtype=flat(states[0].state.params).dtype, device=problem.device)
    own = [at for at in states if at.step > first or entry.resumes]
    known = [
        flat(at.state.slots["exp_avg_sq"])[0] / (1 - entry.hyper["beta2"] ** float(at.state.count))
        for at in own
        if "exp_avg_sq" in at.state.slots and float(at.state.count) > 0
    ]
    known = known or [_estimated_second_moment(run, problem, index, at.step) for at in own]
    return 1 / (torch.stack(known).mean(0).sqrt() + entry.hyper["eps"])


def _estimated_second_moment(run: CheckpointRun, problem: Problem, index: int, step: int) -> Tensor:
    """v^ before `step`, had each piece since the optimizer began one mean square of its gradients, [n].

    A piece [low, high) weighs beta2^(step - high) - beta2^(step - low), as in Adam's own mean.
    """
    beta2 = run.header.stages[index].hyper["beta2"]
    total, weights = torch.zeros_like(flat(state_at(run, problem, 0).state.params)[0]), 0.0
    for i in range(index, -1, -1):
        for low, high in pieces(run, i):
            if high <= step:
                weight = beta2 ** (step - high) - beta2 ** (step - low)
                ends = [
                    _mean_square(run, problem, run.header.stages[i], state_at(run, problem, k)) for k in (low, high)
                ]
                total, weights = total + weight * (ends[0] + ends[1]) / 2, weights + weight
        if not run.header.stages[i].resumes:
            break
    return total / weights


def _mean_square(run: CheckpointRun, problem: Problem, entry: SegmentEntry, at: Snapshot) -> Tensor:
    """The mean square of the gradients of some batches, each spread over the stage's examples, [n]."""
    count, size = len(run.stage_examples(entry.name).digests), entry.batch_size or 1
    spread = torch.arange(min(size, count)) * max(count // size, 1)
    total = torch.zeros_like(flat(at.state.params)[0])
    for j in range(SAMPLED_BATCHES):
        batch = _on_device(run.stage_batch(entry.name, (spread + j) % count), problem)
        total += flat(gradient(problem, at, as_step([(batch, 1.0)]))[0])[0] ** 2 / SAMPLED_BATCHES
    return total
