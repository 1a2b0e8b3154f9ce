"""Backward sweep: pull the gradient of a performance back through training. All steps in one sweep."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from aa_core.curvature import Curvature, pull_back
from aa_core.memory import spare_memory
from aa_core.performance import Performance
from aa_core.propagator import Propagator, Training
from aa_core.records import RunLike
from aa_core.replay import Progress, Transition, beginning_of_last, reverse, silent, snapshot_before
from aa_core.running_statistics import moving, pull_from_gradient, pull_statistics, slope_in_statistics
from aa_core.state import AVERAGE, Buffers, Params, Snapshot, State, leaves, map_state, rays

AT_WORK, A_RAY, LEAST = 16, 4, 8
"""In states: what a sweep takes beside those that it keeps (two checkpoints, the step at hand), and for each ray, both
measured on the MLP of benchmarks/memory_cost.py; and how many it keeps however small the budget: with fewer, time would
grow out of bounds."""
HELD = 7 / 6
"""What the allocator holds on to, of what is kept; measured there, too."""
FADED = 1e-5
"""Of what running statistics were worth at the end of training: less is nothing, and costs no more passes."""


class AdjointStep(NamedTuple):
    """One recorded step with the states around it and the cotangent after it."""

    transition: Transition
    cotangent: State
    """a_{k+1} = (M_{K-1} .. M_{k+1})^T a_K, [values] rays."""
    statistics: Buffers
    """The same of running statistics after the step, [values, ...] by name; {} where there are none (any more)."""

    def of_statistics(self, since: Snapshot | None = None) -> dict[str, Tensor]:
        """What the step, or all that happened `since`, did through each running statistic, [values] by name."""
        before, after = (since or self.transition.before).buffers, self.transition.after.buffers
        return {
            n: worth.reshape(len(worth), -1).double() @ (after[n] - before[n]).reshape(-1).double()
            for n, worth in self.statistics.items()
        }


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
    statistics: Buffers,
    curvature: Curvature,
    *,
    start: int = 0,
    memory: int | None = None,
    aside: Executor | None = None,
) -> Generator[AdjointStep]:
    """Steps K-1, ..., start with their cotangents, in `memory` bytes (None = `spare_memory`).

    One curvature product a ray and step; one forward and backward pass a step more while running statistics are worth
    anything. `aside` replays steps to come meanwhile; whoever takes the steps, and whatever else it does, then leaves
    model, run and random numbers alone.
    """
    memory = _for_states(spare_memory(training.problem.device) if memory is None else memory, cotangent)
    begin, floors = beginning_of_last(run), {n: FADED * float(worth.norm()) for n, worth in statistics.items()}
    ahead = None if statistics else aside
    with closing(reverse(run, training, start, run.steps, memory, curvature, aside=ahead)) as transitions:
        for transition in transitions:
            yield AdjointStep(transition._replace(propagator=None), cotangent, statistics)
            if transition.step <= start:
                return
            propagator = transition.propagator or _linearize(run, training, transition, curvature)
            before = propagator.T @ cotangent
            if statistics:
                asked = (run, training, transition.before, propagator, cotangent, statistics, curvature)
                statistics, through = _pull_statistics(*asked)
                params = {n: a + through[n] if n in through else a for n, a in before.params.items()}
                before = before._replace(params=params)
                if all(float(worth.norm()) <= floors[n] for n, worth in statistics.items()):
                    statistics = {n: torch.zeros_like(worth) for n, worth in statistics.items()}
                statistics = {} if transition.step == begin else statistics
            cotangent = before


def _for_states(memory: int, cotangent: State) -> int:
    """What a budget leaves for the states that are kept, bytes."""
    count = rays(cotangent)
    state = sum(t.numel() * t.element_size() for t in leaves(cotangent)) // count
    return max(int(memory / HELD) - (AT_WORK + A_RAY * count) * state, LEAST * state)


def _pull_statistics(
    run: RunLike,
    training: Training,
    before: Snapshot,
    propagator: Propagator,
    cotangent: State,
    statistics: Buffers,
    curvature: Curvature,
) -> tuple[Buffers, Params]:
    """(what they are worth before a step, what that adds to the parameters), from both cotangents after it."""
    data = run.step_input(before.step, training.problem.device)
    if not data.training:
        if curvature == "none":
            return statistics, {}
        worth = propagator.pull_to_gradient(cotangent)
        return pull_from_gradient(training.problem, before, data, worth, statistics), {}
    if not any(worth.any() for worth in statistics.values()):
        return statistics, {}
    return pull_statistics(training.problem, before, data, statistics)


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
    memory: int | None = None,
    aside: Executor | None = None,
    progress: Progress = silent,
) -> Generator[AdjointStep]:
    """`adjoint_sweep` from the gradient of a performance of the trained model, in its running statistics, too."""
    final = snapshot_before(run, training, run.steps)
    cotangent = final_cotangent(training, performance, final)
    followed, judged = moving(run, training).followed, (training.problem, performance, final.state.judged)
    statistics = slope_in_statistics(*judged, final.buffers, followed) if followed else {}
    asked = (run, training, cotangent, statistics, curvature)
    with closing(adjoint_sweep(*asked, start=start, memory=memory, aside=aside)) as sweep:
        for done, at in enumerate(sweep, 1):
            yield at
            progress(done, run.steps - start)


def growth_of(norms: Sequence[Tensor]) -> float:
    """max over k and rays of ||a_k|| / ||a_K||, from the norms [values] that a sweep met, a_K first."""
    return float((torch.stack(list(norms)).amax(0) / norms[0].clamp_min(1e-300)).max())
