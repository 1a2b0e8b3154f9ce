"""Ground truth: training again without what is in question."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.intervention import intervene
from aa_core.counterfactuals.kept import NOT_KEPT, KeptState
from aa_core.errors import NonFiniteError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.records import RunLike
from aa_core.replay import Progress, prepare, silent, snapshot_before, verify_once
from aa_core.state import Buffers, Params, is_finite, to_device


@dataclass(frozen=True)
class TrainedModel:
    """A model at the end of (recorded or counterfactual) training."""

    problem: Problem
    params: Params
    buffers: Buffers
    steps_replayed: int

    def performance(self, gamma: Performance) -> Tensor:
        """[values] of gamma at these parameters."""
        with torch.no_grad():
            return gamma(self.problem, self.params, self.buffers)


def final_model(run: RunLike, problem: Problem) -> TrainedModel:
    """The model as recorded."""
    at = snapshot_before(run, prepare(run, problem), run.steps)
    return TrainedModel(problem, at.state.judged, at.buffers, 0)


def retrain(
    run: RunLike, problem: Problem, what: Counterfactual, progress: Progress = silent, kept: KeptState = NOT_KEPT
) -> TrainedModel:
    """Train again with `what` changed; every other step as recorded (same batches, hyperparameters, order).

    Changed hyperparameters are those of the changed steps alone: later steps keep their recorded ones.

    Training examples are left out by giving their losses weight zero with every denominator as recorded: the recorded
    loss without their parts of it. Batch statistics (BatchNorm) still see them.

    Starts at the last checkpoint before the first change, or where an earlier process left off that kept its state
    in `kept`: the end is the same, bit for bit. Costs one plain step per remaining step.

    Raises:
        UnknownStageError, EmptyStageError, RequestError: `what` does not fit the run.
        NonFiniteError: the counterfactual training diverged.
    """
    intervention, training = intervene(run, what), prepare(run, problem)
    start = min(intervention.steps)
    verify_once(run, training, progress)
    before = kept.read()
    at = to_device(before, problem.device) if before else snapshot_before(run, training, start, progress)
    while at.step < run.steps:
        at = intervention.step(training, at)
        kept.offer(at)
        progress(at.step - start, run.steps - start)
    if not is_finite(at.state):
        raise NonFiniteError(f"training with {what.name!r} diverged: its parameters are not finite at the end")
    return TrainedModel(problem, at.state.judged, at.buffers, run.steps - start)
