"""Ways to propagate a change through training, tried on the zoo beside those of the engine. Each is one sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import aa_core as aa
from aa_core.curvature import Curvature, Product, gradient_and_curvature
from aa_core.effects.cache import EmbeddingCache
from aa_core.propagator import Propagator, Training
from aa_core.records import StepInput
from aa_core.state import (
    Params,
    Snapshot,
    State,
    add,
    as_rays,
    concat_rays,
    map_state,
    norm,
    ray,
    rays,
    stack_rays,
    subtract,
)

BEND = 1e-3
"""Of the finite difference in the second-order term."""


class Moment(NamedTuple):
    """A step about to be taken, and the tangents of the stages that are over, [R] rays."""

    training: Training
    at: Snapshot
    data: StepInput
    tangent: State
    ages: tuple[int, ...]
    """Steps since the stage ended, per ray, falling."""
    sizes: Tensor
    """[R]: norm of the change that the stage itself made."""


Push = Callable[[Moment], State]
Embedded = dict[str, Params]


def embed(run: aa.Trajectory, training: Training, states: list[Snapshot], push: Push) -> Embedded:
    """The boundary method: what each stage changed, pushed through every later step."""
    changes = {s.name: (s.stop, subtract(states[s.stop].state, states[s.start].state)) for s in run.stages}
    return _pushed(run, training, states, push, changes)


def _pushed(
    run: aa.Trajectory,
    training: Training,
    states: list[Snapshot],
    push: Push,
    changes: Mapping[str, tuple[int, State]],
) -> Embedded:
    """{stage: (step, change before it)}, in the order of training -> {stage: change of the final parameters}."""
    names, starts, sizes = list[str](), list[int](), list[Tensor]()
    tangent: State | None = None
    for k in range(run.steps + 1):
        for name, (step, change) in changes.items():
            if step == k:
                new = as_rays(change)
                tangent = new if tangent is None else concat_rays(tangent, new)
                names, starts, sizes = [*names, name], [*starts, k], [*sizes, norm(new)]
        if tangent is not None and k < run.steps:
            data, ages = run.step_input(k, training.problem.device), tuple(k - start for start in starts)
            tangent = push(Moment(training, states[k], data, tangent, ages, torch.cat(sizes)))
    assert tangent is not None
    return {name: ray(tangent, i).params for i, name in enumerate(names)}


# ---- one step --------------------------------------------------------------------------------------------------------


def curved(m: Moment, *, kind: Curvature) -> State:
    """The engine's own."""
    return m.training.linearize(m.at, m.data, kind)[1] @ m.tangent


def mixed(m: Moment, *, exact: float) -> State:
    """exact x Hessian + (1 - exact) x Gauss-Newton."""
    grads, _, hessian = gradient_and_curvature(m.training.problem, m.at, m.data, "exact")
    gauss_newton = gradient_and_curvature(m.training.problem, m.at, m.data, "ggn")[2]

    def product(vectors: list[Tensor]) -> list[Tensor]:
        pairs = zip(hessian(vectors), gauss_newton(vectors), strict=True)
        return [exact * h + (1 - exact) * g for h, g in pairs]

    return _propagator(m, grads, product) @ m.tangent


def damped(m: Moment, *, by: float) -> State:
    """Hessian + by x identity."""
    grads, _, hessian = gradient_and_curvature(m.training.problem, m.at, m.data, "exact")
    return (
        _propagator(m, grads, lambda vectors: [h + by * v for h, v in zip(hessian(vectors), vectors, strict=True)])
        @ m.tangent
    )


def trust_region(m: Moment) -> State:
    """Per ray, whichever of exact and Gauss-Newton curvature makes the tangent smaller."""
    a, b = curved(m, kind="exact"), curved(m, kind="ggn")
    return _where(norm(a) <= norm(b), a, b)


def capped(m: Moment) -> State:
    """Exact, but no ray may grow beyond the change that its stage made."""
    pushed = curved(m, kind="exact")
    shrink = (m.sizes / norm(pushed)).clamp(max=1.0)
    return map_state(lambda t: t * _column(shrink, t).to(t), pushed)


def switched(m: Moment, *, after: int, first: Curvature, then: Curvature) -> State:
    """One curvature for the first steps after the stage, another from there on."""
    old = sum(age >= after for age in m.ages)
    parts = [(map_state(lambda t: t[:old], m.tangent), then), (map_state(lambda t: t[old:], m.tangent), first)]
    return concat_rays(*(curved(m._replace(tangent=part), kind=kind) for part, kind in parts if rays(part)))


def own_midpoint(m: Moment) -> State:
    """The midpoint method with a graph for every ray: half way between recorded and predicted, for each by itself."""
    single = [as_rays(ray(m.tangent, i)) for i in range(rays(m.tangent))]
    return concat_rays(*(curved(m._replace(at=_midway(m.at, t), tangent=t), kind="exact") for t in single))


