"""RAdam (Liu et al. 2020) as torch.optim does it: Adam, rectified while its second moment is young."""

from __future__ import annotations

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import INEXACT, Slots, UpdateRule, write_counted
from aa_core.rules.numerics import safe_sqrt

RECTIFIED = 5.0
"""The length of the second moment's average above which it is used."""


def update(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> tuple[Tensor, Slots]:
    """theta' = theta - eta m^ r(t) / (sqrt(v^) + eps), and theta - eta m^ while the length rho(t) of v is at most 5."""
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    if hyper["maximize"]:
        grad = -grad
    if hyper["weight_decay"] and hyper["decoupled_weight_decay"]:
        param = param * (1 - hyper["lr"] * hyper["weight_decay"])
    elif hyper["weight_decay"]:
        grad = grad.add(param, alpha=hyper["weight_decay"])
    mean = slots["exp_avg"].lerp(grad, 1 - beta1)
    square = (slots["exp_avg_sq"] * beta2).addcmul(grad, grad, value=1 - beta2)
    young = torch.pow(beta2, count)
    step = mean / (1 - torch.pow(beta1, count)).to(param.dtype) * hyper["lr"]
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * count * young / (1 - young)
    if longest > RECTIFIED:  # else no length is ever above it
        adaptive = torch.pow(1 - young, _half(count)).to(param.dtype) * (safe_sqrt(square) + hyper["eps"]).reciprocal()
        rectified = step * adaptive * _rectifier(length.clamp(min=RECTIFIED), longest).to(param.dtype)
        step = torch.where(length > RECTIFIED, rectified, step)
    return param - step, {"exp_avg": mean, "exp_avg_sq": square}


def _rectifier(length: Tensor, longest: float) -> Tensor:
    """sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho))."""
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return torch.pow(ratio, _half(length))


def _half(like: Tensor) -> Tensor:
    return torch.full_like(like, 0.5)


RADAM = UpdateRule(
    name="RAdam",
    slots=("exp_avg", "exp_avg_sq"),
    hyper=("lr", "beta1", "beta2", "eps", "weight_decay", "decoupled_weight_decay", "maximize"),
    update=update,
    write=write_counted,
    refused={
        **{k: v for k, v in INEXACT.items() if k != "fused"},
        "foreach": "its rounding differs from the replayed update; build the optimizer with foreach=False",
    },
    stiff=lambda slots: slots["exp_avg_sq"] == 0,
)
