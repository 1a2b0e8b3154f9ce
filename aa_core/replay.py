"""Streams of recorded states: forward, backward in bounded memory, and their drift from the recording."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from itertools import pairwise
from os import PathLike
from typing import NamedTuple

import torch

from aa_core.curvature import Curvature
from aa_core.errors import NonFiniteError, ReplayDriftError, RequestError
from aa_core.problem import Problem
from aa_core.progress import Progress, silent
from aa_core.propagator import Propagator, Training
from aa_core.records import RunLike
from aa_core.schedule import split
from aa_core.state import AVERAGE, Params, Snapshot, all_finite, max_difference, nbytes, to_device
from aa_core.threads import one_by_one

SLOTS = 10
"""How much further off than parameters the optimizer's state may be: it follows single gradients."""


class Drift(NamedTuple):
    """How far a replayed state is from the recorded checkpoint at `step`."""

    step: int
    absolute: float
    """Largest absolute difference over all parameters, or over all buffers: whichever is further off."""
    relative: float
    """The same, relative to the largest change of one of them since the checkpoint before."""
    allowed: float
    """The largest `relative` that can be rounding: other threads or another device, not another model."""

    @property
    def within_tolerance(self) -> bool:
        return self.relative <= self.allowed


class Transition(NamedTuple):
    """One recorded step with the states around it."""

    step: int
    before: Snapshot
    after: Snapshot
    propagator: Propagator | None = None
    """M_k, where the memory allowed keeping its graph."""


def prepare(run: RunLike, problem: Problem) -> Training:
    """Check that problem and run belong together, and that the run can be differentiated at all."""
    if isinstance(run, str | PathLike):
        raise RequestError(f"{str(run)!r} is a path; expected an open run: aa.open_run({str(run)!r})")
    if not isinstance(problem, Problem):
        raise RequestError(f"found a {type(problem).__name__}; expected aa.Problem(model, loss_fn)")
    training = Training(problem, run.phases, run.load)
    if run.first_nonfinite is not None:
        raise _not_finite(run.first_nonfinite, "loss or gradient")
    return training


def load(run: RunLike, training: Training, step: int) -> Snapshot:
    """The stored snapshot before `step`, on the problem's device; NonFiniteError unless all that trains is finite."""
    at = to_device(run.load(step), training.problem.device)
    for leaves in (at.state.params, *at.state.slots.values()):
        for name, tensor in leaves.items():
            if not all_finite(tensor):
                raise _not_finite(step, f"the recorded state of {name!r}")
    return at


def _not_finite(step: int, where: str) -> NonFiniteError:
    return NonFiniteError(
        f"the run is not finite from step {step} on (NaN or infinity in {where}): "
        "it can be viewed, but nothing can be attributed across that step"
    )


def advance(run: RunLike, training: Training, at: Snapshot, stop: int) -> Iterator[Snapshot]:
    """Snapshots after each step from `at` to `stop`, as computed (no recorded checkpoint is consulted)."""
    while at.step < stop:
        at = training.step(at, run.step_input(at.step, training.problem.device))
        yield at


def snapshot_before(run: RunLike, training: Training, step: int, progress: Progress = silent) -> Snapshot:
    """xi_step: the last checkpoint at or before it, replayed up to it. Progress stays at 0, but may cancel."""
    if not 0 <= step <= run.steps:
        raise RequestError(f"step {step} is outside the run's 0..{run.steps}")
    at = load(run, training, max(c for c in run.checkpoints if c <= step))
    return _last(at, _watched(advance(run, training, at, step), progress))


def at_steps(run: RunLike, training: Training, steps: Iterable[int]) -> Iterator[Snapshot]:
    """xi_k for each of these steps, ascending, in one replay that skips what a checkpoint spares."""
    at: Snapshot | None = None
    for k in sorted(set(steps)):
        stored = max(c for c in run.checkpoints if c <= k)
        start = at if at is not None and at.step >= stored else load(run, training, stored)
        at = _last(start, advance(run, training, start, k))
        yield at


def segments(run: RunLike, start: int, stop: int) -> list[tuple[int, int]]:
    """[start, stop) cut at the run's checkpoints."""
    cuts = [start, *(c for c in run.checkpoints if start < c < stop), stop]
    return list(pairwise(cuts)) if stop > start else []


