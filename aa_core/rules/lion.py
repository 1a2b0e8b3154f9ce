"""Lion (Chen et al. 2023): steps by the sign of a momentum. torch has none; register the class that you train with."""

from __future__ import annotations

from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import Slots, UpdateRule


def update(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> tuple[Tensor, Slots]:
    """theta' = (1 - eta lam) theta - eta sign(b1 m + (1 - b1) g), m' = b2 m + (1 - b2) g."""
    beta1, beta2, mean = hyper["beta1"], hyper["beta2"], slots["exp_avg"]
    direction = (mean * beta1).add(grad, alpha=1 - beta1).sign()
    shrunk = param * (1 - hyper["lr"] * hyper["weight_decay"])
    return shrunk.add(direction, alpha=-hyper["lr"]), {"exp_avg": (mean * beta2).add(grad, alpha=1 - beta2)}


LION = UpdateRule(
    name="Lion",
    slots=("exp_avg",),
    hyper=("lr", "beta1", "beta2", "weight_decay"),
    update=update,
    refused={},
    blind="sign updates react to the data only where a sign flips: first order sees nothing of the gradient",
)
