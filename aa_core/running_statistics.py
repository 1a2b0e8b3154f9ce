"""Batch normalisation's running statistics as functions of the parameters: torch moves them beside its graph."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from aa_core.convolution import Convolutions
from aa_core.curvature import in_range, pull_back
from aa_core.performance import Performance
from aa_core.problem import Problem, twice_differentiable_kernels
from aa_core.propagator import Training
from aa_core.records import RunLike, StepInput
from aa_core.replay import load, moving_buffers
from aa_core.state import Buffers, Params, Snapshot

_CALL = inspect.signature(functional.batch_norm)


class Moving(NamedTuple):
    """The buffers of the judged model that training moved."""

    followed: tuple[str, ...]
    """Running mean and variance of batch normalisation: derivatives go through them."""
    held: tuple[str, ...]
    """Others: derivatives take them as they were recorded."""


def moving(run: RunLike, training: Training) -> Moving:
    """Which buffers of the judged model moved, and which of them can be followed."""
    if next(training.problem.model.buffers(), None) is None:
        return Moving((), ())
    known = _of_batch_norm(training.problem.model)
    names = moving_buffers(run, training, load(run, training, run.checkpoints[-1]))
    return Moving(tuple(n for n in names if n in known), tuple(n for n in names if n not in known))


def _of_batch_norm(model: nn.Module) -> set[str]:
    layers = [n for n, m in model.named_modules() if getattr(type(m), "forward", None) is _BatchNorm.forward]
    return {f"{layer}.{which}".removeprefix(".") for layer in layers for which in ("running_mean", "running_var")}


def slope_in_statistics(
    problem: Problem, performance: Performance, params: Params, buffers: Buffers, names: Iterable[str]
) -> Buffers:
    """d gamma / d running statistics of a trained model, [values, ...] by name."""
    leaves = _leaves(buffers, names)
    with Evaluated():
        values = performance(problem, params, buffers | leaves)
    seeds = torch.eye(len(values), dtype=values.dtype, device=values.device)
    return dict(zip(leaves, pull_back([values], list(leaves.values()), [seeds]), strict=True))


def pull_statistics(problem: Problem, at: Snapshot, step: StepInput, after: Buffers) -> tuple[Buffers, Params]:
    """(cotangent of running statistics before a step, what it adds to that of the parameters), in training mode.

    With r' = (1 - m) r + m s(theta):  r* = (1 - m) r'*  and  theta* += m (ds / dtheta)^T r'*, for each forward pass of
    the step, last one first. Cost: its forward passes and one backward pass. [R, ...] per name.
    """
    params, calls = _passed(problem, at, in_range(problem, at, step))
    before, statistics, worth = dict(after), [], []
    for name, momentum, statistic in reversed(calls):
        if name in before:
            statistics.append(statistic)
            worth.append(momentum * before[name])
            before[name] = (1 - momentum) * before[name]
    through = pull_back(statistics, list(params.values()), worth) if statistics else []
    return before, dict(zip(params, through, strict=bool(through)))


class Pass(NamedTuple):
    """What one forward pass in training mode does to a running statistic: r' = (1 - m) r + m s."""

    name: str
    momentum: float
    statistic: Tensor
    """s, of the batch."""
    change: Tensor
    """ds / dtheta d for R directions d, [R, ...]."""


def push_statistics(problem: Problem, at: Snapshot, step: StepInput, directions: Params) -> list[Pass]:
    """The passes of a step in training mode, in order; directions: [R, ...] for every parameter of the state.

    Cost: the forward passes, and a double backward for all R together.
    """
    params, calls = _passed(problem, at, step)
    made = [statistic for *_, statistic in calls]
    if not made:
        return []
    seeds = [torch.zeros_like(statistic, requires_grad=True) for statistic in made]
    transposed = torch.autograd.grad(made, list(params.values()), seeds, create_graph=True, materialize_grads=True)
    changes = pull_back(transposed, seeds, [directions[n] for n in params])
    return [Pass(name, m, s.detach(), change) for (name, m, s), change in zip(calls, changes, strict=True)]


def _passed(problem: Problem, at: Snapshot, step: StepInput) -> tuple[Params, list[tuple[str, float, Tensor]]]:
    """(parameters, what each forward pass of the step made of running statistics, with its graph)."""
    params = {n: p.detach().requires_grad_() for n, p in at.state.params.items()}
    buffers = {n: b.clone() for n, b in at.buffers.items()}
    with twice_differentiable_kernels(), Convolutions(), _Trained(buffers) as made:
        for batch in (*step.passed, *(batch for batch, _ in step.batches)):
            problem.batch_outputs(params, buffers, batch, training=True)
    return params, made.calls


def pull_from_gradient(problem: Problem, at: Snapshot, step: StepInput, worth: Params, after: Buffers) -> Buffers:
    """The cotangent of running statistics before a step in evaluation mode, from the one after it.

    It leaves them as they are, but its gradient depends on them:  r* = r'* + (dg / dr)^T w  for the worth w of each
    coordinate of the gradient, [R, ...] per parameter. Cost: one forward and backward pass, and a double backward.
    """
    params = {n: p.detach().requires_grad_() for n, p in at.state.params.items()}
    step = in_range(problem, at, step)
    leaves = _leaves(at.buffers, after)
    with twice_differentiable_kernels(), Convolutions(), Evaluated():
        losses = [
            weight * problem.batch_loss(params, at.buffers | leaves, batch, training=False)[0]
            for batch, weight in step.batches
        ]
        loss = torch.stack(losses).sum()
        slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True, materialize_grads=True)
    found = pull_back(slopes, list(leaves.values()), [worth[n] for n in params])
    return {n: after[n] + more for n, more in zip(leaves, found, strict=True)}


def _leaves(buffers: Buffers, names: Iterable[str]) -> Buffers:
    return {n: buffers[n].detach().requires_grad_() for n in names}


class Evaluated(TorchFunctionMode):
    """Batch normalisation by given statistics, in operations that have a derivative in them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.batch_norm:
            return func(*args, **(kwargs or {}))
        call = _bound(args, kwargs)
        if call["training"] or call["running_mean"] is None:
            return func(*args, **(kwargs or {}))
        x = call["input"]
        mean, var, weight, bias = (
            None if t is None else t.reshape(1, -1, *[1] * (x.dim() - 2))
            for t in (call["running_mean"], call["running_var"], call["weight"], call["bias"])
        )
        scale = torch.rsqrt(var + call["eps"]) if weight is None else weight * torch.rsqrt(var + call["eps"])
        scaled = (x - mean) * scale
        return (scaled if bias is None else scaled + bias).to(x.dtype)


class _Trained(TorchFunctionMode):
    """Notes each change of running statistics in training mode: (name, momentum, statistic of the batch), in order."""

    def __init__(self, buffers: Buffers) -> None:
        super().__init__()
        self._names = {id(b): n for n, b in buffers.items()}
        self.calls: list[tuple[str, float, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.batch_norm:
            call = _bound(args, kwargs)
            mean, var = (self._names.get(id(call[which])) for which in ("running_mean", "running_var"))
            if call["training"] and mean is not None and var is not None:
                x = call["input"].to(call["running_mean"].dtype)
                over = [d for d in range(x.dim()) if d != 1]
                self.calls += [(mean, call["momentum"], x.mean(over)), (var, call["momentum"], x.var(over))]
        return func(*args, **(kwargs or {}))


def _bound(args: Any, kwargs: Any) -> dict[str, Any]:
    call = _CALL.bind(*args, **(kwargs or {}))
    call.apply_defaults()
    return call.arguments
