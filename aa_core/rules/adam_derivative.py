"""The derivative of Adam and AdamW written down: a fraction of the operations that autograd needs, on many at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import Many, ManySlots


class AdamDerivative(NamedTuple):
    """With s = eta / (1 - b1^t), c = sqrt(1 - b2^t), r = 1 / (sqrt(v') / c + eps) and w = s m' r:

    theta' = kept theta - w(m', v', t),  m' = b1 m + (1 - b1) g',  v' = b2 v + (1 - b2) g'^2,  g' = sign g + decay theta
    dw/dm' = s r,  dw/dv' = -(w r / sqrt(v')) / 2c,  dw/dt = w d ln(s c)/dt - w r eps d ln(c)/dt
    """

    r: Many
    wr_by_root: Many
    """w r / sqrt(v'); 0 where v' = 0."""
    in_count: Many
    """dw/dt."""
    grads: Many
    """g'."""
    s: float
    c: float
    beta1: float
    beta2: float
    sign: float
    decay: float
    kept: float

    def push(self, params: Many, grads: Many, slots: ManySlots, count: Tensor) -> tuple[Many, ManySlots]:
        grads = grads if self.sign == 1.0 else torch._foreach_mul(grads, self.sign)
        grads = torch._foreach_add(grads, params, alpha=self.decay) if self.decay else grads
        means = torch._foreach_mul(slots["exp_avg"], self.beta1)
        torch._foreach_add_(means, grads, alpha=1 - self.beta1)
        squares = torch._foreach_mul(slots["exp_avg_sq"], self.beta2)
        torch._foreach_add_(squares, torch._foreach_mul(grads, self.grads), alpha=2 * (1 - self.beta2))
        changes = torch._foreach_mul(params, self.kept)
        torch._foreach_addcmul_(changes, means, self.r, -self.s)
        torch._foreach_addcmul_(changes, squares, self.wr_by_root, 0.5 / self.c)
        ticks = [count.to(w.dtype).view(-1, *[1] * w.dim()) for w in self.in_count]
        torch._foreach_addcmul_(changes, ticks, self.in_count, -1)
        return changes, {"exp_avg": means, "exp_avg_sq": squares}

    def pull(self, params: Many, slots: ManySlots) -> tuple[Many, Many, ManySlots, Tensor]:
        means = torch._foreach_addcmul(slots["exp_avg"], params, self.r, -self.s)
        squares = torch._foreach_addcmul(slots["exp_avg_sq"], params, self.wr_by_root, 0.5 / self.c)
        grads = torch._foreach_mul(means, 1 - self.beta1)
        torch._foreach_addcmul_(grads, squares, self.grads, 2 * (1 - self.beta2))
        ticks = [a.reshape(len(a), w.numel()) @ w.flatten() for a, w in zip(params, self.in_count, strict=True)]
        count = -torch.stack([t.double() for t in ticks]).sum(0)
        params = torch._foreach_mul(params, self.kept) if self.kept != 1.0 else params
        if self.decay:
            params = torch._foreach_add(params, grads, alpha=self.decay)
        if self.sign != 1.0:
            torch._foreach_mul_(grads, self.sign)
        torch._foreach_mul_(means, self.beta1)
        torch._foreach_mul_(squares, self.beta2)
        return params, grads, {"exp_avg": means, "exp_avg_sq": squares}, count


def adam_derivative(params: Many, grads: Many, slots: ManySlots, count: float, hyper: Hyper) -> AdamDerivative:
    """Of `rules.adam.adam`; weight decay is part of the gradient."""
    return _derivative(params, grads, slots, count, hyper, decay=hyper["weight_decay"], kept=1.0)


def adamw_derivative(params: Many, grads: Many, slots: ManySlots, count: float, hyper: Hyper) -> AdamDerivative:
    """Of `rules.adam.adamw`; weight decay shrinks the parameter."""
    return _derivative(params, grads, slots, count, hyper, decay=0.0, kept=1 - hyper["lr"] * hyper["weight_decay"])


def _derivative(
    params: Many, grads: Many, slots: ManySlots, count: float, hyper: Hyper, *, decay: float, kept: float
) -> AdamDerivative:
    beta1, beta2, eps, sign = hyper["beta1"], hyper["beta2"], hyper["eps"], -1.0 if hyper["maximize"] else 1.0
    grads = grads if sign == 1.0 else torch._foreach_neg(grads)
    grads = torch._foreach_add(grads, params, alpha=decay) if decay else grads
    (first, s_slope), (second, c_slope) = _remaining(beta1, count), _remaining(beta2, count)
    s, c, s_slope, c_slope = hyper["lr"] / first, math.sqrt(second), -s_slope, c_slope / 2
    w = torch._foreach_lerp(slots["exp_avg"], grads, 1 - beta1)
    squares = torch._foreach_mul(slots["exp_avg_sq"], beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    roots = torch._foreach_sqrt(squares)
    r = torch._foreach_div(roots, c)
    torch._foreach_add_(r, eps)
    torch._foreach_reciprocal_(r)
    torch._foreach_mul_(w, r)
    torch._foreach_mul_(w, s)
    wr = torch._foreach_mul(w, r)
    kind = torch.finfo(squares[0].dtype)
    torch._foreach_clamp_min_(squares, kind.smallest_normal * kind.eps)
    torch._foreach_div_(roots, squares)  # 1 / root, or 0
    torch._foreach_mul_(roots, wr)
    torch._foreach_mul_(w, s_slope + c_slope)
    torch._foreach_add_(w, wr, alpha=-eps * c_slope)
    return AdamDerivative(r, roots, w, grads, s, c, beta1, beta2, sign, decay, kept)


def _remaining(beta: float, count: float) -> tuple[float, float]:
    """1 - beta^t, and d ln(1 - beta^t) / dt."""
    power = beta**count
    return 1 - power, -power * math.log(beta) / (1 - power) if power else 0.0
