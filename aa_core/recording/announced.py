"""A step in the making: the batches announced for it, what their forward passes showed, and whether they explain it."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aa_core.recording.gradient_check import Evidence, check_gradient
from aa_core.recording.live import Live, LossFunction, carried_now, read_buffers, read_gradients
from aa_core.recording.observer import ForwardObserver, check_clipped, read_precision
from aa_core.records import Batch, Clip, MicroBatch, Precision
from aa_core.state import Buffers


class Pending(NamedTuple):
    """An announced batch."""

    rows: Future[Tensor]
    """Looked up while the model runs."""
    weight: float
    batch: Batch

    def seen_with(self, rng: Tensor | None) -> MicroBatch:
        return MicroBatch(self.rows.result(), self.weight, rng)


class Made(NamedTuple):
    """What is known of a step right before the optimizer takes it."""

    micro_batches: tuple[MicroBatch, ...]
    training: bool
    precision: Precision
    idle: tuple[str, ...]
    """Parameters without a gradient."""
    loss: Tensor | None
    """If it was seen."""
    grad_norm: Tensor
    passed: tuple[MicroBatch, ...]
    """Batches that no step was taken with, if they moved buffers: of weight 0."""


class Announced:
    """The batches since the last step, and the hooks that watch their forward passes."""

    def __init__(
        self, loss_fn: LossFunction, device: torch.device, scaler: torch.amp.GradScaler | None, thread: Executor
    ) -> None:
        """`thread` may compute losses."""
        self._observer, self._scaler, self._scale = ForwardObserver(loss_fn, device, thread), scaler, 1.0
        self._batches: list[Pending] = []
        self._passed: list[tuple[MicroBatch, Batch]] = []
        self._before = 0
        """How many batches the step before was made of."""
        self._buffers: Buffers = {}
        """Before the first forward pass of the step: all, or those that are known to move."""
        self._moving: tuple[str, ...] = ()
        self._training = True
        """Whether the model was in train mode when a batch last went through it that no step was taken with."""

    def watch(self, model: nn.Module) -> list[Any]:
        """The hooks, as torch can remove them."""
        return [
            model.register_forward_pre_hook(self._observer.before),
            model.register_forward_hook(self._observer.after),
        ]

    def __bool__(self) -> bool:
        """Whether a step is in the making."""
        return bool(self._batches)

    @property
    def was_skipped(self) -> bool:
        """Whether the scaler found infinite gradients in these batches, and let no step be taken."""
        return self._scaler is not None and bool(self) and float(self._scaler.get_scale()) < self._scale

    def begin(self, live: Live, checked: bool) -> None:
        """Before the first batch of a step."""
        self._scale = 1.0 if self._scaler is None else float(self._scaler.get_scale())
        if not self._passed:
            self._buffers = read_buffers(live, self._moving if self._before and not checked else None)

    def add(self, pending: Pending) -> None:
        self._batches.append(pending)
        self._observer.expect(pending.batch.targets, pending.weight)

    def pass_over(self, live: Live) -> None:
        """No step is made of them; where they went through the model and moved buffers, the next one knows of them."""
        announced, seen = self._batches, self._observer.seen()
        self._batches, now = [], carried_now(live, self._buffers)
        if any(not torch.equal(now[n], before) for n, before in self._buffers.items()):
            self._training = seen[-1].training if seen else self._training
            self._passed += [
                (p._replace(weight=0.0).seen_with(f.rng), p.batch._replace(rng=f.rng, autocast=f.autocast))
                for p, f in zip(announced, seen, strict=False)  # the last one may not have got there
            ]

    @property
    def has_passed(self) -> bool:
        """Whether buffers moved since the last step."""
        return bool(self._passed)

    def rest(self, live: Live, step: int) -> Made:
        """What moved buffers since the last step, and is over with that: no step comes that could know of it."""
        self.pass_over(live)
        passed, self._passed, self._buffers = self._passed, [], {}
        precision = read_precision([batch.autocast for _, batch in passed[-1:]], self._scaler, step)
        micro_batches = tuple(micro for micro, _ in passed)
        return Made((), self._training, precision, tuple(live.trained), None, torch.zeros(()), micro_batches)

    def drop(self) -> None:
        """Nor is anything kept."""
        self._batches, self._passed, self._buffers = [], [], {}
        self._observer.seen()

    def make(self, live: Live, clip: Clip | None, checked: bool, step: int) -> Made:
        """What the step is made of, which is over with that.

        Checked are the gradients of steps that a checkpoint precedes, and of those that take another number of batches
        than the one before: a batch may have been announced that no step was taken with.
        """
        announced, passed, buffers, before = self._batches, self._passed, self._buffers, self._before
        seen = self._observer.take(len(announced))
        self._batches, self._passed, self._buffers, self._before = [], [], {}, len(announced)
        gradients = read_gradients(live)
        check_clipped(gradients, clip, step)
        training = live.model.training
        precision = read_precision([f.autocast for f in seen or ()], self._scaler, step)
        rngs = [f.rng for f in seen] if seen else [None] * len(announced)
        micro_batches = tuple(p.seen_with(rng) for p, rng in zip(announced, rngs, strict=True))
        if checked or len(announced) != before:
            now = carried_now(live)
            batches = [
                (p.batch._replace(rng=rng, autocast=precision.dtype), p.weight)
                for p, rng in zip(announced, rngs, strict=True)
            ]
            told = Evidence(now | buffers, batches, clip, precision.scale, [batch for _, batch in passed])
            check_gradient(live, gradients, told, training, step)
            self._moving = tuple(n for n in buffers if n in self._moving or not torch.equal(buffers[n], now[n]))
        return Made(
            micro_batches,
            training,
            precision,
            tuple(n for n in live.trained if n not in gradients),
            torch.as_tensor(sum(f.loss.result() for f in seen)) if seen else None,
            torch.nn.utils.get_total_norm(list(gradients.values())),
            tuple(micro for micro, _ in passed),
        )
