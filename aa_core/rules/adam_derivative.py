"""The derivative of Adam and AdamW written down: a fraction of the operations that autograd needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aa_core.records import Hyper
from aa_core.rules.base import Slots


class AdamDerivative(NamedTuple):
    """With u = -s m' / (sqrt(v') / c + eps), s = eta / (1 - b1^t), c = sqrt(1 - b2^t):

    theta' = kept theta + u(m', v', t),  m' = b1 m + (1 - b1) g',  v' = b2 v + (1 - b2) g'^2,  g' = sign g + decay theta
    """

    in_mean: Tensor
    """du / dm'."""
    in_square: Tensor
    """du / dv'; 0 where v' = 0."""
    in_count: Tensor
    """du / dt."""
    grad: Tensor
    """g'."""
    beta1: float
    beta2: float
    sign: float
    decay: float
    kept: float

    def push(self, param: Tensor, grad: Tensor, slots: Slots, count: Tensor) -> tuple[Tensor, Slots]:
        grad = self._signed(grad, param)
        mean = (slots["exp_avg"] * self.beta1).add_(grad, alpha=1 - self.beta1)
        square = (slots["exp_avg_sq"] * self.beta2).add_((self.grad * grad).mul_(2 * (1 - self.beta2)))
        change = (self.in_mean * mean).addcmul_(self.in_square, square).add_(self.in_count * _column(count, param))
        return change.add_(param, alpha=self.kept), {"exp_avg": mean, "exp_avg_sq": square}

    def pull(self, param: Tensor, slots: Slots) -> tuple[Tensor, Tensor, Slots, Tensor]:
        mean = slots["exp_avg"].addcmul(param, self.in_mean)
        square = slots["exp_avg_sq"].addcmul(param, self.in_square)
        grad = (mean * (1 - self.beta1)).addcmul_(square, self.grad, value=2 * (1 - self.beta2))
        count = (param.flatten(1) @ self.in_count.flatten()).double()
        param = param * self.kept if self.kept != 1.0 else param
        if self.decay:
            param = param.add(grad, alpha=self.decay)
        made = {"exp_avg": mean.mul_(self.beta1), "exp_avg_sq": square.mul_(self.beta2)}
        return param, grad if self.sign == 1.0 else grad.mul_(self.sign), made, count

    def _signed(self, grad: Tensor, param: Tensor) -> Tensor:
        grad = grad if self.sign == 1.0 else grad * self.sign
        return grad.add(param, alpha=self.decay) if self.decay else grad


def _column(count: Tensor, like: Tensor) -> Tensor:
    """[R] beside [R, ...], in its dtype."""
    return count.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))


def adam_derivative(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> AdamDerivative:
    """Of `rules.adam.adam`; weight decay is part of the gradient."""
    return _derivative(param, grad, slots, count, hyper, decay=hyper["weight_decay"], kept=1.0)


def adamw_derivative(param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper) -> AdamDerivative:
    """Of `rules.adam.adamw`; weight decay shrinks the parameter."""
    return _derivative(param, grad, slots, count, hyper, decay=0.0, kept=1 - hyper["lr"] * hyper["weight_decay"])


def _derivative(
    param: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper, *, decay: float, kept: float
) -> AdamDerivative:
    """With r = 1 / (sqrt(v') / c + eps), u = -s m' r:

    du/dm' = -s r,  du/dv' = -u r / (2 c sqrt(v')),  du/dt = u (d ln s / dt + (1 - eps r) d ln c / dt).
    """
    beta1, beta2, eps, sign = hyper["beta1"], hyper["beta2"], hyper["eps"], -1.0 if hyper["maximize"] else 1.0
    grad = grad if sign == 1.0 else -grad
    grad = grad.add(param, alpha=decay) if decay else grad
    (first, s_slope), (second, c_slope) = _remaining(beta1, count), _remaining(beta2, count)
    s, c, c_slope = hyper["lr"] / first, second.sqrt(), -c_slope / 2
    mean = slots["exp_avg"].lerp(grad, 1 - beta1)
    square = (slots["exp_avg_sq"] * beta2).addcmul_(grad, grad, value=1 - beta2)
    root = square.sqrt()
    r = (root / c).add_(eps).reciprocal_()
    u = mean.mul_(r).mul_(-s)
    smallest = torch.finfo(square.dtype).smallest_normal * torch.finfo(square.dtype).eps
    in_square = root.div_(square.clamp_min_(smallest)).mul_(u).mul_(r).mul_(-0.5 / c)  # root / square = 1 / root, or 0
    in_count = (r * (-eps * c_slope)).add_(s_slope + c_slope).mul_(u)
    return AdamDerivative(r.mul_(-s), in_square, in_count, grad, beta1, beta2, sign, decay, kept)


def _remaining(beta: float, count: Tensor) -> tuple[Tensor, Tensor]:
    """1 - beta^t, and -d ln(1 - beta^t) / dt = beta^t ln(beta) / (1 - beta^t)."""
    power = torch.pow(beta, count)
    return 1 - power, torch.xlogy(power, torch.full_like(power, beta)) / (1 - power)
