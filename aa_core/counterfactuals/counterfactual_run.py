"""A counterfactual training as a run of its own, recorded like any other: to be opened, compared, audited in turn."""

from __future__ import annotations

import math
import os
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

import torch

from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.intervention import Intervention, intervene
from aa_core.curvature import gradient
from aa_core.errors import NonFiniteError, RequestError
from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.recording.machine import environment
from aa_core.recording.writer import RunWriter
from aa_core.records import Phase, StepInput, StepRecord
from aa_core.replay import Progress, prepare, silent, snapshot_before, verify_once
from aa_core.rules.clipping import clip
from aa_core.runs.examples import New
from aa_core.runs.header import Header
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.state import Snapshot, is_finite, to_device

EVERY = 100
"""Steps between two checkpoints, beside those where a stage begins."""
OF, WHICH = "counterfactual of", "counterfactual"
"""Where every stage's metadata say of which run (by digest) this is a counterfactual, and which."""


def record_counterfactual(
    run: Trajectory, problem: Problem, what: Counterfactual, path: str | Path, progress: Progress = silent
) -> Trajectory:
    """Retrain with `what` changed and write that training to `path` as a recorded run; it appears there when complete.

    Steps that are left out do not occur in it; changed hyperparameters are recorded as they were in force. Its end is
    `retrain(run, problem, what)` to the bit, and it replays like any recording. Costs one plain step and one forward
    pass per remaining step.

    Raises:
        RequestError: the counterfactual is no training that a recorder could have seen (scaled updates, ignored data,
            reweighted examples), or leaves no step.
        NonFiniteError: the training diverged.
    """
    intervention, training = check_recordable(run, what), prepare(run, problem)
    verify_once(run, training, progress)
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    writer = RunWriter(unfinished, _header(run, what, problem))
    try:
        _write(writer, run, intervention, training, progress)
    finally:
        writer.close()
    os.rename(unfinished, path)
    return open_run(path, run.datasets)


def check_recordable(run: Trajectory, what: Counterfactual) -> Intervention:
    """The counterfactual read against the run; RequestError if no recorder could have seen it."""
    if what.examples or (not what.changes and (what.scale or what.semantics != "freeze")):
        raise RequestError(
            f"{what.name!r} is no training that a recorder could have seen: stages or steps that are left out (freeze) "
            "and changed hyperparameters can be recorded as a run; retrain it to see what it does"
        )
    if len(run.phases) > 1:
        raise RequestError(
            f"the optimizer or the parameters of this run change at step {run.phases[1].start}; a counterfactual of it "
            "cannot be recorded as a run, only retrained"
        )
    intervention = intervene(run, what)
    if len(intervention.steps) == run.steps and not what.changes:
        raise RequestError(f"{what.name!r} leaves no step of the run, so there is nothing to record")
    return intervention


def _header(run: Trajectory, what: Counterfactual, problem: Problem) -> Header:
    title = f"{run.title or 'Untitled run'}: {what.name}"
    changes = {
        "title": title,
        "run_id": uuid.uuid5(uuid.NAMESPACE_URL, f"{run.digest} {what!r}").hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(problem.device),
    }
    return run.header.model_copy(update=changes)


def _write(writer: RunWriter, run: Trajectory, intervention: Intervention, training: Training, told: Progress) -> None:
    what, start = intervention.what, min(intervention.steps)
    for stage in run.stages:
        writer.declare(stage.name, stage.note, {**stage.metadata, OF: run.digest, WHICH: what.name})
    begun, evaluation, at = "", run.evaluation, snapshot_before(run, training, 0)
    for k in range(run.steps):
        record = run.record(k)
        known = k >= start or k in run.checkpoints
        if k <= start and known:
            at = snapshot_before(run, training, k, told)
        if k in intervention.steps and not what.changes:
            continue
        if known and (record.stage != begun or writer.steps - writer.checkpoints[-1] >= EVERY):
            writer.commit(_stored(at, writer.steps, run.phases[0]), evaluation)
            begun, evaluation = record.stage, None
        if k >= start:
            at, record = _take(run, training, at, record._replace(hyper=intervention.hyper.get(k, record.hyper)))
        writer.append(record._replace(step=writer.steps), () if writer.steps else (New.of(run.stored_examples),))
        told(k + 1, run.steps)
    if not is_finite(at.state):
        raise NonFiniteError(f"training with {what.name!r} diverged: it has no end that could be recorded")
    writer.commit(_stored(at, writer.steps, run.phases[0]), evaluation, sealed=True)


def _take(run: Trajectory, training: Training, at: Snapshot, record: StepRecord) -> tuple[Snapshot, StepRecord]:
    """The step, taken from here, and its record with the loss and the gradient's norm that it now has."""
    data = run.step_input(record.step, training.problem.device)._replace(hyper=record.hyper)
    stretch = training.stretch(record.step)
    updated = [n for n in stretch.phase.trained if n not in data.idle]
    grads, buffers = gradient(stretch.problem, at, data, updated)
    seen = torch.nn.utils.get_total_norm(list(clip(grads, data.clip).values()))
    loss = _loss(stretch.problem, at, data)
    with torch.no_grad():
        after = Snapshot(at.step + 1, stretch.update(at.state, grads, data), buffers)
    return after, record._replace(loss=loss, grad_norm=float(seen))


def _loss(problem: Problem, at: Snapshot, data: StepInput) -> float:
    """The weighted sum over the micro-batches; NaN where there are none."""
    if not data.batches:
        return math.nan
    total, buffers = 0.0, problem.passed(at.state.params, at.buffers, data)
    with torch.no_grad():
        for batch, weight in data.batches:
            loss, buffers = problem.batch_loss(at.state.params, buffers, batch, training=data.training)
            total += weight * float(loss)
    return total


def _stored(at: Snapshot, step: int, phase: Phase) -> Snapshot:
    """The snapshot as a run keeps it: on the CPU, under its own step, one count of updates a trained parameter."""
    count = {n: at.state.count[i] for i, names in enumerate(phase.clocks) for n in names}
    state = at.state._replace(count=torch.stack([count[n] for n in phase.trained]))
    return to_device(at._replace(step=step, state=state), torch.device("cpu"))
