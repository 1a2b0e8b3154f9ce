"""Running statistics as they would have been: the last forward passes are made again with the parameters moved."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch

from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import at_steps, beginning_of_last, moving_buffers, snapshot_before
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


def statistics_changes(run: RunLike, training: Training, shifts: Sequence[Shift]) -> tuple[Buffers, ...]:
    """Running statistics (batch normalisation's) at the end, recorded minus counterfactual; {} where there are none.

    In training mode outputs do not depend on them, so they follow from the parameters: the forward passes that occur
    after `first`, those of the last LAST steps, are made again at the recorded parameters of each step minus `params`.
    That is exact as far as `params` is, and has not changed since those steps. Evaluation mode does not move them.

    Cost: a replay of those steps (beside the ones that are absent), and a forward pass for each step and shift.
    """
    final = snapshot_before(run, training, run.steps)
    names, begin = moving_buffers(run, training, final), beginning_of_last(run)
    if not names:
        return tuple({} for _ in shifts)
    firsts = [max(shift.first, begin) for shift in shifts]
    windows = [
        [k for k in range(first, run.steps) if k not in shift.absent and run.record(k).training][-LAST:]
        for first, shift in zip(firsts, shifts, strict=True)
    ]
    starts = [w[0] if len(w) == LAST else first for w, first in zip(windows, firsts, strict=True)]
    carried = [{n: snapshot_before(run, training, start).buffers[n] for n in names} for start in starts]
    for at in at_steps(run, training, {k for window in windows for k in window}):
        for i, shift in enumerate(shifts):
            if at.step in windows[i]:
                carried[i] = _after(run, training, at, shift.params, carried[i])
    return tuple({n: final.buffers[n] - without[n] for n in names} for without in carried)


def _after(run: RunLike, training: Training, at: Snapshot, moved: Params, statistics: Buffers) -> Buffers:
    """The statistics after the forward passes of a step, with moved parameters."""
    step, problem = run.step_input(at.step, training.problem.device), training.stretch(at.step).problem
    params = {n: p - moved[n] if n in moved else p for n, p in at.state.params.items()}
    buffers = {n: statistics.get(n, b).clone() for n, b in at.buffers.items()}
    with torch.no_grad():
        for batch in (*step.passed, *(batch for batch, _ in step.batches)):
            problem.batch_outputs(params, buffers, batch, training=step.training)
    return {n: buffers[n] for n in statistics}
