"""How far off a first-order stage effect can be at most: a bound of the theorem's form, its constants estimated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from aa_core.checkpoints_only.lanczos import extremes
from aa_core.confidence.reliability import Remainder
from aa_core.curvature import Product, gradient, gradient_and_curvature
from aa_core.effects.attribution import Attribution
from aa_core.errors import RequestError, UnsupportedError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.propagator import Propagator, Training
from aa_core.records import Hyper, RunLike, StepInput
from aa_core.replay import Progress, advance, prepare, silent, snapshot_before
from aa_core.stages import select
from aa_core.state import Params, Snapshot, State, as_rays, zeros_like

PRODUCTS = 12
"""Curvature products for the ends of one spectrum."""


def remainders(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    stages: Sequence[str] | None = None,
    samples: int = 4,
    progress: Progress = silent,
) -> tuple[Remainder, ...]:
    """A bound on the error of each stage's boundary effect on the mean performance, read linearly (freeze).

    With e_k what skipping the stage changed before step k, and d_k its first-order estimate, training by gradient
    descent gives ||e|| <= D exp(Lambda eta) and e - d grows by at most rho / 2 ||e||^2 a unit of learning rate, so

        |effect - estimate| <= D^2 / 2 exp(2 Lambda eta) (G rho eta + Lambda_gamma)

    with D the displacement, eta the learning rate that follows the stage, summed, Lambda and rho the curvature of the
    loss and how fast it bends, G and Lambda_gamma slope and curvature of the performance. Lambda and rho are taken in
    the metric of the optimizer (what a step makes of a gradient, momentum summed up), as the largest met at `samples`
    steps: the bound holds as far as they do. It is no estimate of the error, and mostly far above it.

    Cost: a plain replay from the first of the stages, about 15 curvature products a sample, one gradient a sample and
    stage, about 12 products with the performance's own curvature.

    Raises:
        UnsupportedError: an optimizer does not step coordinate by coordinate or is blind to the gradient, or parameters
            were added or replaced between stages.
    """
    training, mean = prepare(run, problem), performance.mean()
    _check_bounded(run, training)
    wanted = tuple(s for s in select(run.stages, stages) if len(s))
    if not wanted:
        raise RequestError("none of the stages has a step, so there is nothing to bound")
    blocks = [block for s in wanted for block in s.blocks]
    first = min(start for start, _ in blocks)
    chosen, found = _sampled(min(stop for _, stop in blocks), run.steps, samples), list[_Sample]()
    walk = _Walk({k: s.name for s in wanted for k in s.steps}, {edge for block in blocks for edge in block})
    at = snapshot_before(run, training, first, progress)
    walk.enter(at)
    for after in advance(run, training, at, run.steps):
        if at.step in chosen:
            found.append(_measure(training, at, run.step_input(at.step, problem.device), walk.over))
        walk.move(at, after, _largest_lr(training, at.step, run.record(at.step).hyper))
        at = after
        progress(at.step - first, run.steps - first)
    slope, curvature = _of_performance(training, mean, at)
    return tuple(
        Remainder(
            stage=name,
            displacement=walk.path[name],
            net=walk.net[name],
            lr_after=walk.lr_after[name],
            largest=max((s.largest for s in found), default=0.0),
            unstable=max((s.unstable for s in found), default=0.0),
            bend=max((s.bend[name] for s in found if name in s.bend), default=0.0),
            slope=slope,
            curvature=curvature,
            samples=len(found),
        )
        for name in (s.name for s in wanted)
    )


def _check_bounded(run: RunLike, training: Training) -> None:
    unfit = [rule.name for rule in training.rules if not rule.elementwise or rule.blind]
    if unfit:
        raise UnsupportedError(f"{unfit[0]} does not step along the gradient coordinate by coordinate; no bound")
    kinds = {tuple((n, p.shape) for n, p in run.load(phase.start).state.params.items()) for phase in run.phases}
    if len(kinds) > 1:
        raise UnsupportedError("parameters were added or replaced between stages, so no distance spans them; no bound")


def with_remainders(
    found: Attribution, run: RunLike, problem: Problem, performance: Performance, progress: Progress = silent
) -> Attribution:
    """The same stage effects with their `remainders` in the reliability."""
    stages = found.units["stage"].tolist()
    known = remainders(run, problem, performance, stages=stages, progress=progress)
    return replace(found, reliability=replace(found.reliability, remainders=known))


class _Sample(NamedTuple):
    """What was measured at one step, a unit of effective learning rate."""

    largest: float
    unstable: float
    bend: dict[str, float]
    """For every stage that was over."""


@dataclass
class _Walk:
    """What a replay adds up on its way."""

    owner: dict[int, str]
    """The stage of each of its steps."""
    edges: set[int]
    """Where their blocks start and stop."""
    path: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    net: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lr_after: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    over: dict[str, Params] = field(default_factory=dict)
    """What each stage that is over changed."""
    start: Params = field(default_factory=dict)
    """The parameters where the current block began."""

    def enter(self, at: Snapshot) -> None:
        """Remember where a block begins."""
        if at.step in self.edges:
            self.start = at.state.params

    def move(self, at: Snapshot, after: Snapshot, lr: float) -> None:
        """Count a step: how far it went, and its learning rate for every stage that is over."""
        for name in self.over:
            self.lr_after[name] += lr
        if at.step in self.owner:
            name = self.owner[at.step]
            self.path[name] += float(_flat(_less(after.state.params, at.state.params)).norm())
            if after.step in self.edges:
                self.over[name] = _less(after.state.params, self.start)
                self.net[name] += float(_flat(self.over[name]).norm())
        self.enter(after)


def _measure(training: Training, at: Snapshot, data: StepInput, over: Mapping[str, Params]) -> _Sample:
    """Curvature at a step, and how it bends towards every stage that is over."""
    stretch = training.stretch(at.step)
    grads, _, product = gradient_and_curvature(stretch.problem, at, data, "exact")
    metric = _metric(Propagator(stretch.linearized(at.state, grads, data._replace(clip=None)), product), at.state)
    root = metric.sqrt()
    reach = max(map(_reach, data.hyper)) / max(_largest_lr(training, at.step, data.hyper), 1e-300)
    low, high = extremes(lambda v: root * _times(product, root * v, at.state.params), _random(root), PRODUCTS)
    bend = {}
    for name, moved in over.items():
        there = at._replace(state=at.state._replace(params=_less(at.state.params, moved)))
        e, grads_there = _flat(moved), gradient(stretch.problem, there, data)[0]
        rest = metric * (_flat(_less(grads, grads_there)) - _times(product, e, at.state.params))
        bend[name] = reach * 2 * float(rest.norm() / e.norm().square().clamp_min(1e-300))
    return _Sample(reach * max(-low, high), reach * max(-low, high - 2, 0.0), bend)


def _sampled(start: int, stop: int, samples: int) -> set[int]:
    """Steps spread evenly over [start, stop)."""
    return {start + (2 * i + 1) * (stop - start) // (2 * samples) for i in range(samples)} if stop > start else set()


def _largest_lr(training: Training, step: int, hyper: Sequence[Hyper]) -> float:
    """The effective learning rate of a step, the largest of its parameter groups."""
    return max(map(training.stretch(step).rule.effective_lr, hyper))


def _reach(hyper: Hyper) -> float:
    """How much more than in its own step a gradient moves the parameters in the end, carried on by the momentum."""
    return 1 / max(1 - hyper.get("beta1", hyper.get("momentum", 0.0)), 1e-12)


def _metric(propagator: Propagator, state: State) -> Tensor:
    """|d theta' / d g|, coordinate by coordinate, [n]."""
    ones = as_rays(zeros_like(state)._replace(params={n: torch.ones_like(p) for n, p in state.params.items()}))
    pulled = propagator.pull_to_gradient(ones)
    return _flat({n: pulled[n][0] for n in state.params}).abs()


