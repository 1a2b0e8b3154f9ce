"""Going on with a recording that stopped: all that trains, as it was after the last step that was acknowledged."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aa_core.curvature import gradient
from aa_core.errors import RecordingError, ReplayDriftError, UnsupportedError
from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.recording.averaging import Averaging
from aa_core.recording.gradient_check import COARSE, TOLERANCE
from aa_core.recording.live import Live, observe, stored_count
from aa_core.records import Hyper, StepRecord
from aa_core.replay import advance, snapshot_before
from aa_core.rules.clipping import clip
from aa_core.runs.evaluation import Evaluation, encode_evaluation
from aa_core.runs.examples import DatasetReference, ExampleLog
from aa_core.runs.header import Environment, Header, PhaseEntry, listed
from aa_core.runs.journal import Generators
from aa_core.runs.succession import phase_entry
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.runs.verified import sha256
from aa_core.state import AVERAGE, Params, Snapshot

_OF_RUN = ("title", "problem", "evaluation")
_OF_PHASE = ("model_class", "parameters", "groups", "buffers", "optimizer", "loss")


class Loop(NamedTuple):
    """What a training loop gives the recorder to watch."""

    live: Live
    header: Header
    """As a recording would begin with it."""
    evaluation: Evaluation | None
    dataset: DatasetReference | None
    scaler: torch.amp.GradScaler | None
    averaging: Averaging | None


class Resumed(NamedTuple):
    """Where a recording stopped."""

    live: Live
    counts: dict[str, float]
    stage: str
    """Of the last step."""
    start: int
    """The first step of that stage's last block."""
    hyper: tuple[Hyper, ...]
    """Of the last step of this phase; empty if it has none."""
    announced: bool
    """Whether the next step begins a phase that the log announces already."""
    updates: int
    """How many steps the optimizer has taken."""
    evaluated: bool
    """Whether the evaluation set is written."""
    unfinished: Snapshot | None
    """The state before the stop of a commit that was underway, if it is not a checkpoint already."""


def resume(path: Path, loop: Loop, examples: ExampleLog) -> Resumed | None:
    """Load the state after the last acknowledged step into the loop's own model, optimizer, averages and scaler.

    It is the last checkpoint and the recorded steps after it, replayed: the recording goes on to the bit where a replay
    is exact to the bit. None if nothing was committed yet. Costs one plain step for each step since the checkpoint.

    Raises:
        RecordingError: the loop is not the one that was recorded; all differences are listed.
        ReplayDriftError: the model does not replay what it did.
        UnsupportedError: the optimizer's state cannot be written.
    """
    dataset = loop.dataset
    run = open_run(path, {} if dataset is None else {dataset.name: dataset.dataset})
    live = _observed(loop.live, run.chain.phases[-1][1])
    if problems := _differences(run, loop, live):
        raise RecordingError(f"{path}: this is not the training that was recorded; " + listed(problems))
    if not run.checkpoints:
        return None
    at, phase = _reached(run, live), run.phases[-1]
    counts = {n: float(at.state.count[i]) for i, names in enumerate(phase.clocks) for n in names}
    _load(live, at, counts)
    if loop.averaging is not None:
        _load_average(loop.averaging, live, at.state.slots[AVERAGE], run)
    if loop.scaler is not None:
        recorded = map(run.record, range(run.steps))
        loop.scaler.load_state_dict(scaler_state(recorded, loop.scaler.state_dict()))
    if run.steps:
        examples.remember(run.stored_examples)
    last = run.record(run.steps - 1) if run.steps else None
    return Resumed(
        live,
        counts,
        last.stage if last else "",
        max((start for stage in run.stages for start, _ in stage.blocks), default=0),
        last.hyper if last and run.steps > phase.start else (),
        announced=run.steps == phase.start and len(run.phases) > 1,
        updates=sum(bool(run.record(k).micro_batches) for k in range(run.steps)),
        evaluated=bool(run.files("evaluation")),
        unfinished=_unfinished(run, live),
    )


def read_generators(device: torch.device) -> Generators:
    """The states of torch's generators that a step on this device may draw from."""
    return (torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []))


def set_generators(states: Generators, device: torch.device) -> None:
    """Draw what comes next as from these states on; RecordingError if none were noted."""
    if not states:
        raise RecordingError(
            "the states of the random number generators after the last step are not there (a copy without its journal, "
            "or a recording of an earlier version), so it would not go on as it was; record another run"
        )
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def scaler_state(steps: Iterable[StepRecord], at_start: Mapping[str, Any]) -> dict[str, Any]:
    """The state_dict() of a GradScaler after these steps.

    It grows the scale after `growth_interval` steps in a row; a scale that is not the one expected comes of a skip.
    """
    expected, row = at_start["scale"], at_start["_growth_tracker"]
    for step in steps:
        scale = step.precision.scale
        row = 0 if scale != expected else row
        expected = scale
        if step.micro_batches:
            row = (row + 1) % at_start["growth_interval"]
            expected = scale if row else scale * at_start["growth_factor"]
    return {**at_start, "scale": expected, "_growth_tracker": row}


