"""Record what a Lightning Trainer does with automatic optimization."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aa_core.errors import MissingExtraError, UnsupportedError
from aa_core.integrations.loop import LoopRecorder
from aa_core.recording.live import LossFunction
from aa_core.records import Inputs

Read = Callable[[Any], tuple[Inputs, Tensor]]


def _pair(batch: Any) -> tuple[Inputs, Tensor]:
    return batch[0], batch[1]


class LightningRecorder(LoopRecorder[Any]):
    """Records one or more `Trainer.fit()` into a new run at `path`.

    Args:
        loss_fn: what `training_step` returns for a batch, as a function of (model(inputs), targets).
        model: the part of the LightningModule that computes the outputs, whose parameters are trained; by default the
            LightningModule itself, by its `forward`. `training_step` must call it.
        read: a batch of the loader -> (inputs, targets); by default its first two items.
        ids: a batch of the loader -> one integer or string an example.
        settings: further ones of `aa_core.Recorder`.

    A stage may be a function of the Trainer: `lambda trainer: f"epoch {trainer.current_epoch + 1}"`.
    """

    def __init__(
        self,
        path: str | Path,
        loss_fn: LossFunction,
        *,
        model: Callable[[Any], nn.Module] = lambda module: module,
        read: Read = _pair,
        ids: Callable[[Any], Any] = lambda batch: None,
        **settings: Any,
    ) -> None:
        super().__init__(path, **settings)
        self._loss_fn, self._model, self._read, self._ids = loss_fn, model, read, ids

    @cached_property
    def callback(self) -> Any:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            raise MissingExtraError("recording a Lightning Trainer", "lightning") from None
        recorder = self

        class RecorderCallback(Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                recorder._train(trainer, pl_module)

            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                recorder._announce(trainer, batch)

        return RecorderCallback()

    def _train(self, trainer: Any, module: Any) -> None:
        _check_trainer(trainer, module)
        (optimizer,) = trainer.optimizers
        kind = "clip_value" if trainer.gradient_clip_algorithm == "value" else "clip_norm"
        clip = {kind: trainer.gradient_clip_val} if trainer.gradient_clip_val else {}
        self._begin(self._model(module), optimizer, self._loss_fn, clip)
        self._hooks.close()
        self._hooks.callback(_close_before_step(optimizer))

    def _announce(self, trainer: Any, batch: Any) -> None:
        self._at(trainer)
        inputs, targets = self._read(batch)
        self._active().batch(inputs, targets, ids=self._ids(batch), weight=1 / trainer.accumulate_grad_batches)


def _close_before_step(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Let the closure (forward, backward, clipping) run before optimizer.step() and not in it; returns the undoing.

    SGD, Adam and AdamW call it first of all, so this is the same training, and the recorder's hook sees the gradient.
    """
    step = optimizer.step

    @wraps(step)  # learning rate schedulers look for the mark that they left on it
    def closed_step(closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        step()
        return loss

    optimizer.step = closed_step  # type: ignore[method-assign]

    def undo() -> None:
        optimizer.step = step  # type: ignore[method-assign]

    return undo


def _check_trainer(trainer: Any, module: Any) -> None:
    """UnsupportedError for what a replay could not repeat."""
    refused = {
        "manual optimization": not module.automatic_optimization,
        f"{len(trainer.optimizers)} optimizers": len(trainer.optimizers) != 1,
        f"precision {trainer.precision}": trainer.precision not in ("32-true", "64-true", "bf16-mixed"),
        f"{trainer.world_size} devices": trainer.world_size > 1,
    }
    found = [name for name, is_found in refused.items() if is_found]
    if found:
        raise UnsupportedError(
            f"Lightning: {', '.join(found)}; recorded is automatic optimization with one optimizer on one device in "
            "full precision or bf16-mixed. Train so, or use aa.Recorder in a plain loop"
        )
