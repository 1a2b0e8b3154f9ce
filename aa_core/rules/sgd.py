"""Stochastic gradient descent as torch.optim.SGD does it: momentum, dampening, Nesterov, coupled weight decay."""

from __future__ import annotations

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


SGD = UpdateRule(
    name="SGD",
    slots=("momentum_buffer",),
    hyper=("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
    update=update,
    effective_lr=effective_lr,
    write=write_slots,
    refused={k: v for k, v in INEXACT.items() if k != "capturable"},
)
