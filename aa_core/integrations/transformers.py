"""Record what a `transformers.Trainer` does, and rebuild its loss: models of the library, adapters by peft included."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aa_core.errors import MissingExtraError, RecordingError, UnsupportedError
from aa_core.integrations.loop import LoopRecorder
from aa_core.problem import Problem
from aa_core.recording.live import LossFunction
from aa_core.runs.examples import DatasetReference

IGNORE = -100
"""The library's convention for labels that do not count."""
_NOT_INPUTS = ("labels", "num_items_in_batch")
_SHIFTED = {
    "ForCausalLMLoss": True,
    "ForMaskedLMLoss": False,
    "ForTokenClassification": False,
    "ForSequenceClassificationLoss": False,
}
"""The library's losses that are a cross-entropy of logits, and whether position j is judged by label j + 1."""


@dataclass(frozen=True)
class TrainerLoss:
    """The cross-entropy that a Trainer takes of a model's logits, [..., classes], and targets, [...]; -100 is ignored.

    reduction: "sum" where the Trainer hands the model the number of labels in the whole step, else "mean"; what the sum
    is divided by is the recorded weight. As in the library, logits of tokens are taken in float32.
    """

    shifted: bool
    reduction: Literal["sum", "mean"]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = outputs.float() if outputs.dim() > 2 else outputs
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction=self.reduction)

    def targets(self, labels: Tensor) -> Tensor:
        """The label that each position's output is judged by, in the form of `sequence_log_likelihood`."""
        return F.pad(labels, (0, 1), value=IGNORE)[..., 1:].contiguous() if self.shifted else labels


def trainer_loss(model: nn.Module) -> TrainerLoss:
    """The loss that a Trainer takes of this model.

    Raises:
        UnsupportedError: the model's loss is not a cross-entropy over classes.
    """
    inner = _without_adapter(model)
    name = getattr(getattr(inner, "loss_function", None), "__name__", None)
    kind = getattr(getattr(inner, "config", None), "problem_type", None)
    if name not in _SHIFTED or kind not in (None, "single_label_classification"):
        raise UnsupportedError(
            f"{type(inner).__name__} computes its loss by {name or 'code of its own'} ({kind or 'no problem type'}); "
            f"known are {', '.join(_SHIFTED)}. Pass loss_fn=, a function of (logits, labels) that computes the same"
        )
    return TrainerLoss(_SHIFTED[name], "sum" if _is_handed_items(inner) else "mean")


def problem(model: nn.Module, *, previous: Problem | None = None, device: str | torch.device = "auto") -> Problem:
    """The problem of a run that was recorded of this model (its architecture; the parameters come from the run).

    previous: that of the model which was trained before, where adapters or another head came in between.
    """
    bare = copy.deepcopy(model) if any(map(_carries_autocast, model.modules())) else model
    for module in filter(_carries_autocast, bare.modules()):
        del module.forward, module._original_forward
    return Problem(bare, trainer_loss(model), previous=previous, device=device)


class _Pairs:
    """A Trainer's data set as pairs (inputs, targets)."""

    def __init__(self, rows: Any, loss: TrainerLoss, ids: str) -> None:
        self._rows, self._loss, self._ids = rows, loss, ids

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        row = {n: torch.as_tensor(v) for n, v in self._rows[index].items() if n != self._ids}
        return row, self._loss.targets(row.pop("labels"))


def reference(name: str, rows: Any, model: nn.Module, *, ids: str) -> DatasetReference:
    """A Trainer's data set, to be named in the run instead of stored: `TrainerRecorder(..., dataset=, ids=)`.

    Args:
        rows: the data set; the collator must only stack its rows.
        ids: its column that holds each row's index.

    The run is opened with `aa.open_run(path, datasets={name: reference(...).dataset})`.
    """
    return DatasetReference(name, _Pairs(rows, trainer_loss(model), ids))