def _observed(live: Live, entry: PhaseEntry) -> Live:
    """The loop's model and optimizer, read as the last phase has them."""
    rested = {t.name for t in entry.parameters} - {n for names in entry.groups for n in names}
    return replace(observe(live.model, live.optimizer, live.loss_fn, rested), problem=entry.problem)


def _differences(run: Trajectory, loop: Loop, live: Live) -> list[str]:
    """How the loop differs from what was recorded, in words."""
    here, entry = phase_entry(live, {}, True), run.chain.phases[-1][1]
    averages = (AVERAGE,) if loop.averaging is not None else ()
    pairs: dict[str, tuple[Any, Any]] = {n: (getattr(loop.header, n), getattr(run.header, n)) for n in _OF_RUN}
    pairs |= {n: (getattr(here, n), getattr(entry, n)) for n in _OF_PHASE}
    pairs |= {"slots": ((*here.slots, *averages), entry.slots)}
    pairs |= {
        f"environment.{n}": (getattr(loop.header.environment, n), getattr(run.environment, n))
        for n in Environment.model_fields
    }
    if run.steps:
        pairs |= {"dataset": (loop.dataset.name if loop.dataset else None, run.stored_examples.dataset)}
    if recorded := {file.sha256 for file in run.files("evaluation")}:
        given = () if loop.evaluation is None else encode_evaluation(loop.evaluation)
        pairs |= {"evaluation set": ({sha256(data) for data in given}, recorded)}
    return [f"{n}: {_short(a, b)}, recorded is {_short(b, a)}" for n, (a, b) in pairs.items() if a != b]


def _short(value: Any, other: Any) -> str:
    """A value, or what the other one does not have of it."""
    if isinstance(value, tuple) and isinstance(other, tuple):
        value = [v for v in value if v not in other] or list(value)
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _unfinished(run: Trajectory, live: Live) -> Snapshot | None:
    underway = run.chain.journal.underway
    if underway is None or underway.stop in run.checkpoints:
        return None
    at, phase = snapshot_before(run, _training(run, live), underway.stop), run.phases[-1]
    updates = {n: float(at.state.count[i]) for i, names in enumerate(phase.clocks) for n in names}
    count = stored_count([updates[n] for n in phase.trained])
    return at._replace(state=at.state._replace(count=count))


def _training(run: Trajectory, live: Live) -> Training:
    """With what trains now, the last phase: it begins with a checkpoint, so nothing before it is needed."""
    problem = Problem(live.model, live.loss_fn, device=live.device)
    return Training(problem, [run.phases[-1]._replace(problem=0)], run.load)


def _reached(run: Trajectory, live: Live) -> Snapshot:
    """The state before the next step."""
    training = _training(run, live)
    updating = [k for k in range(run.checkpoints[-1], run.steps) if run.record(k).micro_batches]
    at = snapshot_before(run, training, max(updating, default=run.checkpoints[-1]))
    if updating:
        _check_gradient(run, training, at)
    return next(iter(deque(advance(run, training, at, run.steps), maxlen=1)), at)


def _check_gradient(run: Trajectory, training: Training, at: Snapshot) -> None:
    """ReplayDriftError unless the gradient of the last step, which no checkpoint follows, has the recorded norm."""
    last = run.step_input(at.step, training.problem.device)
    updated = [n for n in run.phases[-1].trained if n not in last.idle]
    grads = clip(gradient(training.problem, at, last, updated)[0], last.clip)
    found, recorded = float(torch.nn.utils.get_total_norm(list(grads.values()))), run.record(at.step).grad_norm
    tolerance = max(TOLERANCE.get(g.dtype, COARSE) for g in grads.values())
    if math.isfinite(recorded) and not abs(found - recorded) <= tolerance * recorded:
        raise ReplayDriftError(
            f"step {at.step}, replayed, has a gradient of norm {found:.8g}, recorded is {recorded:.8g}: the steps "
            "after the last checkpoint cannot be made again with this model and loss, so it cannot go on from them"
        )


@torch.no_grad()
def _load(live: Live, at: Snapshot, counts: Mapping[str, float]) -> None:
    """Into the very tensors that train; an optimizer has no state of what it never updated."""
    write = live.rule.write
    if write is None:
        raise UnsupportedError(
            f"a recording with {live.rule.name} cannot be resumed: how the state of the optimizer is written is not "
            "known; say it in its rule: UpdateRule(write=...)"
        )
    _copy(at.state.params | at.buffers, [*live.model.named_parameters(), *live.model.named_buffers()])
    for name, p in live.trained.items():
        if counts[name]:
            slots = {slot: torch.zeros_like(p).copy_(at.state.slots[slot][name]) for slot in live.rule.slots}
            live.optimizer.state[p] = write(slots, counts[name])


@torch.no_grad()
def _load_average(averaging: Averaging, live: Live, values: Params, run: Trajectory) -> None:
    _copy(values, averaging.read(live).items())
    averaging.model.n_averaged += int((~run.column("averaging").isnan()).sum()) if run.steps else 0


def _copy(values: Params, into: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in into:
        tensor.copy_(values[name])
