"""Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019) as torch.optim does them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.adam_derivative import adam_derivative, adamw_derivative
from aa_core.rules.base import INEXACT, Many, Slots, UpdateRule, write_counted
from aa_core.rules.numerics import safe_sqrt

Root = Callable[[Tensor], Tensor]


def _moments_step(
    param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper, root: Root
) -> tuple[Tensor, Slots]:
    """m' = lerp(m, g, 1 - b1), v' = b2 v + (1 - b2) g^2, theta' = theta - eta m^ / (sqrt(v^) + eps).

    With amsgrad the largest v so far stands in the place of v^.
    """
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    mean = slots["exp_avg"].lerp(grad, 1 - beta1)
    square = (slots["exp_avg_sq"] * beta2).addcmul(grad, grad, value=1 - beta2)
    # A Python number divided by a tensor, or Tensor.sqrt, would round differently from torch.optim's Python floats.
    step_size = torch.full_like(count, hyper["lr"]) / (1 - torch.pow(beta1, count))
    correction = torch.pow(1 - torch.pow(beta2, count), torch.full_like(count, 0.5))
    if not param.dim():  # two scalars would be computed in the wider type
        step_size, correction = step_size.to(param.dtype), correction.to(param.dtype)
    made = {"exp_avg": mean, "exp_avg_sq": square}
    if "max_exp_avg_sq" in slots:
        made["max_exp_avg_sq"] = square = torch.maximum(slots["max_exp_avg_sq"], square)
    denominator = (root(square) / correction).add_(hyper["eps"])
    return (mean * -step_size).div_(denominator).add_(param), made


def adam(
    param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper, root: Root = Tensor.sqrt
) -> tuple[Tensor, Slots]:
    """Adam; weight decay is added to the gradient."""
    if hyper["maximize"]:
        grad = -grad
    if hyper["weight_decay"]:
        grad = grad.add(param, alpha=hyper["weight_decay"])
    return _moments_step(param, grad, slots, count, hyper, root)


def adamw(
    param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper, root: Root = Tensor.sqrt
) -> tuple[Tensor, Slots]:
    """AdamW; weight decay shrinks the parameter before the update."""
    if hyper["maximize"]:
        grad = -grad
    if hyper["weight_decay"]:
        param = param * (1 - hyper["lr"] * hyper["weight_decay"])
    return _moments_step(param, grad, slots, count, hyper, root)


def foreach(
    params: Many, grads: Many, slots: Mapping[str, Many], count: float, hyper: Hyper, *, decoupled: bool
) -> tuple[Many, dict[str, Many]]:
    """Adam, or AdamW with decoupled weight decay, in the operations and the order of torch.optim's foreach form."""
    beta1, beta2, decay = hyper["beta1"], hyper["beta2"], hyper["weight_decay"]
    if hyper["maximize"]:
        grads = torch._foreach_neg(grads)
    if decay and decoupled:
        params = torch._foreach_mul(params, 1 - hyper["lr"] * decay)
    elif decay:
        grads = torch._foreach_add(grads, params, alpha=decay)
    squares = torch._foreach_mul(slots["exp_avg_sq"], beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    made: dict[str, Many] = {"exp_avg": torch._foreach_lerp(slots["exp_avg"], grads, 1 - beta1), "exp_avg_sq": squares}
    if "max_exp_avg_sq" in slots:
        made["max_exp_avg_sq"] = squares = torch._foreach_maximum(slots["max_exp_avg_sq"], squares)
    denominators = torch._foreach_sqrt(squares)
    torch._foreach_div_(denominators, [(1 - beta2**count) ** 0.5] * len(params))
    torch._foreach_add_(denominators, hyper["eps"])
    step_sizes = [-(hyper["lr"] / (1 - beta1**count))] * len(params)
    return torch._foreach_addcdiv(params, made["exp_avg"], denominators, step_sizes), made


ADAM = UpdateRule(
    name="Adam",
    slots=("exp_avg", "exp_avg_sq"),
    hyper=("lr", "beta1", "beta2", "eps", "weight_decay", "maximize"),
    update=adam,
    write=write_counted,
    refused={
        **INEXACT,
        "decoupled_weight_decay": "build torch.optim.AdamW, which is the same, without decoupled_weight_decay=True",
    },
    stiff=lambda slots: slots["exp_avg_sq"] == 0,
    foreach=partial(foreach, decoupled=False),
    derivative=adam_derivative,
)
ADAMW = replace(
    ADAM,
    name="AdamW",
    update=adamw,
    foreach=partial(foreach, decoupled=True),
    derivative=adamw_derivative,
    refused=INEXACT,
)
AMSGRAD = {
    rule.name: replace(
        rule,
        name=f"{rule.name} with amsgrad",
        slots=(*rule.slots, "max_exp_avg_sq"),
        differentiated=partial(update, root=safe_sqrt),
        derivative=None,
        stiff=lambda slots: slots["max_exp_avg_sq"] == 0,
    )
    for rule, update in ((ADAM, adam), (ADAMW, adamw))
}
"""By the name of the rule without it: one more slot, the largest second moment so far (Reddi et al. 2018)."""