class TrainerRecorder(LoopRecorder[Any]):
    """Records one or more `Trainer.train()` into a new run at `path`.

    Args:
        loss_fn: only for a model whose loss is not known to `trainer_loss`: what it computes from (logits, labels).
        ids: column of the data set that identifies its examples, taken away before the model is called; it needs
            TrainingArguments(remove_unused_columns=False).
        settings: further ones of `aa_core.Recorder`.

    A stage may be a function of the TrainerState: `lambda state: f"epoch {int(state.epoch) + 1}"`.
    """

    def __init__(
        self, path: str | Path, *, loss_fn: LossFunction | None = None, ids: str | None = None, **settings: Any
    ) -> None:
        super().__init__(path, **settings)
        self._loss_fn, self._ids = loss_fn, ids
        self._loss: LossFunction | None = None
        self._left: float = math.inf
        self._micro_batches: float = 1
        self._divides: bool | None = None
        self._autocast = False
        self._listening = False

    @cached_property
    def callback(self) -> Any:
        try:
            from transformers import TrainerCallback
            from transformers.trainer_utils import has_length
        except ImportError:
            raise MissingExtraError("recording a transformers.Trainer", "transformers") from None
        recorder = self

        class RecorderCallback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **live: Any) -> None:
                recorder._train(args, live["model"], live["optimizer"])

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **live: Any) -> None:
                loader = live["train_dataloader"]
                recorder._left = len(loader) if has_length(loader) else math.inf

            def on_step_begin(self, args: Any, state: Any, control: Any, **live: Any) -> None:
                recorder._step(args.gradient_accumulation_steps, state)

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **live: Any) -> None:
                recorder._listening = False

        return RecorderCallback()

    def _train(self, args: Any, model: nn.Module, optimizer: Any) -> None:
        while hasattr(optimizer, "optimizer"):  # accelerate's wrapper steps what it wraps
            optimizer = optimizer.optimizer
        _check_arguments(args, optimizer)
        self._autocast = any(map(_carries_autocast, model.modules()))
        loss = self._loss_fn or trainer_loss(model)
        self._loss, self._divides = loss if loss != self._loss else self._loss, None  # the same one is the same object
        self._listening = False
        self._begin(model, optimizer, self._loss, {"clip_norm": args.max_grad_norm} if args.max_grad_norm else {})
        self._hooks.close()
        announce = model.register_forward_pre_hook(self._announce, with_kwargs=True, prepend=True)
        self._hooks.callback(announce.remove)  # first of the hooks: the recorder's own expect an announced batch

    def _step(self, accumulate: int, state: Any) -> None:
        """The last step of an epoch may have fewer micro-batches than the others."""
        self._micro_batches = min(accumulate, self._left)
        self._left -= self._micro_batches
        self._listening = True
        self._at(state)

    def _announce(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before each forward pass: take the ids away and, in training, tell the recorder of the batch."""
        ids = kwargs.pop(self._ids, None) if self._ids else None
        if self._listening:
            missing = "labels" if "labels" not in kwargs else self._ids if self._ids and ids is None else None
            if missing:
                raise RecordingError(
                    f"the model is called with {', '.join(kwargs)}, without {missing}. Ids need "
                    "TrainingArguments(remove_unused_columns=False); a Trainer that computes the loss itself, without "
                    "giving the model its labels, cannot be recorded: write the loop and use aa.Recorder"
                )
            inputs = {n: v for n, v in kwargs.items() if n not in _NOT_INPUTS and v is not None}
            targets = self._loss.targets(kwargs["labels"]) if isinstance(self._loss, TrainerLoss) else kwargs["labels"]
            self._active().batch(inputs, targets, ids=ids, weight=self._weight(model, kwargs, targets))
            if self._autocast:
                _show_autocast(model)
        return args, kwargs

    def _weight(self, model: nn.Module, kwargs: dict[str, Any], targets: Tensor) -> float:
        """The factor on the recorded loss: 1 / labels of the step, or of the micro-batch, or 1 / micro-batches."""
        items = kwargs.get("num_items_in_batch")
        if items is None:
            return 1 / self._micro_batches
        if self._divides is None:
            self._divides = _divides_by_items(model, kwargs)
        if self._divides:
            return 1 / float(items)
        return 1 / int((targets != IGNORE).sum()) if isinstance(self._loss, TrainerLoss) else 1.0


def _carries_autocast(module: nn.Module) -> bool:
    """Whether accelerate has put autocast around this module's forward; it stays there after training."""
    return "_original_forward" in vars(module)


def _show_autocast(model: nn.Module) -> None:
    """Open, around one forward pass, the autocast that accelerate opens inside it, for the recorder's hooks to see."""
    autocast = torch.autocast(next(model.parameters()).device.type, torch.bfloat16)

    def close(*_: Any) -> None:
        autocast.__exit__(None, None, None)
        last.remove()

    last = model.register_forward_hook(close, always_call=True)
    autocast.__enter__()


def _divides_by_items(model: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether the model divides its loss by the number of labels that it is handed; some are handed it and do not."""
    modes = [(m, m.training) for m in model.modules()]
    with torch.no_grad():
        model.eval()
        once, twice = (model.forward(**{**kwargs, "num_items_in_batch": n}) for n in (1, 2))
    for module, training in modes:
        module.training = training
    return bool(twice["loss"] < 0.75 * once["loss"])


def _without_adapter(model: nn.Module) -> nn.Module:
    """The model inside a model of peft; any other as it is."""
    unwrap: Any = getattr(model, "get_base_model", lambda: model)
    return unwrap()


def _is_handed_items(model: nn.Module) -> bool:
    """Whether a Trainer hands this model the number of labels in the whole step (Trainer.model_accepts_loss_kwargs)."""
    declared = getattr(model, "accepts_loss_kwargs", None)
    if declared is not None:
        return bool(declared)
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())


def _check_arguments(args: Any, optimizer: torch.optim.Optimizer) -> None:
    """UnsupportedError for what a replay could not repeat."""
    refused = {
        "fp16 (bf16 can be recorded)": args.fp16,
        f"label_smoothing_factor={args.label_smoothing_factor}": args.label_smoothing_factor,
        f"neftune_noise_alpha={args.neftune_noise_alpha}": args.neftune_noise_alpha,
        "torch_compile": args.torch_compile,
        "several devices": args.n_gpu > 1 or args.world_size > 1,
        "a fused optimizer (set optim='adamw_torch')": any(g.get("fused") for g in optimizer.param_groups),
    }
    found = [name for name, is_found in refused.items() if is_found]
    if found:
        raise UnsupportedError(
            f"TrainingArguments: a replay cannot repeat {', '.join(found)}; train without, to record"
        )
