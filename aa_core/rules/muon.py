"""Muon (Jordan et al. 2024) as torch.optim.Muon does it: momentum, orthogonalised. For matrices only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import Slots, UpdateRule, write_slots

LR_SCALES = (None, "original", "match_rms_adamw")
"""adjust_lr_fn; recorded as its place here. None is "original"."""


def _orthogonalised(matrix: Tensor, hyper: Hyper) -> Tensor:
    """Quintic Newton-Schulz: X <- a X + (b A + c A^2) X with A = X X^T, from G / ||G||; singular values go near 1."""
    a, b, c = hyper["ns_a"], hyper["ns_b"], hyper["ns_c"]
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=hyper["eps"])
    for _ in range(int(hyper["ns_steps"])):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _muon(param: Tensor, grad: Tensor, slots: Slots, hyper: Hyper, working: torch.dtype) -> tuple[Tensor, Slots]:
    """v' = lerp(v, g, 1 - mu), theta' = (1 - eta lam) theta - eta s O(v'), O taken in the dtype `working`."""
    buffer = slots["momentum_buffer"].lerp(grad, 1 - hyper["momentum"])
    direction = grad.lerp(buffer, hyper["momentum"]) if hyper["nesterov"] else buffer
    rows, columns = param.shape
    matched = LR_SCALES[int(hyper["adjust_lr_fn"])] == "match_rms_adamw"
    scale = 0.2 * math.sqrt(max(rows, columns)) if matched else math.sqrt(max(1, rows / columns))
    shrunk = param * (1 - hyper["lr"] * hyper["weight_decay"])
    step = _orthogonalised(direction.to(working), hyper)
    return shrunk.add(step, alpha=-(hyper["lr"] * scale)), {"momentum_buffer": buffer}


def update(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> tuple[Tensor, Slots]:
    """Muon as it is trained with: the iteration runs in bfloat16."""
    return _muon(param, grad, slots, hyper, torch.bfloat16)


def unrounded(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> tuple[Tensor, Slots]:
    """The same in the parameter's own precision: rounding to bfloat16 has steps, and no derivative."""
    return _muon(param, grad, slots, hyper, param.dtype)


def _read(group: Mapping[str, Any]) -> dict[str, Any]:
    coefficients = dict(zip(("ns_a", "ns_b", "ns_c"), group["ns_coefficients"], strict=True))
    return {**group, **coefficients, "adjust_lr_fn": LR_SCALES.index(group["adjust_lr_fn"])}


MUON = UpdateRule(
    name="Muon",
    slots=("momentum_buffer",),
    hyper=("lr", "momentum", "weight_decay", "nesterov", "eps", "ns_steps", "ns_a", "ns_b", "ns_c", "adjust_lr_fn"),
    update=update,
    write=write_slots,
    refused={},
    elementwise=False,
    read=_read,
    differentiated=unrounded,
    assumptions=("Muon orthogonalises in bfloat16; derivatives are those of the same iteration without its rounding",),
)
