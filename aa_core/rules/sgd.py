"""Stochastic gradient descent as torch.optim.SGD does it: momentum, dampening, Nesterov, coupled weight decay."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import INEXACT, Many, ManySlots, Slots, UpdateRule, write_slots


def update(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> tuple[Tensor, Slots]:
    """v' = mu v + (1 - dampening) g, theta' = theta - eta v'; the first v' is g itself."""
    momentum, buffer = hyper["momentum"], slots["momentum_buffer"]
    if hyper["maximize"]:
        grad = -grad
    if hyper["weight_decay"]:
        grad = grad.add(param, alpha=hyper["weight_decay"])
    if momentum:
        moving = (buffer * momentum).add(grad, alpha=1 - hyper["dampening"])
        buffer = torch.where(count > 1, moving, grad) if hyper["dampening"] else moving
        grad = grad.add(buffer, alpha=momentum) if hyper["nesterov"] else buffer
    return param.add(grad, alpha=-hyper["lr"]), {"momentum_buffer": buffer}


def effective_lr(hyper: Hyper) -> float:
    """eta (1 - dampening) / (1 - mu)."""
    kept = 1 - hyper["dampening"] if hyper["momentum"] else 1.0
    return hyper["lr"] * kept / max(1 - hyper["momentum"], 1e-12)


class SgdDerivative(NamedTuple):
    """With g' = sign g + decay theta:

    theta' = theta - lr d,  v' = kept v + taken g',  d = direct g' + moved v'
    """

    kept: float
    taken: float
    direct: float
    moved: float
    lr: float
    decay: float
    sign: float

    def push(self, params: Many, grads: Many, slots: ManySlots, count: Tensor) -> tuple[Many, ManySlots]:
        grads = grads if self.sign == 1.0 else torch._foreach_mul(grads, self.sign)
        grads = torch._foreach_add(grads, params, alpha=self.decay) if self.decay else grads
        buffers = slots["momentum_buffer"]
        if self.moved:
            buffers = torch._foreach_mul(buffers, self.kept)
            torch._foreach_add_(buffers, grads, alpha=self.taken)
            params = torch._foreach_add(params, buffers, alpha=-self.lr * self.moved)
        if self.direct:
            params = torch._foreach_add(params, grads, alpha=-self.lr * self.direct)
        return params, {"momentum_buffer": buffers}

    def pull(self, params: Many, slots: ManySlots) -> tuple[Many, Many, ManySlots, Tensor]:
        buffers, grads = slots["momentum_buffer"], torch._foreach_mul(params, -self.lr * self.direct)
        if self.moved:
            buffers = torch._foreach_add(buffers, params, alpha=-self.lr * self.moved)
            torch._foreach_add_(grads, buffers, alpha=self.taken)
            torch._foreach_mul_(buffers, self.kept)
        params = torch._foreach_add(params, grads, alpha=self.decay) if self.decay else params
        if self.sign != 1.0:
            torch._foreach_mul_(grads, self.sign)
        count = params[0].new_zeros(len(params[0]), dtype=torch.float64)
        return params, grads, {"momentum_buffer": buffers}, count


def derivative(params: Many, grads: Many, slots: ManySlots, count: float, hyper: Hyper) -> SgdDerivative:
    """Of `update`. The first v' with dampening is g' itself, whatever v was."""
    momentum, dampening, nesterov = hyper["momentum"], hyper["dampening"], bool(hyper["nesterov"])
    first = bool(dampening) and not count > 1
    return SgdDerivative(
        kept=0.0 if first else momentum,
        taken=1.0 if first else 1 - dampening,
        direct=1.0 if nesterov or not momentum else 0.0,
        moved=(momentum if nesterov else 1.0) if momentum else 0.0,
        lr=hyper["lr"],
        decay=hyper["weight_decay"],
        sign=-1.0 if hyper["maximize"] else 1.0,
    )


SGD = UpdateRule(
    name="SGD",
    slots=("momentum_buffer",),
    hyper=("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
    update=update,
    effective_lr=effective_lr,
    write=write_slots,
    derivative=derivative,
    refused={k: v for k, v in INEXACT.items() if k != "capturable"},
)