def uncapped_midpoint(m: Moment) -> State:
    """The midpoint method, the path following the tangents however far they have grown."""
    return curved(m._replace(at=_midway(m.at, m.tangent)), kind="exact")


def capped_path(m: Moment) -> Moment:
    """Where the midpoint method linearises."""
    shrink = (m.sizes / norm(m.tangent).clamp_min(1e-300)).clamp(max=1.0)
    return m._replace(at=_midway(m.at, map_state(lambda t: t * _column(shrink, t).to(t), m.tangent)))


def _midway(at: Snapshot, tangent: State) -> Snapshot:
    params = {n: p - tangent.params[n].mean(0) / 2 for n, p in at.state.params.items()}
    return at._replace(state=at.state._replace(params=params))


def _propagator(m: Moment, grads: Params, product: Product) -> Propagator:
    update = m.training.stretch(m.at.step).linearized(m.at.state, grads, m.data)
    return Propagator(update, product, m.training.crossing(m.at.step))


def _where(chosen: Tensor, a: State, b: State) -> State:
    return map_state(lambda x, y: torch.where(_column(chosen, x), x, y), a, b)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


# ---- other sweeps ----------------------------------------------------------------------------------------------------


def relinearised(run: aa.Trajectory, training: Training, states: list[Snapshot], *, after: int) -> Embedded:
    """The change is propagated from where `after` steps were really trained without the stage."""
    changes = {}
    for stage in run.stages:
        at = states[stage.start]._replace(step=stage.stop)
        while at.step < min(stage.stop + after, run.steps):
            at = training.step(at, run.step_input(at.step, training.problem.device))
        changes[stage.name] = (at.step, subtract(states[at.step].state, at.state))
    return _pushed(run, training, states, partial(curved, kind="exact"), changes)


def second_order(run: aa.Trajectory, training: Training, states: list[Snapshot]) -> Embedded:
    """E - F / 2 with F = d2 theta_K / dT2 propagated as F' = M F + Phi''[d, d], Phi'' by finite differences."""
    found = {}
    for stage in run.stages:
        change = subtract(states[stage.stop].state, states[stage.start].state)
        second = map_state(torch.zeros_like, change)
        for k in range(stage.stop, run.steps):
            data = run.step_input(k, training.problem.device)
            ahead, behind = (
                training.step(states[k]._replace(state=_moved(states[k].state, change, h)), data).state
                for h in (BEND, -BEND)
            )
            bend = map_state(lambda a, b, at: (a + b - 2 * at) / BEND**2, ahead, behind, states[k + 1].state)
            pushed = training.linearize(states[k], data, "exact")[1] @ stack_rays([change, second])
            change, second = ray(pushed, 0), add(ray(pushed, 1), bend)
        found[stage.name] = {n: p - second.params[n] / 2 for n, p in change.params.items()}
    return found


def _moved(at: State, along: State, by: float) -> State:
    return map_state(lambda a, d: a + by * d, at, along)


Sweep = Callable[[aa.Trajectory, Training, list[Snapshot]], Embedded]


def _each_step(push: Push) -> Sweep:
    return lambda run, training, states: embed(run, training, states, push)


def _engine(**request: str) -> Sweep:
    """What the engine itself does."""

    def sweep(run: aa.Trajectory, training: Training, states: list[Snapshot]) -> Embedded:
        found = aa.embed_stages(run, training.problem, cache=EmbeddingCache(None), **request)
        return {e.stage: e.params for e in found}

    return sweep


KEPT: dict[str, Sweep] = {
    "exact": _engine(curvature="exact"),
    "ggn": _engine(curvature="ggn"),
    "midpoint": _engine(method="midpoint"),
}
DROPPED: dict[str, Sweep] = {
    "3/4 exact + 1/4 ggn": _each_step(partial(mixed, exact=0.75)),
    "1/2 exact + 1/2 ggn": _each_step(partial(mixed, exact=0.5)),
    "1/4 exact + 3/4 ggn": _each_step(partial(mixed, exact=0.25)),
    "exact for 20 steps, then ggn": _each_step(partial(switched, after=20, first="exact", then="ggn")),
    "ggn for 20 steps, then exact": _each_step(partial(switched, after=20, first="ggn", then="exact")),
    "trust region: the smaller of exact and ggn": _each_step(trust_region),
    "exact, growth capped at 1": _each_step(capped),
    "exact, damped by 0.01": _each_step(partial(damped, by=0.01)),
    "midpoint of each stage's own": _each_step(own_midpoint),
    "midpoint, its path not capped": _each_step(uncapped_midpoint),
    "trust region at the midpoint": _each_step(lambda m: trust_region(capped_path(m))),
    "relinearised after 5 real steps": partial(relinearised, after=5),
    "relinearised after 20 real steps": partial(relinearised, after=20),
    "relinearised after 80 real steps": partial(relinearised, after=80),
    "second order": second_order,
}
