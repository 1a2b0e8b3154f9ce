"""RMSprop (Tieleman & Hinton 2012) as torch.optim does it: plain, centered, with momentum."""

from __future__ import annotations

from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import INEXACT, Slots, UpdateRule, write_counted
from aa_core.rules.numerics import safe_sqrt


def update(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> tuple[Tensor, Slots]:
    """v' = a v + (1 - a) g^2, b' = mu b + g / (sqrt(v' - m'^2) + eps), theta' = theta - eta b'; m only if centered."""
    alpha, mean, buffer = hyper["alpha"], slots["grad_avg"], slots["momentum_buffer"]
    if hyper["maximize"]:
        grad = -grad
    if hyper["weight_decay"]:
        grad = grad.add(param, alpha=hyper["weight_decay"])
    square = (slots["square_avg"] * alpha).addcmul(grad, grad, value=1 - alpha)
    spread = square
    if hyper["centered"]:
        mean = mean.lerp(grad, 1 - alpha)
        spread = square.addcmul(mean, mean, value=-1)
    size = safe_sqrt(spread) + hyper["eps"]
    if hyper["momentum"] > 0:
        buffer = (buffer * hyper["momentum"]).addcdiv(grad, size)
        param = param.add(buffer, alpha=-hyper["lr"])
    else:
        param = param.addcdiv(grad, size, value=-hyper["lr"])
    return param, {"square_avg": square, "grad_avg": mean, "momentum_buffer": buffer}


RMSPROP = UpdateRule(
    name="RMSprop",
    slots=("square_avg", "grad_avg", "momentum_buffer"),
    hyper=("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
    update=update,
    effective_lr=lambda hyper: hyper["lr"] / max(1 - hyper["momentum"], 1e-12),
    write=write_counted,
    refused={k: v for k, v in INEXACT.items() if k != "fused"},
    stiff=lambda slots: slots["square_avg"] == 0,
)
