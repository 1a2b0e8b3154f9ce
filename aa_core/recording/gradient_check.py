"""Does the recorded batch explain the gradient? Checked at every checkpoint, without disturbing training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_pre_hook

from aa_core.errors import RecordingError, UnsupportedError
from aa_core.problem import computing_in, generator_at, output_tensor
from aa_core.recording.live import Live
from aa_core.records import Batch, Clip
from aa_core.rules.clipping import clip
from aa_core.state import Buffers

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
COARSE = 2e-2
AGAIN = (
    "{} runs forward once more on the way back (gradient checkpointing, torch.utils.checkpoint), "
    "with the model's parameters of that moment, not with those that a replay asks for: train without it"
)


class Evidence(NamedTuple):
    """What the recorder was told of one step: enough to compute its gradient again."""

    buffers: Buffers
    """Before the first forward pass of the step."""
    batches: Sequence[tuple[Batch, float]]
    clip: Clip | None = None
    scale: float = 1.0
    passed: Sequence[Batch] = ()
    """What went through the model before, and only moved its buffers."""


def check_gradient(live: Live, recorded: dict[str, Tensor], evidence: Evidence, training: bool, step: int) -> None:
    """Raise RecordingError unless || recomputed - recorded || <= tolerance * || recorded || over all parameters.

    A parameter without a gradient counts as zero, unless it is frozen.

    Leaves p.grad, buffers, modes, the RNG and the autograd state as they are. Costs one more gradient.
    """
    recomputed = _recompute(live, recorded, evidence, training)
    difference = _relative_difference(recorded, recomputed)
    tolerance = max(TOLERANCE.get(g.dtype, COARSE) for g in recorded.values())
    if difference > tolerance:
        if other := [n for n, m in live.model.named_modules() if m.training != training]:
            raise UnsupportedError(
                f"step {step}: {other[0]} is in {'eval' if training else 'train'} mode and the model is not, which a "
                "replay cannot know, and it makes a difference: override the model's train() so that this part "
                "stays in its mode whatever the model is put in, or put all of it in one mode"
            )
        raise RecordingError(
            f"step {step}: the recorded batch gives another gradient than the one about to be applied "
            f"(relative difference {difference:.1e}, at most {tolerance:.0e} expected). Likely causes: "
            "recorder.batch was called with other data than the forward pass; weight= is missing although the loss is "
            "divided for accumulation; the gradient was clipped (announce it: Recorder(clip_norm=...) or clip_value=) "
            "or changed after backward; zero_grad is missing, or came after backward; no step was taken with an "
            "earlier batch (pass scaler=, or call recorder.discard()); the loss draws random numbers, "
            "or the model does elsewhere than from torch's generator; "
            "the loss has terms that loss_fn(model(x), y) does not, or is computed outside the autocast of the model"
        )


def _recompute(live: Live, names: Collection[str], evidence: Evidence, training: bool) -> dict[str, Tensor]:
    """Gradient of sum_m weight_m loss_fn(model(x_m), y_m) in all that has or should have one, with copies."""
    wanted = [n for n, p in live.trained.items() if p.requires_grad or n in names]
    params = {n: live.trained[n].detach().clone().requires_grad_() for n in wanted}
    buffers = {n: b.clone() for n, b in evidence.buffers.items()}
    devices = [live.device] if live.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), _Mode(live.model, training):
        with torch.no_grad():
            for batch in evidence.passed:
                _loss(live, params | buffers, batch)
        loss = sum(weight * _loss(live, params | buffers, batch) for batch, weight in evidence.batches)
        assert isinstance(loss, Tensor)
        with _only_backward(live.model):
            try:
                found = torch.autograd.grad(loss * evidence.scale, list(params.values()), materialize_grads=True)
            except RuntimeError as error:
                if "torch.utils.checkpoint" in str(error):
                    raise UnsupportedError(AGAIN.format("A part of the model")) from None
                raise
        return clip({n: g / evidence.scale for n, g in zip(params, found, strict=True)}, evidence.clip)


@contextmanager
def _only_backward(model: nn.Module) -> Iterator[None]:
    """UnsupportedError if a part of the model runs forward inside: it would do so with other parameters than asked."""
    parts, again = set(model.modules()), list[str]()

    def note(part: nn.Module, _: object) -> None:
        again.extend([type(part).__name__] if part in parts else [])

    hook = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()
        if again:
            raise UnsupportedError(AGAIN.format(again[0])) from None


def _loss(live: Live, tensors: dict[str, Tensor], batch: Batch) -> Tensor:
    args, kwargs = ((), batch.inputs) if isinstance(batch.inputs, dict) else ((batch.inputs,), {})
    with generator_at(batch.rng, live.device), computing_in(live.device, batch.autocast):
        outputs = output_tensor(functional_call(live.model, tensors, args, kwargs))
        loss = live.loss_fn(outputs, batch.targets)
    if not isinstance(loss, Tensor) or loss.dim():
        raise RecordingError(
            f"loss_fn gave {_shown(loss)}, expected a tensor without dimensions; reduce it with .mean()"
        )
    return loss


def _shown(loss: object) -> str:
    return f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"


def _relative_difference(recorded: dict[str, Tensor], recomputed: dict[str, Tensor]) -> float:
    """|| a - b || / || a ||; 0 where both are not finite, for then there is nothing to compare."""
    scale, distance = 0.0, 0.0
    for name, gradient in recomputed.items():
        given = recorded.get(name, torch.zeros_like(gradient)).double()
        scale += float(given.square().sum())
        distance += float((given - gradient.double()).square().sum())
    if distance == 0.0 or not scale < float("inf"):
        return 0.0
    return float((distance / scale) ** 0.5) if scale and distance < float("inf") else float("inf")


class _Mode:
    """The whole model in one mode, as a replay runs it; each module gets its own mode back."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        self._model, self._training = model, training
        self._before = [(m, m.training) for m in model.modules()]

    def __enter__(self) -> None:
        if any(mode != self._training for _, mode in self._before):
            self._model.train(self._training)

    def __exit__(self, *_: object) -> None:
        for module, mode in self._before:
            module.training = mode
