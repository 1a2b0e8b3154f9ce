"""Adagrad (Duchi, Hazan & Singer 2011) as torch.optim does it."""

from __future__ import annotations

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import INEXACT, Slots, UpdateRule, write_counted
from aa_core.rules.numerics import safe_sqrt


def update(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> tuple[Tensor, Slots]:
    """s' = s + g^2, theta' = theta - eta / (1 + (t - 1) decay) g / (sqrt(s') + eps)."""
    if hyper["maximize"]:
        grad = -grad
    if hyper["weight_decay"]:
        grad = grad.add(param, alpha=hyper["weight_decay"])
    total = slots["sum"].addcmul(grad, grad, value=1)
    rate = torch.full_like(count, hyper["lr"]) / (1 + (count - 1) * hyper["lr_decay"])
    return param + (grad * -rate.to(param.dtype)) / (safe_sqrt(total) + hyper["eps"]), {"sum": total}


ADAGRAD = UpdateRule(
    name="Adagrad",
    slots=("sum",),
    hyper=("lr", "lr_decay", "weight_decay", "eps", "maximize"),
    update=update,
    write=write_counted,
    refused={k: v for k, v in INEXACT.items() if k != "capturable"},
    stiff=lambda slots: slots["sum"] == 0,
)