def reverse(
    run: RunLike,
    training: Training,
    start: int,
    stop: int,
    memory: int,
    curvature: Curvature | None = None,
    *,
    aside: Executor | None = None,
) -> Generator[Transition]:
    """Transitions stop-1, ..., start, from states recomputed in at most `memory` bytes.

    With a curvature they come with their propagators where the graphs of a whole segment fit as well: then replay and
    linearization are one forward and one backward pass together instead of two. Where those of two segments fit,
    `aside` replays the next one meanwhile, step by step; whoever takes the transitions, and whatever else it does, then
    leaves model, run and random numbers alone. Where all states between two checkpoints fit, every step is replayed
    once; else little more often than it must be. Raises ReplayDriftError where the replay does not meet the next
    recorded checkpoint.
    """
    graph, each, waiting, parts = None, 0, None, segments(run, start, stop)
    while parts:
        low, high = parts.pop()
        if waiting is None:
            first = snapshot_before(run, training, low)
            if curvature is not None and graph is None and (k := _first_update(run, low, high)) is not None:
                graph = training.graph_bytes(first, run.step_input(k, training.problem.device), curvature)
            each = nbytes(first) + (graph or 0)
            if curvature is None or graph is None or (high - low) * each > memory:
                yield from _reverse(run, training, first, high, max(memory // max(nbytes(first), 1), 1))
                continue
            transitions = list(_linearized(run, training, first, high, curvature))
            del first
        else:
            transitions = waiting.result()
        waiting = None
        if aside is not None and curvature is not None and parts and (high - parts[-1][0]) * each <= memory:
            waiting = one_by_one(aside, _linearized(run, training, parts[-1][0], low, curvature))
        yield from _prepared(transitions, aside)


def _prepared(transitions: list[Transition], aside: Executor | None) -> Iterator[Transition]:
    """The last one first, each taken off the list; `aside` prepares the propagator of the next one meanwhile."""
    begun = None
    while transitions:
        transition = transitions.pop()
        if begun is not None and not begun.cancel():
            begun.result()
        if aside is not None and transitions and (coming := transitions[-1].propagator) is not None:
            begun = aside.submit(coming.prepare)
        yield transition


def _first_update(run: RunLike, start: int, stop: int) -> int | None:
    """The first of these steps that updates a parameter; in others only buffers move."""
    return next((k for k in range(start, stop) if run.record(k).micro_batches), None)


def _linearized(
    run: RunLike, training: Training, first: Snapshot | int, stop: int, curvature: Curvature
) -> Iterator[Transition]:
    """Every step with its propagator, from one replay."""
    at = first if isinstance(first, Snapshot) else snapshot_before(run, training, first)
    while at.step < stop:
        before = at
        take, propagator = training.linearize(before, run.step_input(before.step, training.problem.device), curvature)
        at = take()
        yield Transition(before.step, before, at, propagator)
    _met(run, training, at)


def _met(run: RunLike, training: Training, reached: Snapshot) -> None:
    """Verify a state that was replayed up to a checkpoint."""
    if reached.step in run.checkpoints:
        verify(run, training, reached)


def _reverse(run: RunLike, training: Training, first: Snapshot, stop: int, slots: int) -> Iterator[Transition]:
    """Keep `first` and at most `slots` more states: split until a piece fits, then walk it backwards."""
    kept = [first]
    del first
    while kept:
        base = kept.pop()
        free = max(slots - len(kept), 1)
        if stop - base.step > free:
            kept.append(base)
            kept.append(_last(base, advance(run, training, base, base.step + split(stop - base.step, free))))
            del base
            continue
        states = [base, *advance(run, training, base, stop)]
        _met(run, training, states[-1])
        stop = base.step
        del base
        while len(states) > 1:
            after = states.pop()
            yield Transition(states[-1].step, states[-1], after)


def moving_buffers(run: RunLike, training: Training, final: Snapshot) -> list[str]:
    """The last model's buffers that are numbers and did not stay as they were (running statistics), by name."""
    before = load(run, training, beginning_of_last(run))
    return [
        n
        for n, buffer in training.problem.model.named_buffers()
        if buffer.is_floating_point() and not torch.equal(before.buffers[n], final.buffers[n])
    ]


def beginning_of_last(run: RunLike) -> int:
    """The first step of the model that is judged."""
    return next(phase.start for phase in run.phases if phase.problem == run.phases[-1].problem)


def measure_drift(run: RunLike, training: Training, replayed: Snapshot) -> Drift:
    """Compare a replayed snapshot with the recorded checkpoint of the same step.

    By the parameters and buffers; by the optimizer's state where that was changed by more than replays explain.
    """
    recorded = load(run, training, replayed.step)
    earlier = load(run, training, max((c for c in run.checkpoints if c < replayed.step), default=0))
    before = training.skip(earlier, replayed.step)
    kinds: list[Callable[[Snapshot], Params]] = [_weights, _buffers]
    kinds += [partial(_slot, slot) for slot in recorded.state.slots if slot != AVERAGE]
    weights, buffers, *slots = (_compare(replayed.step, kind(replayed), kind(recorded), kind(before)) for kind in kinds)
    if weights.within_tolerance and not buffers.relative <= weights.relative:
        return buffers
    changed = [d for d in slots if d.relative > SLOTS * d.allowed]
    return changed[0] if changed and weights.within_tolerance else weights


def _compare(step: int, replayed: Params, recorded: Params, before: Params) -> Drift:
    size = max((float(t.abs().max()) for t in recorded.values() if t.numel()), default=0.0)
    absolute, change = max_difference(replayed, recorded), max_difference(recorded, before)
    double = all(p.dtype == torch.float64 for p in recorded.values())
    share, epsilon = (1e-8, 2.3e-16) if double else (1e-2, 1.2e-7)
    relative = absolute / change if change else math.inf if absolute else 0.0
    return Drift(step, absolute, relative, share + (32 * epsilon * size / change if change else 0.0))


def _weights(at: Snapshot) -> Params:
    """The parameters, and the averaged ones where there are any."""
    return {**at.state.params, **{f"{AVERAGE}.{n}": t for n, t in at.state.slots.get(AVERAGE, {}).items()}}


def _slot(name: str, at: Snapshot) -> Params:
    """One kind of what the optimizer keeps of each parameter."""
    return at.state.slots[name]


def _buffers(at: Snapshot) -> Params:
    """What forward passes leave in the model: running statistics and the like."""
    return {n: t for n, t in at.buffers.items() if t.is_floating_point()}


def verify(run: RunLike, training: Training, replayed: Snapshot) -> Drift:
    """Raise ReplayDriftError unless a replayed snapshot meets its checkpoint within tolerance."""
    drift = measure_drift(run, training, replayed)
    if not drift.within_tolerance:
        raise ReplayDriftError(
            f"replaying up to step {drift.step} gives a state {drift.relative:.2e} away from the recorded "
            f"checkpoint (relative to the change since the checkpoint before), more than the {drift.allowed:.0e} "
            "allowed: model, loss, data or hyperparameters are not those of the recording, or something but "
            "the recorded steps changed it. Check the problem's architecture and loss. Where they are right, training "
            "amplified rounding: replay with the processor, threads and precision that recorded, or record in float64"
        )
    training.problem.verified.add(run.digest)
    training.problem.drifts[run.digest] = max(drift.relative, training.problem.drifts.get(run.digest, 0.0))
    return drift


def verify_once(run: RunLike, training: Training, progress: Progress = silent) -> None:
    """Replay the shortest segment, once per problem and run: a cached result must not hide a wrong model."""
    if run.digest in training.problem.verified:
        return
    pairs = list(pairwise(run.checkpoints))
    if pairs:
        by_length = sorted(pairs, key=lambda segment: segment[1] - segment[0])
        low, high = next((p for p in by_length if _first_update(run, *p) is not None), by_length[0])
        first = load(run, training, low)
        verify(run, training, _last(first, _watched(advance(run, training, first, high), progress)))


def replay_drift(run: RunLike, problem: Problem, progress: Progress = silent) -> list[Drift]:
    """Replay every segment between checkpoints once and report how far each ends from the recording."""
    training, drifts = prepare(run, problem), []
    for low, high in pairwise(run.checkpoints):
        reached = load(run, training, low)
        for at in advance(run, training, reached, high):
            reached = at
            progress(at.step, run.steps)
        drifts.append(measure_drift(run, training, reached))
    return drifts


def _watched(snapshots: Iterator[Snapshot], progress: Progress) -> Iterator[Snapshot]:
    """Let the caller cancel while nothing that it asked for is done yet."""
    for snapshot in snapshots:
        progress(0, 1)
        yield snapshot


def _last(default: Snapshot, snapshots: Iterator[Snapshot]) -> Snapshot:
    """The last of a stream, holding one at a time."""
    return next(iter(deque(snapshots, maxlen=1)), default)
