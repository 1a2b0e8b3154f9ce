"""The recorder: watches a training loop through hooks and writes the run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from aa_core.errors import EmptyStageError, RecordingError, UnsupportedError
from aa_core.recording.announced import Announced, Pending
from aa_core.recording.averaging import AverageWatch, Averaging
from aa_core.recording.live import LossFunction, observe, read_counts, read_hyper, read_snapshot
from aa_core.recording.observer import announced_clip, check_hyper
from aa_core.recording.preamble import check_stage_name, json_object, preamble
from aa_core.recording.resume import Loop, Resumed, read_generators, resume, set_generators
from aa_core.recording.untouched import Untouched
from aa_core.recording.writer import IfExists, RunWriter
from aa_core.records import Hyper, Inputs, StepRecord
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.examples import DatasetReference, ExampleLog, check_ids, check_reference, to_batch, to_fields
from aa_core.runs.header import PhaseEntry
from aa_core.runs.remote import is_remote
from aa_core.runs.succession import Left, leave, succeed
from aa_core.state import Snapshot
from aa_core.threads import beside


class Recorder:
    """Records a training loop into a new run at `path`.

    Use as a context manager around the loop; announce every batch with `batch` before its forward pass, inside a
    `stage`. Examples are stored (each distinct one once), or only referenced if `dataset` is given. `clip_norm` or
    `clip_value` is the limit of the loop's own clip_grad_norm_ or clip_grad_value_ over all trained parameters.
    `scaler` is the loop's own GradScaler: steps that it skips are seen. torch.autocast around model and loss is seen.
    With `averaging` the model is judged by the averaged weights that the loop keeps (EMA).
    With `if_exists="resume"` a recording that stopped goes on where it did: entering loads what trains, and the loop
    goes on with step `recorder.steps`. Where nothing was recorded, it begins.

    Raises RecordingError in the loop, at the step that cannot be replayed as it was announced.
    """

    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: LossFunction,
        *,
        evaluation: Evaluation | None = None,
        title: str = "",
        problem: str | None = None,
        config: Mapping[str, Any] | None = None,
        checkpoint_every: int = 100,
        dataset: DatasetReference | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        averaging: Averaging | None = None,
        if_exists: IfExists = "refuse",
    ) -> None:
        if checkpoint_every < 1:
            raise RecordingError(f"checkpoint_every is {checkpoint_every}, expected at least 1 step")
        self.path = path if is_remote(path) else Path(path)
        self._live = observe(model, optimizer, loss_fn)
        self._evaluation, self._dataset, self._every = evaluation, dataset, checkpoint_every
        self._header = preamble(self._live, title, problem, config or {}, evaluation is not None, averaging is not None)
        self._examples = ExampleLog(dataset.name if dataset else None)
        self._thread = beside()
        """Hashes and journals examples, and computes losses, while the model runs."""
        self._announced = Announced(loss_fn, self._live.device, scaler, self._thread)
        self._clip = self._clip_of_all = announced_clip(clip_norm, clip_value)
        self._scaler = scaler
        self._averaging, self._if_exists = averaging, if_exists
        self._average = None if averaging is None else AverageWatch(averaging)
        self._writer: RunWriter | None = None
        self._hooks: list[Any] = []
        self._stage: str | None = None
        self._stage_start = 0
        self._in_flight: StepRecord | None = None
        self._half_done = False
        """Whether a batch was announced since the last step: then buffers may have moved on from its state."""
        self._measured: tuple[Tensor | None, Tensor] = (None, torch.zeros(()))
        """Loss, if it was seen, and gradient norm of the step in flight."""
        self._counts: dict[str, float] = {}
        """How often the optimizer has updated each parameter."""
        self._now = (model, optimizer, loss_fn)
        """What trains from the next step on."""
        self._reset: tuple[str, ...] = ()
        self._untouched = Untouched()
        self._left = Left({}, False)
        self._warned = False
        self._hyper: tuple[Hyper, ...] = ()
        self._resumed: Resumed | None = None
        """Where the recording goes on, until it does."""

    def __enter__(self) -> Self:
        if self._writer is not None:
            raise RecordingError("a recorder is used once; make another one for another run")
        self._counts = read_counts(self._live)
        writer = RunWriter(self.path, self._header, self._if_exists)
        try:
            if self._if_exists == "resume":
                self._resume(writer)
        except BaseException:
            writer.close()
            raise
        self._writer = writer
        self._attach()
        return self

    @property
    def steps(self) -> int:
        """How many steps are recorded: the number of the next one."""
        return self._active().steps

    def steps_of(self, stage: str) -> int:
        """How many of them are of this stage."""
        return self._active().steps_of(stage)

    def _resume(self, writer: RunWriter) -> None:
        """Take up what is recorded, if anything is."""
        loop = Loop(self._live, self._header, self._evaluation, self._dataset, self._scaler, self._averaging)
        found = self._resumed = resume(writer.path, loop, self._examples)
        if found is None:
            return
        if writer.unfinished is not None:
            writer.finish(found.unfinished)
        for warning in writer.warnings:
            warnings.warn(f"{self.path}: {warning}", RuntimeWarning, stacklevel=4)
        self._live, self._counts, self._hyper = found.live, found.counts, found.hyper
        self._left = leave(self._live)
        self._average = None if self._averaging is None else AverageWatch(self._averaging, found.updates)
        self._evaluation = None if found.evaluated else self._evaluation
        if writer.steps:
            set_generators(writer.generators, self._live.device)

    def _attach(self) -> None:
        """Watch the model and the optimizer that train now, and no others."""
        self._detach()
        model, optimizer, _ = self._now
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            *self._announced.watch(model),
        ]

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()
        writer = self._active()
        try:
            self._thread.shutdown(cancel_futures=True)
            self._finish(clean=error is None)
        except Exception as problem:
            if error is None:
                raise
            error.add_note(f"The recorder could not commit its last steps either: {problem}. They are in the journal.")
        finally:
            writer.close()
            self._stage = None

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        note: str = "",
        metadata: Mapping[str, Any] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        model: nn.Module | None = None,
        loss_fn: LossFunction | None = None,
        reset: Collection[str] = (),
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> Iterator[None]:
        """A stage of the training: the steps made inside. A name that was used before continues that stage.

        Args:
            optimizer, model, loss_fn: what trains from this stage on, where it is not what trained before. A model may
                also be changed in place (a head replaced, adapters added), parameters frozen or thawed at any time.
            reset: names of parameters that were initialised anew since the last step, under the names that they had.
            clip_norm, clip_value: the limit inside this stage, if it is not the recorder's; math.inf for none.
        """
        check_stage_name(name)
        if self._stage is not None:
            raise RecordingError(
                f"stage {name!r} opens inside stage {self._stage!r}; stages cannot be nested, close that one first"
            )
        writer = self._active()
        self._clip = None if math.inf in (clip_norm, clip_value) else announced_clip(clip_norm, clip_value)
        if clip_norm is None and clip_value is None:
            self._clip = self._clip_of_all
        writer.declare(name, str(note), json_object(metadata or {}, f"metadata of stage {name!r}"))
        goes_on = self._resumed if self._resumed and self._resumed.stage == name else None
        self._stage, self._stage_start = name, goes_on.start if goes_on else writer.steps
        now = self._now
        self._now, self._reset = (model or now[0], optimizer or now[1], loss_fn or now[2]), tuple(reset)
        if any(a is not b for a, b in zip(self._now, now, strict=True)):
            self._announced = Announced(self._now[2], self._live.device, self._scaler, self._thread)
            self._attach()
        try:
            yield
            if writer.steps == self._stage_start and not (self._resumed and writer.steps_of(name)):
                raise EmptyStageError(
                    f"stage {name!r} closed without a step; remove it, or step inside it (a stage that has an "
                    "optimizer of its own must name it: recorder.stage(name, optimizer=...))"
                )
            self._rest(writer)
            self._left = leave(self._live)
        finally:
            self._stage = None
            self._untouched.forget()
            self._announced.drop()

    def batch(self, x: Inputs, y: Tensor, *, ids: Any = None, weight: float = 1.0) -> None:
        """Announce the batch of the next forward pass; several before one step are gradient accumulation.

        Args:
            x: inputs, a tensor or a dict of tensors [examples, ...].
            y: targets [examples, ...].
            ids: one integer or string an example, to find it again.
            weight: the factor on this micro-batch's loss in your loop (1 / n when you average over n of them).
        """
        writer = self._active()
        self._require_stage("recorder.batch()")
        if self._in_flight is not None:
            raise RecordingError(
                f"optimizer.step() of step {self._in_flight.step} did not complete; the run cannot be continued"
            )
        if not math.isfinite(weight) or weight == 0:
            raise RecordingError(f"weight is {weight}, expected a finite number other than 0")
        if self._announced.was_skipped:
            self._announced.pass_over(self._live)
        fields = to_fields(x, y)
        plain_ids = check_ids(ids, len(y))
        if not self._announced:
            self._begin_step(writer)
        if self._is_checked and self._dataset is not None:
            check_reference(self._dataset, fields, plain_ids)
        self._examples.check(fields, plain_ids)
        kept = {n: t.detach().clone() for n, t in fields.items()}
        rows = self._thread.submit(self._examples.add, {n: t.cpu() for n, t in kept.items()}, plain_ids, writer.keep)
        self._announced.add(Pending(rows, float(weight), to_batch(kept)))
        self._half_done = True

    def discard(self) -> None:
        """The loop takes no step with what was announced since the last one (a loss that is not finite).

        Where it went through the model and moves buffers, that is recorded with the next step of this stage."""
        self._active()
        self._announced.pass_over(self._live)
        self._half_done = self._announced.has_passed

    def _rest(self, writer: RunWriter) -> None:
        """Batches that no step was taken with, the last of their stage: if they moved buffers, a step of their own."""
        rest = self._announced.rest(self._live, writer.steps)
        if rest.passed:
            hyper = self._hyper or read_hyper(self._live)
            record = StepRecord(writer.steps, self._stage or "", hyper, (), rest.training, math.nan, 0.0)
            record = record._replace(idle=rest.idle, precision=rest.precision, passed=rest.passed)
            writer.append(record, self._examples.take(), read_generators(self._live.device))
        self._half_done = False

    @property
    def _is_first(self) -> bool:
        """Whether the next step is the first of its stage block."""
        return self._active().steps == self._stage_start

    @property
    def _is_checked(self) -> bool:
        """Whether a checkpoint was made for the next step: then its gradient is checked, and what follows it."""
        return self._active().checkpoints[-1] == self._active().steps

    def _begin_step(self, writer: RunWriter) -> None:
        """Before the first forward pass of a step, while buffers are still those before the step."""
        step, known = writer.steps, writer.checkpoints
        self._untouched.check(self._live, step)
        if self._average is not None:
            self._average.check(self._live, step)
        phase = self._begin_phase(step) if self._is_first else None
        if self._resumed is not None and self._now != (self._live.model, self._live.optimizer, self._live.loss_fn):
            raise RecordingError(
                f"the recording stopped before step {step}, inside stage {self._stage!r}: make the Recorder with the "
                "model, optimizer and loss that train there"
            )
        self._resumed = None
        if self._is_first or step - known[-1] >= self._every:
            wanted = step not in known or phase is not None
            writer.commit(self._snapshot() if wanted else None, self._unwritten_evaluation(), phase=phase)
        self._announced.begin(self._live, self._is_checked)

    def _begin_phase(self, step: int) -> PhaseEntry | None:
        """Look at what trains from this step on; None if it is what trained before."""
        announced = self._resumed is not None and self._resumed.announced
        live, phase = succeed(self._live, self._left, self._now, () if announced else self._reset)
        self._left = self._left._replace(values={})
        if phase is None:
            return None
        if self._average is not None:
            raise UnsupportedError(
                f"model, optimizer or loss changed before step {step}; averaged weights are recorded only as long as "
                "they stay the same: record the parts as separate runs"
            )
        if step in (0, *self._active().checkpoints):
            raise RecordingError(
                f"model, optimizer or loss changed before step {step}, after their state was recorded; "
                "make the Recorder with those that train first, and step in a stage before the next one changes them"
            )
        sources = {n: phase.sources.get(n, n) for n in live.trained}
        self._counts = {n: 0.0 if phase.fresh else self._counts.get(s or "", 0.0) for n, s in sources.items()}
        self._live, self._hyper, self._reset = live, (), ()
        return phase

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step = self._active().steps
        self._require_stage("optimizer.step()")
        if any(a is not None for a in (*args[1:], *kwargs.values())):
            raise UnsupportedError(
                "optimizer.step(closure) cannot be replayed; call backward() yourself and then step()"
            )
        if not self._announced:
            raise RecordingError(
                f"step {step}: optimizer.step() without a batch; call recorder.batch(x, y) before the forward pass"
            )
        hyper = read_hyper(self._live)
        made = self._announced.make(self._live, self._clip, self._is_checked, step)
        check_hyper(hyper, self._hyper, step)
        self._hyper, self._measured = hyper, (made.loss, made.grad_norm)
        weight = None if self._average is None else self._average.before_step(self._live, self._is_checked)
        self._in_flight = StepRecord(
            step,
            self._stage or "",
            hyper,
            made.micro_batches,
            made.training,
            math.nan,
            math.nan,
            self._clip,
            made.idle,
            made.precision,
            weight,
            made.passed,
        )

    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record = self._in_flight
        assert record is not None
        self._untouched.note(self._live, copied=self._is_checked)
        loss, grad_norm = (None if t is None else float(t) for t in self._measured)  # a device is waited for only here
        assert grad_norm is not None
        self._warn_if_not_finite(record.step, loss, grad_norm)
        record = record._replace(loss=math.nan if loss is None else loss, grad_norm=grad_norm)
        self._active().append(record, self._examples.take(), read_generators(self._live.device))
        self._counts.update({n: self._counts[n] + 1 for n in self._live.trained if n not in record.idle})
        self._in_flight, self._half_done = None, False

    def _finish(self, clean: bool) -> None:
        """The last commit: with the final state if no step is half done, sealed if training ended well."""
        writer = self._active()
        writer.wait()
        if self._average is not None and clean:
            self._average.check(self._live, writer.steps)
        wanted = writer.steps not in writer.checkpoints and (clean or not self._half_done)
        writer.commit(self._snapshot() if wanted else None, self._unwritten_evaluation(), sealed=clean)
        writer.wait()

    def _snapshot(self) -> Snapshot:
        self._active().wait()  # one copy of the state at a time
        averaged = None if self._average is None else self._average.averaging.read(self._live)
        return read_snapshot(self._live, self._active().steps, self._counts, averaged)

    def _unwritten_evaluation(self) -> Evaluation | None:
        evaluation, self._evaluation = self._evaluation, None
        return evaluation

    def _active(self) -> RunWriter:
        if self._writer is None:
            raise RecordingError("the recorder is not open; use it as `with Recorder(...) as recorder:`")
        return self._writer

    def _require_stage(self, what: str) -> None:
        if self._stage is None:
            raise RecordingError(f"{what} outside a stage; put the loop inside `with recorder.stage(name):`")

    def _warn_if_not_finite(self, step: int, loss: float | None, grad_norm: float) -> None:
        if self._warned or (math.isfinite(grad_norm) and (loss is None or math.isfinite(loss))):
            return
        self._warned = True
        warnings.warn(
            f"step {step}: loss {loss}, gradient norm {grad_norm}; recording goes on", RuntimeWarning, stacklevel=4
        )


__all__ = ["DatasetReference", "Evaluation", "Recorder"]
