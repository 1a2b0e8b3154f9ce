"""Stochastic gradient descent as torch.optim.SGD does it: momentum, dampening, Nesterov, coupled weight decay."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import INEXACT, Slots, UpdateRule, write_slots


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

    def push(self, param: Tensor, grad: Tensor, slots: Slots, count: Tensor) -> tuple[Tensor, Slots]:
        grad = grad if self.sign == 1.0 else grad * self.sign
        grad = grad.add(param, alpha=self.decay) if self.decay else grad
        buffer = slots["momentum_buffer"]
        if self.moved:
            buffer = (buffer * self.kept).add_(grad, alpha=self.taken)
            param = param.add(buffer, alpha=-self.lr * self.moved)
        if self.direct:
            param = param.add(grad, alpha=-self.lr * self.direct)
        return param, {"momentum_buffer": buffer}

    def pull(self, param: Tensor, slots: Slots) -> tuple[Tensor, Tensor, Slots, Tensor]:
        buffer, grad = slots["momentum_buffer"], param * (-self.lr * self.direct)
        if self.moved:
            buffer = buffer.add(param, alpha=-self.lr * self.moved)
            grad = grad.add_(buffer, alpha=self.taken)
            buffer = buffer.mul_(self.kept)
        param = param.add(grad, alpha=self.decay) if self.decay else param
        count = param.new_zeros(len(param), dtype=torch.float64)
        return param, grad if self.sign == 1.0 else grad.mul_(self.sign), {"momentum_buffer": buffer}, count


def derivative(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> SgdDerivative:
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
