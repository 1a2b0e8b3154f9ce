"""Running statistics as they would have been: the last forward passes are made again with the parameters moved."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch

from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.records import RunLike, StepInput
from aa_core.replay import at_steps, beginning_of_last, snapshot_before
from aa_core.running_statistics import moving, push_statistics
from aa_core.state import Buffers, Params, Snapshot

LAST = 100
"""Steps in training mode whose forward passes are made again; of what was before them, torch's momentum keeps 3e-5."""


class Shift(NamedTuple):
    """A counterfactual, as far as running statistics are concerned."""

    first: int
    """The step before which all is as recorded."""
    absent: Collection[int]
    """Steps that do not occur."""
    params: Params
    """By how much the trained parameters at the end are moved: recorded minus counterfactual, first order."""


class StatisticsChange(NamedTuple):
    """Buffers at the end of training that passes move, recorded minus counterfactual; {} where there are none."""

    measured: Buffers
    """By forward passes made again with the parameters moved: what the displaced readout takes."""
    first_order: Buffers
    """By the derivative of batch normalisation's running statistics: what goes with <d gamma / d theta, E>. Others have
    none."""


UNCHANGED = StatisticsChange({}, {})


def statistics_changes(run: RunLike, training: Training, shifts: Sequence[Shift]) -> tuple[StatisticsChange, ...]:
    """How running statistics (batch normalisation's) at the end follow the parameters.

    In training mode outputs do not depend on them, so they follow from the parameters: the forward passes that occur
    after `first`, those of the last LAST steps, are made again at the recorded parameters of each step minus `params`.
    That is exact as far as `params` is, and has not changed since those steps; the derivative is taken of the same
    passes. Evaluation mode does not move them.

    Cost: a replay of those steps (beside the ones that are absent), a forward pass for each step and shift, and one
    with a double backward for each step.
    """
    final, moved = snapshot_before(run, training, run.steps), moving(run, training)
    names, begin = [*moved.followed, *moved.held], beginning_of_last(run)
    if not names:
        return tuple(UNCHANGED for _ in shifts)
    firsts = [max(shift.first, begin) for shift in shifts]
    windows = [
        [k for k in range(first, run.steps) if k not in shift.absent and run.record(k).training][-LAST:]
        for first, shift in zip(firsts, shifts, strict=True)
    ]
    starts = [w[0] if len(w) == LAST else first for w, first in zip(windows, firsts, strict=True)]
    measured = [{n: snapshot_before(run, training, start).buffers[n] for n in names} for start in starts]
    followed = [{n: own[n] for n in moved.followed} for own in measured]
    for at in at_steps(run, training, {k for window in windows for k in window}):
        step = run.step_input(at.step, training.problem.device)
        here = [i for i in range(len(shifts)) if at.step in windows[i]]
        moves = [{n: shifts[i].params.get(n, torch.zeros_like(p)) for n, p in at.state.params.items()} for i in here]
        for i, move in zip(here, moves, strict=True):
            measured[i] = _after(training.problem, at, step, move, measured[i])
        directions = {n: torch.stack([move[n] for move in moves]) for n in at.state.params}
        for made in push_statistics(training.problem, at, step, directions) if moved.followed else ():
            for i, change in zip(here, made.change, strict=True):
                kept = (1 - made.momentum) * followed[i][made.name]
                followed[i][made.name] = kept + made.momentum * (made.statistic - change)
    return tuple(
        StatisticsChange(*({n: final.buffers[n] - without for n, without in own.items()} for own in pair))
        for pair in zip(measured, followed, strict=True)
    )


def _after(problem: Problem, at: Snapshot, step: StepInput, moved: Params, statistics: Buffers) -> Buffers:
    """The statistics after the forward passes of a step, with moved parameters."""
    params = {n: p - moved[n] for n, p in at.state.params.items()}
    buffers = {n: statistics.get(n, b).clone() for n, b in at.buffers.items()}
    with torch.no_grad():
        for batch in (*step.passed, *(batch for batch, _ in step.batches)):
            problem.batch_outputs(params, buffers, batch, training=step.training)
    return {n: buffers[n] for n in statistics}
