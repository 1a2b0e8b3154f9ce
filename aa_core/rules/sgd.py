"""Stochastic gradient descent as torch.optim.SGD does it: momentum, dampening, Nesterov, coupled weight decay."""

from __future__ import annotations

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import Slots, UpdateRule


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


SGD = UpdateRule(
    name="SGD",
    slots=("momentum_buffer",),
    hyper=("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
    update=update,
    refused={
        "fused": "its rounding differs from the replayed update; build the optimizer without fused=True",
        "differentiable": "the recorder differentiates on its own; build the optimizer without differentiable=True",
    },
)
