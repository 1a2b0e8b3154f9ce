"""Backward sweep: pull the gradient of a performance back through training. All steps in one sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aa_core.curvature import Curvature, pull_back
from aa_core.performance import Performance
from aa_core.propagator import Propagator, Training
from aa_core.records import RunLike
from aa_core.replay import MEMORY, Progress, Transition, reverse, silent, snapshot_before
from aa_core.state import AVERAGE, Snapshot, State, map_state


class AdjointStep(NamedTuple):
    """One recorded step with the states around it and the cotangent after it."""

    transition: Transition
    cotangent: State
    """a_{k+1} = (M_{K-1} .. M_{k+1})^T a_K, [values] rays."""


def final_cotangent(training: Training, performance: Performance, final: Snapshot) -> State:
    """a_K = (d gamma / d theta, 0), one ray per value of the performance."""
    performance.check_differentiable()
    judged = {n: p.detach().requires_grad_() for n, p in final.state.judged.items()}
    values = performance(training.problem, judged, final.buffers)
    seeds = torch.eye(len(values), dtype=values.dtype, device=values.device)
    slope = dict(zip(judged, pull_back([values], list(judged.values()), [seeds]), strict=True))
    zeros = map_state(lambda t: t.new_zeros(()).expand(len(values), *t.shape), final.state)
    if AVERAGE in zeros.slots:
        averaged = {n: slope.pop(n) for n in zeros.slots[AVERAGE]}
        zeros = zeros._replace(slots={**zeros.slots, AVERAGE: averaged})
    return zeros._replace(params={**zeros.params, **slope})


def adjoint_sweep(
    run: RunLike,
    training: Training,
    cotangent: State,
    curvature: Curvature,
    *,
    start: int = 0,
    memory: int = MEMORY,
) -> Iterator[AdjointStep]:
    """Steps K-1, ..., start with their cotangents. One curvature product a ray and step; states in `memory` bytes."""
    for transition in reverse(run, training, start, run.steps, memory, curvature):
        yield AdjointStep(transition, cotangent)
        if transition.step > start:
            propagator = transition.propagator or _linearize(run, training, transition, curvature)
            cotangent = propagator.T @ cotangent


def _linearize(run: RunLike, training: Training, transition: Transition, curvature: Curvature) -> Propagator:
    data = run.step_input(transition.step, training.problem.device)
    return training.linearize(transition.before, data, curvature)[1]


def performance_sweep(
    run: RunLike,
    training: Training,
    performance: Performance,
    curvature: Curvature,
    *,
    start: int = 0,
    memory: int = MEMORY,
    progress: Progress = silent,
) -> Iterator[AdjointStep]:
    """`adjoint_sweep` from the gradient of a performance of the trained model."""
    cotangent = final_cotangent(training, performance, snapshot_before(run, training, run.steps))
    sweep = adjoint_sweep(run, training, cotangent, curvature, start=start, memory=memory)
    for done, at in enumerate(sweep, 1):
        yield at
        progress(done, run.steps - start)


def growth_of(norms: Sequence[Tensor]) -> float:
    """max over k and rays of ||a_k|| / ||a_K||, from the norms [values] that a sweep met, a_K first."""
    return float((torch.stack(list(norms)).amax(0) / norms[0].clamp_min(1e-300)).max())
