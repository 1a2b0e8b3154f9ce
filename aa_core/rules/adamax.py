"""Adamax (Kingma & Ba 2015) as torch.optim does it: Adam with the infinity norm."""

from __future__ import annotations

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import INEXACT, Slots, UpdateRule, write_counted


def update(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> tuple[Tensor, Slots]:
    """m' = lerp(m, g, 1 - b1), u' = max(b2 u, |g| + eps), theta' = theta - eta / (1 - b1^t) m' / u'."""
    if hyper["maximize"]:
        grad = -grad
    if hyper["weight_decay"]:
        grad = grad.add(param, alpha=hyper["weight_decay"])
    mean = slots["exp_avg"].lerp(grad, 1 - hyper["beta1"])
    largest = torch.maximum(slots["exp_inf"] * hyper["beta2"], grad.abs() + hyper["eps"])
    rate = torch.full_like(count, hyper["lr"]) / (1 - torch.pow(hyper["beta1"], count))
    return param + (mean * -rate.to(param.dtype)) / largest, {"exp_avg": mean, "exp_inf": largest}


ADAMAX = UpdateRule(
    name="Adamax",
    slots=("exp_avg", "exp_inf"),
    hyper=("lr", "beta1", "beta2", "eps", "weight_decay", "maximize"),
    update=update,
    write=write_counted,
    refused={k: v for k, v in INEXACT.items() if k != "fused"},
)
