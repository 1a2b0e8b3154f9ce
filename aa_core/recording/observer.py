"""What the recorder sees of a step without being told: losses, random numbers drawn, gradients clipped."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aa_core.errors import RecordingError, UnsupportedError
from aa_core.problem import computing_in, output_tensor
from aa_core.recording.live import LossFunction
from aa_core.records import Clip, Hyper, Precision
from aa_core.runs.columns import AUTOCASTS


class Forward(NamedTuple):
    """What was seen of the forward pass of an announced batch."""

    loss: Future[Tensor]
    rng: Tensor | None
    """State of the generator before it, if the model drew from it."""
    autocast: torch.dtype | None
    training: bool


class ForwardObserver:
    """Forward hooks: loss and random numbers of the first forward pass after each announced batch."""

    def __init__(self, loss_fn: LossFunction, device: torch.device, thread: Executor) -> None:
        self._loss_fn, self._device = loss_fn, device
        self._thread = thread if device.type == "cpu" and _is_pure(loss_fn) else None
        """Computes losses while the backward pass goes on."""
        self._expected: tuple[Tensor, float] | None = None
        self._rng = torch.zeros(0)
        self._observed: list[Forward] = []

    def expect(self, targets: Tensor, weight: float) -> None:
        self._expected = (targets, weight)

    def before(self, module: nn.Module, inputs: Any) -> None:
        if self._expected is not None:
            self._rng = self._generator_state()

    def after(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self._expected is None:
            return
        drew = not torch.equal(self._rng, self._generator_state())
        (targets, weight), self._expected = self._expected, None
        kind = self._device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        found, loss = output_tensor(outputs).detach(), Future[Tensor]()
        if self._thread is not None:  # the loop may write into the outputs meanwhile
            loss = self._thread.submit(self._loss, found.clone(), targets, weight, autocast)
        else:  # it may write into the targets, and they are hashed meanwhile
            loss.set_result(self._loss(found, targets.clone(), weight, autocast))
        self._observed.append(Forward(loss, self._rng if drew else None, autocast, module.training))

    def _loss(self, outputs: Tensor, targets: Tensor, weight: float, autocast: torch.dtype | None) -> Tensor:
        with torch.no_grad(), computing_in(self._device, autocast):
            return self._loss_fn(outputs, targets).detach() * weight

    def seen(self) -> list[Forward]:
        """What was seen since the last call."""
        observed, self._observed, self._expected = self._observed, [], None
        return observed

    def take(self, expected: int) -> list[Forward] | None:
        """One a micro-batch; None unless all of them were seen."""
        observed = self.seen()
        return observed if len(observed) == expected else None

    def _generator_state(self) -> Tensor:
        on_gpu = self._device.type == "cuda"
        return torch.cuda.get_rng_state(self._device) if on_gpu else torch.get_rng_state()


def _is_pure(loss_fn: LossFunction) -> bool:
    """Whether it is torch's own, which remembers nothing and writes to nothing."""
    hooked = isinstance(loss_fn, nn.Module) and (loss_fn._forward_hooks or loss_fn._forward_pre_hooks)
    return (getattr(loss_fn, "__module__", None) or "").startswith("torch.nn.") and not hooked


def read_precision(
    autocasts: Collection[torch.dtype | None], scaler: torch.amp.GradScaler | None, step: int
) -> Precision:
    """Mixed precision in force at a step; RecordingError where its forward passes differ in it."""
    if len(set(autocasts)) > 1:
        raise RecordingError(f"step {step}: some of its forward passes ran under torch.autocast, others did not")
    autocast = next(iter(autocasts), None)
    known = {Precision(name).dtype: name for name in AUTOCASTS}
    if autocast not in known:
        raise UnsupportedError(f"step {step}: autocast to {autocast}; supported are torch.bfloat16 and torch.float16")
    return Precision(known[autocast], 1.0 if scaler is None else float(scaler.get_scale()))


def announced_clip(norm: float | None, value: float | None) -> Clip | None:
    if norm is not None and value is not None:
        raise UnsupportedError("clip_norm and clip_value are both given; a step can be recorded with one of them")
    limit = norm if norm is not None else value
    if limit is not None and not 0 < limit < math.inf:
        raise RecordingError(f"the clipping limit is {limit}, expected a positive number")
    return None if limit is None else Clip("norm" if norm is not None else "value", float(limit))


def check_clipped(gradients: Mapping[str, Tensor], clip: Clip | None, step: int) -> None:
    """The gradient that the optimizer is about to see must obey the clipping that was announced."""
    if clip is None:
        return
    tensors = list(gradients.values())
    found = torch.nn.utils.get_total_norm(tensors, 2.0 if clip.kind == "norm" else math.inf)
    if float(found) > clip.limit * 1.001:
        raise RecordingError(
            f"step {step}: clip_{clip.kind}={clip.limit:g} was announced, but the gradient has {clip.kind} "
            f"{float(found):.4g}: call torch.nn.utils.clip_grad_{clip.kind}_ between backward() and step(), "
            f"or leave clip_{clip.kind} out"
        )


def check_hyper(hyper: tuple[Hyper, ...], before: tuple[Hyper, ...], step: int) -> None:
    for now, then in zip(hyper, before, strict=False):
        if now.get("dampening") and now["momentum"] and not then["momentum"]:
            raise UnsupportedError(
                f"step {step}: momentum is switched on late with dampening={now['dampening']:g}; torch starts its "
                "buffer without dampening then, which a replay cannot know. Set dampening=0, or begin with momentum on"
            )
    bad = [f"{n} = {v}" for group in hyper for n, v in group.items() if not math.isfinite(v) or (n == "lr" and v < 0)]
    if bad:
        raise RecordingError(f"step {step}: {', '.join(bad)}; hyperparameters must be finite, and lr not negative")
