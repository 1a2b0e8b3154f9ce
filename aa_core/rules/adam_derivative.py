"""The derivative of Adam and AdamW written down: a fraction of the operations that autograd needs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import Slots


class AdamDerivative(NamedTuple):
    """With s = eta / (1 - b1^t), c = sqrt(1 - b2^t), r = 1 / (sqrt(v') / c + eps) and w = s m' r:

    theta' = kept theta - w(m', v', t),  m' = b1 m + (1 - b1) g',  v' = b2 v + (1 - b2) g'^2,  g' = sign g + decay theta
    dw/dm' = s r,  dw/dv' = -(w r / sqrt(v')) / 2c,  dw/dt = slope w - bend w r
    """

    r: Tensor
    w: Tensor
    wr: Tensor
    wr_by_root: Tensor
    """w r / sqrt(v'); 0 where v' = 0."""
    grad: Tensor
    """g'."""
    s: float
    c: float
    slope: float
    """d ln(s c) / dt."""
    bend: float
    """eps d ln(c) / dt."""
    beta1: float
    beta2: float
    sign: float
    decay: float
    kept: float

    def push(self, param: Tensor, grad: Tensor, slots: Slots, count: Tensor) -> tuple[Tensor, Slots]:
        grad = grad if self.sign == 1.0 else grad * self.sign
        grad = grad.add(param, alpha=self.decay) if self.decay else grad
        mean = (slots["exp_avg"] * self.beta1).add_(grad, alpha=1 - self.beta1)
        square = (slots["exp_avg_sq"] * self.beta2).add_((self.grad * grad).mul_(2 * (1 - self.beta2)))
        ticks = count.to(param.dtype).reshape(-1, *[1] * (param.dim() - 1))
        in_count = (self.w * self.slope).sub_(self.wr, alpha=self.bend)
        change = (param * self.kept).addcmul_(self.r, mean, value=-self.s)
        change.addcmul_(self.wr_by_root, square, value=0.5 / self.c).addcmul_(in_count, ticks, value=-1)
        return change, {"exp_avg": mean, "exp_avg_sq": square}

    def pull(self, param: Tensor, slots: Slots) -> tuple[Tensor, Tensor, Slots, Tensor]:
        mean = slots["exp_avg"].addcmul(param, self.r, value=-self.s)
        square = slots["exp_avg_sq"].addcmul(param, self.wr_by_root, value=0.5 / self.c)
        grad = (mean * (1 - self.beta1)).addcmul_(square, self.grad, value=2 * (1 - self.beta2))
        along, bent = (param.flatten(1) @ t.flatten() for t in (self.w, self.wr))
        count = bent.double() * self.bend - along.double() * self.slope
        param = param * self.kept if self.kept != 1.0 else param
        if self.decay:
            param = param.add(grad, alpha=self.decay)
        made = {"exp_avg": mean.mul_(self.beta1), "exp_avg_sq": square.mul_(self.beta2)}
        return param, grad if self.sign == 1.0 else grad.mul_(self.sign), made, count


def adam_derivative(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> AdamDerivative:
    """Of `rules.adam.adam`; weight decay is part of the gradient."""
    return _derivative(param, grad, slots, float(count), hyper, decay=hyper["weight_decay"], kept=1.0)


def adamw_derivative(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> AdamDerivative:
    """Of `rules.adam.adamw`; weight decay shrinks the parameter."""
    return _derivative(param, grad, slots, float(count), hyper, decay=0.0, kept=1 - hyper["lr"] * hyper["weight_decay"])


def _derivative(
    param: Tensor, grad: Tensor, slots: Slots, count: float, hyper: Hyper, *, decay: float, kept: float
) -> AdamDerivative:
    beta1, beta2, eps, sign = hyper["beta1"], hyper["beta2"], hyper["eps"], -1.0 if hyper["maximize"] else 1.0
    grad = grad if sign == 1.0 else -grad
    grad = grad.add(param, alpha=decay) if decay else grad
    (first, s_slope), (second, c_slope) = _remaining(beta1, count), _remaining(beta2, count)
    s, c, s_slope, c_slope = hyper["lr"] / first, math.sqrt(second), -s_slope, c_slope / 2
    mean = slots["exp_avg"].lerp(grad, 1 - beta1)
    square = (slots["exp_avg_sq"] * beta2).addcmul_(grad, grad, value=1 - beta2)
    root = square.sqrt()
    r = (root / c).add_(eps).reciprocal_()
    w = mean.mul_(r).mul_(s)
    wr = w * r
    smallest = torch.finfo(square.dtype).smallest_normal * torch.finfo(square.dtype).eps
    wr_by_root = root.div_(square.clamp_min_(smallest)).mul_(wr)  # root / square = 1 / root, or 0
    slope, bend = s_slope + c_slope, eps * c_slope
    return AdamDerivative(r, w, wr, wr_by_root, grad, s, c, slope, bend, beta1, beta2, sign, decay, kept)


def _remaining(beta: float, count: float) -> tuple[float, float]:
    """1 - beta^t, and d ln(1 - beta^t) / dt."""
    power = beta**count
    return 1 - power, -power * math.log(beta) / (1 - power) if power else 0.0
