"""Many counterfactual trainings in one go: in two threads, or those that take the same recorded step together."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from aa_core.counterfactuals.abreast import Lane, Pair, pair_of, train_abreast
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.intervention import intervene
from aa_core.counterfactuals.retrain import TrainedModel
from aa_core.errors import NonFiniteError
from aa_core.memory import spare_memory
from aa_core.problem import Problem, twice_differentiable_kernels
from aa_core.propagator import Training
from aa_core.records import Batch, RunLike, StepInput
from aa_core.replay import Progress, at_steps, prepare, silent, verify_once
from aa_core.state import Buffers, Params, Snapshot, is_finite, max_difference, nbytes, ray, stack_rays
from aa_core.threads import share, spare

TRIES, SOME = 2, 3
"""How many steps are timed each way before one is chosen; and how many at once in threads, which must be started."""
WORTH = 100
"""How many more steps of as many lanes must be left for a trial to be begun: it costs two or three of them."""
HEAVY, LONG = 1.5e-3, 400
"""Seconds of a step from which two threads hardly hold each other up and a batched pass saves little, some three times
what a tiny model's takes; and how many shorter ones are worth a trial of both."""
COPIES = 4
"""States that a training in flight is taken to hold at once: its own, its gradient, the next one, activations."""


def retrain_all(
    run: RunLike,
    problem: Problem,
    counterfactuals: Sequence[Counterfactual],
    progress: Progress = silent,
    memory: int | None = None,
) -> list[TrainedModel]:
    """`retrain` of each of them, equal to rounding, in the fastest way.

    Each starts where it first differs from the recording: up to there one replay serves all. Where torch leaves a
    processor free, two threads train them by turns, if that is faster. Else all that take a step as recorded share its
    batch and take it in one batched pass, where a trial on the run's own steps finds that faster than one by one, and
    enough steps are left for a trial to pay; models that cannot be batched (or draw differently when they are) are
    trained one by one.

    Args:
        memory: budget for the states of trainings in flight, bytes; what does not fit waits for the next pass. None = a
            quarter of what is free, at least 1 GiB.

    Raises:
        as `retrain`; NonFiniteError names the first training that diverged.
    """
    interventions, training = [intervene(run, what) for what in counterfactuals], prepare(run, problem)
    verify_once(run, training, progress)
    first = [min(intervention.steps) for intervention in interventions]
    order = sorted(range(len(first)), key=first.__getitem__)
    memory = spare_memory(problem.device) if memory is None else memory
    width = max(memory // (COPIES * max(nbytes(run.load(0)), 1)), 1)
    total, done, ends = sum(run.steps - start for start in first), 0, dict[int, Snapshot]()
    for wave in (order[i : i + width] for i in range(0, len(order), width)):
        starts = {at.step: at for at in at_steps(run, training, (first[i] for i in wave))}
        lanes = [Lane(starts[first[i]], interventions[i]) for i in wave]
        ends |= zip(wave, train_lanes(run, training, lanes, _after(progress, done, total)), strict=True)
        done += sum(run.steps - first[i] for i in wave)
    for i, what in enumerate(counterfactuals):
        if not is_finite(ends[i].state):
            raise NonFiniteError(f"training with {what.name!r} diverged: its parameters are not finite at the end")
    return [TrainedModel(problem, ends[i].state.judged, ends[i].buffers, run.steps - k) for i, k in enumerate(first)]


def train_lanes(run: RunLike, training: Training, lanes: Sequence[Lane], progress: Progress = silent) -> list[Snapshot]:
    """Each lane trained to the end, in the order given. Progress counts steps of lanes."""
    pair = _threads_pay(run, training, lanes)
    return train_abreast(run, pair, lanes, progress) if pair else _train_in_step(run, training, lanes, progress)


def _threads_pay(run: RunLike, training: Training, lanes: Sequence[Lane]) -> Pair | None:
    """What two threads need if they are the fastest way: tried on the first step, unless its length tells already."""
    at, device = min((lane.at for lane in lanes), key=lambda at: at.step), training.problem.device
    if len(lanes) < 2 or not spare(device) or at.step == run.steps or training.crossing(at.step):
        return None
    data = run.step_input(at.step, device)
    one = _seconds(lambda: training.step(at, data))
    if one < HEAVY and sum(run.steps - lane.at.step for lane in lanes) < LONG:
        return None
    pair = pair_of(run, training, at.step)
    if pair is not None and one < HEAVY:

        def some(own: Training) -> None:
            for _ in range(SOME):
                own.step(at, data)

        threads = _seconds(lambda: share(some, pair, device)) / (SOME * len(pair))
        if threads > one or threads > _seconds_batched(training, at, data, len(lanes)):
            return None
    return pair


def _seconds_batched(training: Training, at: Snapshot, data: StepInput, lanes: int) -> float:
    """Of one step of a lane, taken by so many together; infinity where a model cannot be batched."""
    try:
        stacked = stack(training.stretch(at.step).problem, [at] * lanes)
        return _seconds(lambda: step_together(training, stacked, data)) / lanes
    except (RuntimeError, ValueError):  # as in `_compare`
        return math.inf


def _seconds(task: Callable[[], object]) -> float:
    """The least of `TRIES` by the clock."""
    found = []
    for _ in range(TRIES):
        began = time.perf_counter()
        task()
        found.append(time.perf_counter() - began)
    return min(found)


def _train_in_step(run: RunLike, training: Training, lanes: Sequence[Lane], progress: Progress) -> list[Snapshot]:
    """The same, step by step: those that take the same recorded step take it together if that is faster."""
    fleet, trial = _Fleet([lane.at for lane in lanes]), _Trial()
    total, done = sum(run.steps - lane.at.step for lane in lanes), 0
    for k in range(min(lane.at.step for lane in lanes), run.steps):
        afloat = [i for i, lane in enumerate(lanes) if lane.at.step <= k]
        changed = {i: change for i in afloat if (change := lanes[i].at_step(k)) is not None}
        for i, change in changed.items():
            fleet[i] = change.step(training, fleet[i])
        together = tuple(i for i in afloat if i not in changed)
        if together:
            trial.left = total - done
            _advance(training, fleet, together, run.step_input(k, training.problem.device), trial)
        done += len(afloat)
        progress(done, total)
    return [fleet[i] for i in range(len(lanes))]


class Stack(NamedTuple):
    """Snapshots before one step, side by side."""

    at: Snapshot
    """Every leaf and buffer with a leading dimension of rays."""
    shared: Buffers
    """Frozen parameters that are the same in all: one copy, no rays."""


def stack(problem: Problem, snapshots: Sequence[Snapshot]) -> Stack:
    """What the model may change gets rays; a frozen parameter only where it differs."""
    first, changing = snapshots[0], {n for n, _ in problem.model.named_buffers()}
    shared = {
        n: b
        for n, b in first.buffers.items()
        if n not in changing and all(torch.equal(b, s.buffers[n]) for s in snapshots[1:])
    }
    own = {n: torch.stack([s.buffers[n] for s in snapshots]) for n in first.buffers if n not in shared}
    return Stack(Snapshot(first.step, stack_rays(s.state for s in snapshots), own), shared)


def unstack(stacked: Stack) -> list[Snapshot]:
    """The inverse, as views."""
    at = stacked.at
    return [
        Snapshot(at.step, ray(at.state, i), {**{n: b[i] for n, b in at.buffers.items()}, **stacked.shared})
        for i in range(len(at.state.count))
    ]


def step_together(training: Training, stacked: Stack, step: StepInput) -> Stack:
    """Phi_k of every ray, in one batched forward and backward pass.

    No ray's loss depends on another ray. Random numbers are drawn once, for all.
    """
    at, stretch = stacked.at, training.stretch(step.step)
    problem, wanted = stretch.problem, [n for n in stretch.phase.trained if n not in step.idle]
    params = {n: p.detach().requires_grad_(n in wanted) for n, p in at.state.params.items()}
    buffers, total = at.buffers, None
    with twice_differentiable_kernels():  # fused attention cannot be batched

        def passed(params: Params, own: Buffers) -> Buffers:
            after = problem.passed(params, {**own, **stacked.shared}, step)
            return {n: after[n] for n in own}

        if step.passed:
            buffers = vmap(passed, randomness="same")(params, buffers)
        for batch, weight in step.batches:

            def loss(params: Params, own: Buffers, batch: Batch = batch) -> tuple[Tensor, Buffers]:
                value, after = problem.batch_loss(params, {**own, **stacked.shared}, batch, training=step.training)
                return value, {n: after[n] for n in own}

            losses, buffers = vmap(loss, randomness="same")(params, buffers)
            seed = torch.full_like(losses, weight)
            parts = torch.autograd.grad(losses, [params[n] for n in wanted], seed, materialize_grads=True)
            total = parts if total is None else tuple(a + b for a, b in zip(total, parts, strict=True))
    with torch.no_grad():
        grads = dict(zip(wanted, total or (), strict=True))
        state = vmap(lambda state, grads: stretch.update(state, grads, step, vmapped=True))(at.state, grads)
    return Stack(Snapshot(at.step + 1, state, {n: b.detach() for n, b in buffers.items()}), stacked.shared)


class _Fleet:
    """The lanes on their way: those that stepped together last are stacked, the others apart."""

    def __init__(self, starts: Sequence[Snapshot]) -> None:
        self._apart = list(starts)
        self._together: tuple[int, ...] = ()
        self._stacked: Stack | None = None

    def __getitem__(self, lane: int) -> Snapshot:
        if lane in self._together:
            self._part()
        return self._apart[lane]

    def __setitem__(self, lane: int, at: Snapshot) -> None:
        self._apart[lane] = at

    def stacked(self, problem: Problem, lanes: tuple[int, ...]) -> Stack:
        if self._stacked is None or lanes != self._together:
            self._part()
            self._together, self._stacked = lanes, stack(problem, [self._apart[i] for i in lanes])
        return self._stacked

    def put(self, stacked: Stack) -> None:
        """The next state of the lanes that were stacked last."""
        self._stacked = stacked

    def _part(self) -> None:
        if self._stacked is not None:
            for lane, at in zip(self._together, unstack(self._stacked), strict=True):
                self._apart[lane] = at
        self._together, self._stacked = (), None


Way = Literal["loop", "batch", "both"]


@dataclass
class _Trial:
    """Which way is faster, and from how many lanes on. More lanes make batching pay more, so a win is final.

    A trial is one step in both ways, which must agree and warms both up, and then steps in one way or the other: these
    had to be taken anyway. Where so few are left that it could hardly pay, there is none.
    """

    left: int = sys.maxsize
    """Steps of lanes still to be taken."""
    batch_from: int | None = None
    loop_up_to: int = 1
    seconds: dict[Way, list[float]] = field(default_factory=dict)
    """Of a lane, by way, in the trial that is going on; empty until both ways agreed."""

    def way(self, lanes: int) -> Way:
        if self.batch_from is not None and lanes >= self.batch_from:
            return "batch"
        if lanes < 2 * self.loop_up_to:
            return "loop"
        if self.seconds:
            return min(self.seconds, key=lambda way: len(self.seconds[way]))
        return "both" if self.left >= WORTH * lanes else "loop"

    def agree(self) -> None:
        """Both ways gave the same: time them."""
        self.seconds = {"batch": [], "loop": []}

    def note(self, lanes: int, way: Way, seconds: float) -> None:
        """A step in one way took so long; decides once both have been timed."""
        if way not in self.seconds or lanes < 2 * self.loop_up_to:
            return
        self.seconds[way].append(seconds / lanes)
        if min(map(len, self.seconds.values())) == TRIES:
            if min(self.seconds["batch"]) < min(self.seconds["loop"]):
                self.batch_from = lanes
            else:
                self.loop_up_to = lanes
            self.seconds = {}

    def fail(self) -> None:
        """Batching is impossible, or not the same training."""
        self.batch_from, self.loop_up_to, self.seconds = None, sys.maxsize, {}


def _advance(training: Training, fleet: _Fleet, lanes: tuple[int, ...], step: StepInput, trial: _Trial) -> None:
    """The recorded step for these lanes, in the way that is faster."""
    stretch = training.stretch(step.step)
    way = "loop" if training.crossing(step.step) else trial.way(len(lanes))
    if way == "batch":
        stacked = fleet.stacked(stretch.problem, lanes)
        began = time.perf_counter()
        fleet.put(step_together(training, stacked, step))
    else:
        before = [fleet[i] for i in lanes]
        began = time.perf_counter()
        after = [training.step(at, step) for at in before]
        for lane, at in zip(lanes, after, strict=True):
            fleet[lane] = at
        if way == "both":
            _compare(training, before, after, step, trial)
    trial.note(len(lanes), way, time.perf_counter() - began)


def _compare(training: Training, before: list[Snapshot], after: list[Snapshot], step: StepInput, trial: _Trial) -> None:
    """The step that was just taken one by one, once more in a batch."""
    try:
        stepped = step_together(training, stack(training.stretch(step.step).problem, before), step)
    except (RuntimeError, ValueError):  # vmap's words for what it cannot take: data-dependent control flow, buffers ...
        return trial.fail()
    return trial.agree() if all(map(_same, before, after, unstack(stepped))) else trial.fail()


def _same(before: Snapshot, after: Snapshot, other: Snapshot) -> bool:
    """Whether two results of a step differ by no more than rounding; False for NaN."""
    params = after.state.params
    double = all(p.dtype == torch.float64 for p in params.values())
    share, epsilon = (1e-8, 2.3e-16) if double else (1e-3, 1.2e-7)
    size = max(float(p.abs().max()) for p in params.values() if p.numel())
    allowed = share * max_difference(params, before.state.params) + 32 * epsilon * size
    return max_difference(params, other.state.params) <= allowed


def _after(progress: Progress, done: int, total: int) -> Progress:
    """Progress of one wave as part of all."""
    return lambda now, _: progress(done + now, total)