def _of_performance(training: Training, mean: Performance, final: Snapshot) -> tuple[float, float]:
    """(norm of the gradient, largest |eigenvalue| of the Hessian) of the performance at the trained parameters."""
    mean.check_differentiable()
    params = {n: p.detach().requires_grad_() for n, p in final.state.params.items()}
    value = mean(training.problem, params, final.buffers)[0]
    grads = torch.autograd.grad(value, list(params.values()), create_graph=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in grads])

    def product(vector: Tensor) -> Tensor:
        if not flat.requires_grad:
            return torch.zeros_like(vector)
        found = torch.autograd.grad(flat, list(params.values()), vector, retain_graph=True, materialize_grads=True)
        return torch.cat([f.reshape(-1) for f in found])

    low, high = extremes(product, _random(flat), PRODUCTS)
    return float(flat.detach().norm()), max(abs(low), abs(high))


def _times(product: Product, vector: Tensor, like: Params) -> Tensor:
    """H v for a vector of all parameters side by side."""
    parts = vector.split([p.numel() for p in like.values()])
    curved = product([part.reshape(1, *p.shape) for part, p in zip(parts, like.values(), strict=True)])
    return torch.cat([c.reshape(-1) for c in curved])


def _flat(params: Params) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in params.values()])


def _less(a: Params, b: Params) -> Params:
    return {n: t - b[n] for n, t in a.items()}


def _random(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(like), generator=generator, dtype=torch.float64).to(like)


__all__ = ["Remainder", "remainders", "with_remainders"]
