"""The user's model and loss as pure functions of (parameters, buffers, batch)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from aa_core.errors import ProblemError
from aa_core.records import Batch, Inputs, StepInput
from aa_core.state import Buffers, Params, Snapshot

LossFunction = Callable[[Tensor, Tensor], Tensor]
AsText = Callable[[Inputs], Sequence[str]]
"""Inputs of n examples -> n strings."""


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is the GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def computing_in(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """torch.autocast as it was recorded."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


class _PlainKernels:
    """Switches of the whole process: the first thread inside sets them, the last one sets them back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._ends = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._ends.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
                torch.backends.mha.set_fastpath_enabled(False)
                self._ends.enter_context(sdpa_kernel(SDPBackend.MATH))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._ends.close()


_plain = _PlainKernels()


def twice_differentiable_kernels() -> AbstractContextManager[None]:
    """Fused attention has no second derivative, a fused layer not even a first one: use the plain kernels.

    All threads do, as long as one is inside.
    """
    return _plain


@contextmanager
def generator_at(state: Tensor | None, device: torch.device) -> Iterator[None]:
    """Inside, the device draws the random numbers that were recorded; outside, nothing has happened."""
    if state is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        own = state.clone()  # torch reads past the end of a slice
        try:
            torch.cuda.set_rng_state(own, device) if devices else torch.set_rng_state(own)
        except RuntimeError as error:
            raise ProblemError(
                f"the recorded random numbers cannot be drawn again on {device.type}: {error}. A run whose model draws "
                "random numbers replays on the kind of device that recorded it"
            ) from None
        yield


def output_tensor(outputs: object) -> Tensor:
    """What a model returned as the tensor that the loss needs: itself, or the `logits` of a structured output."""
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    tensor = outputs if logits is None else logits
    if not isinstance(tensor, Tensor):
        raise ProblemError(
            f"the model returned {type(outputs).__name__}, expected a tensor, or an object with a tensor `logits`; "
            "wrap it in a module whose forward returns the tensor that the loss needs"
        )
    return tensor


class Problem:
    """Architecture and loss; the parameters come from the run.

    The model is copied, never changed. `loss_fn(outputs, targets)` must return a scalar tensor. `previous` is the
    problem that was trained before, where model or loss were replaced between two stages (a head added, adapters).

    `as_text` puts inputs into words, one string an example, and `class_names` names the classes (of sequences, what
    can stand at a place), from class 0 on: screens show both. No result and no digest depends on them.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        *,
        previous: Problem | None = None,
        device: str | torch.device = "auto",
        as_text: AsText | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self.device = resolve_device(device)
        self.previous = None if previous is None else previous.to(self.device)
        self.model = copy.deepcopy(model).to(self.device)
        self._modules = tuple(self.model.modules())
        self._tied = _has_tied(self.model)
        self.loss_fn = loss_fn
        self.as_text = as_text
        self.class_names = tuple(class_names)
        self.verified: set[str] = set()
        """Digests of runs that this problem was seen to replay."""
        self.drifts: dict[str, float] = {}
        """By the digest of a run: the largest relative drift of a replay from a checkpoint that was met."""
        self.effective_lr: dict[str, float] = {}
        """By the digest of a run: the largest effective learning rate of all its steps, once it was looked up."""
        self.twice_differentiable = False
        """Whether the graph of its gradient was looked through for operators without a second derivative."""
        self.needs_autocast: bool | None = None
        """Whether model and loss, trained under autocast to float16, compute nothing without; None: unknown yet."""
        self.fused_attention: bool | None = None
        """Whether training attended by a fused kernel, for which derivatives take the plain one; None: unknown yet."""

    @property
    def fingerprint(self) -> str:
        """Digest of what the problem prints of itself: layers, sizes, loss. Two architectures rarely share it."""
        loss = getattr(self.loss_fn, "__qualname__", repr(self.loss_fn))
        before = "" if self.previous is None else f"\n{self.previous.fingerprint}"
        return hashlib.sha256(f"{self.model!r}\n{loss}{before}".encode()).hexdigest()

    def to(self, device: torch.device) -> Problem:
        """The same problem on a device: itself if it is there."""
        if device == self.device:
            return self
        words: dict[str, Any] = {"as_text": self.as_text, "class_names": self.class_names}
        return Problem(self.model, self.loss_fn, previous=self.previous, device=device, **words)

    def twin(self) -> Problem:
        """The same problem with a model and a loss of its own, for another thread; raises where a loss has no copy."""
        found = self.with_own_model()
        found.previous = None if self.previous is None else self.previous.twin()
        found.loss_fn = copy.deepcopy(self.loss_fn)
        return found

    def with_own_model(self) -> Problem:
        """The same problem with a model of its own, but for its tensors: their values are never used."""
        found, tensors = copy.copy(self), [*self.model.parameters(), *self.model.buffers()]
        found.model = copy.deepcopy(self.model, {id(t): t for t in tensors})
        found._modules = tuple(found.model.modules())
        return found

    def in_words(self, inputs: Inputs) -> list[str] | None:
        """Inputs of n examples as n strings; None without `as_text`, ProblemError where it gives another number."""
        if self.as_text is None:
            return None
        found = [str(words) for words in self.as_text(inputs)]
        count = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
        if len(found) != count:
            raise ProblemError(f"as_text gave {len(found)} strings for {count} examples; return one an example")
        return found

    def sequence(self, count: int) -> tuple[Problem, ...]:
        """The problems that were trained one after the other, this one last; ProblemError unless there are `count`."""
        found = [self]
        while found[0].previous is not None:
            found.insert(0, found[0].previous)
        if len(found) != count:
            raise ProblemError(
                f"the run was trained on {count} models or losses one after the other, this problem has {len(found)}; "
                "chain them: Problem(model, loss_fn, previous=Problem(model_before, loss_before))"
            )
        return tuple(found)

    def in_order(self, params: Params) -> Params:
        """By the model's own order of parameters, which is the one that clip_grad_norm_ sums over."""
        return {n: params[n] for n, _ in self.model.named_parameters() if n in params}

    def outputs(self, params: Params, buffers: Buffers, inputs: Inputs, *, training: bool = False) -> Tensor:
        """The model's outputs, [examples, ...]. In-place changes of buffers go to `buffers`."""
        if any(module.training != training for module in self._modules):
            self.model.train(training)
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
        return output_tensor(functional_call(self.model, (params, buffers), args, kwargs, tie_weights=self._tied))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.loss_fn(outputs, targets)
        if loss.dim():
            raise ProblemError(
                f"the loss has shape {tuple(loss.shape)}, expected a scalar; reduce it with .mean() or .sum()"
            )
        return loss

    def batch_outputs(self, params: Params, buffers: Buffers, batch: Batch, *, training: bool) -> Tensor:
        """The outputs for a batch; going backward, each example's part of the gradient is multiplied by its weight.

        So a weight changes what an example teaches, and nothing else: not the value of the loss, no mean's denominator,
        no batch statistics.
        """
        weights = batch.weights
        with generator_at(batch.rng, self.device), computing_in(self.device, batch.autocast):
            outputs = self.outputs(params, buffers, batch.inputs, training=training)
        if weights is not None:
            by_row = weights.to(outputs).reshape(-1, *[1] * (outputs.dim() - 1))
            outputs.register_hook(lambda slope: slope * by_row)
        return outputs

    def loss_of(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss of a batch, computed in the precision that was recorded."""
        with computing_in(self.device, batch.autocast):
            return self.loss(outputs, batch.targets)

    def batch_loss(self, params: Params, buffers: Buffers, batch: Batch, *, training: bool) -> tuple[Tensor, Buffers]:
        """(scalar loss, buffers after the forward pass); `buffers` itself stays as it is."""
        after = {name: buffer.clone() for name, buffer in buffers.items()}
        return self.loss_of(self.batch_outputs(params, after, batch, training=training), batch), after

    def passed(self, params: Params, buffers: Buffers, step: StepInput) -> Buffers:
        """The buffers after what went through the model before a step and had no say in it."""
        if not step.passed:
            return buffers
        after = {name: buffer.clone() for name, buffer in buffers.items()}
        with torch.no_grad():
            for batch in step.passed:
                self.batch_outputs(params, after, batch, training=step.training)
        return after

    def check_fits(self, snapshot: Snapshot) -> None:
        """Raise ProblemError unless names, shapes and dtypes are those of the run; all differences at once."""
        recorded = {**snapshot.state.params, **snapshot.buffers}
        model = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        differences = _differences(recorded, model)
        if differences:
            raise ProblemError("the model does not fit the run:\n  " + "\n  ".join(differences))


def _has_tied(model: nn.Module) -> bool:
    """Whether a tensor has several names, which torch looks up at every call unless it is told that none has."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return len({id(tensor) for _, tensor in tensors}) < len(tensors)


def _describe(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _differences(recorded: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{n}: in the run, not in the model" for n in recorded if n not in model]
    extra = [f"{n}: in the model, not in the run" for n in model if n not in recorded]
    other = [
        f"{n}: the run has {_describe(t)}, the model {_describe(model[n])}"
        for n, t in recorded.items()
        if n in model and (t.shape, t.dtype) != (model[n].shape, model[n].dtype)
    ]
    return missing + extra + other
