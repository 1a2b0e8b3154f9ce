"""More optimizers as their papers (and torch's documentation) write them; see `tests.core.oracle`."""

from __future__ import annotations

import torch
from torch import Tensor

from aa_core.records import Hyper

Slots = dict[str, Tensor]
Stepped = tuple[Tensor, Slots]


def _coupled(p: Tensor, g: Tensor, h: Hyper) -> Tensor:
    return (-g if h["maximize"] else g) + h["weight_decay"] * p


def amsgrad(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    return _amsgrad_step(p, _coupled(p, g, h), slots, count, h)


def amsgradw(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    return _amsgrad_step(p - h["lr"] * h["weight_decay"] * p, -g if h["maximize"] else g, slots, count, h)


def _amsgrad_step(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    m = h["beta1"] * slots["exp_avg"] + (1 - h["beta1"]) * g
    v = h["beta2"] * slots["exp_avg_sq"] + (1 - h["beta2"]) * g * g
    largest = torch.where(v > slots["max_exp_avg_sq"], v, slots["max_exp_avg_sq"])
    m_hat, v_hat = m / (1 - h["beta1"] ** count), largest / (1 - h["beta2"] ** count)
    new = {"exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": largest}
    return p - h["lr"] * m_hat / (v_hat.sqrt() + h["eps"]), new


def rmsprop(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    g = _coupled(p, g, h)
    v = h["alpha"] * slots["square_avg"] + (1 - h["alpha"]) * g * g
    mean = h["alpha"] * slots["grad_avg"] + (1 - h["alpha"]) * g if h["centered"] else slots["grad_avg"]
    step = g / ((v - mean * mean if h["centered"] else v).sqrt() + h["eps"])
    buffer = h["momentum"] * slots["momentum_buffer"] + step if h["momentum"] else slots["momentum_buffer"]
    moved = buffer if h["momentum"] else step
    return p - h["lr"] * moved, {"square_avg": v, "grad_avg": mean, "momentum_buffer": buffer}


def adagrad(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    g = _coupled(p, g, h)
    total = slots["sum"] + g * g
    return p - h["lr"] / (1 + (count - 1) * h["lr_decay"]) * g / (total.sqrt() + h["eps"]), {"sum": total}


def adamax(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    g = _coupled(p, g, h)
    m = h["beta1"] * slots["exp_avg"] + (1 - h["beta1"]) * g
    kept, now = h["beta2"] * slots["exp_inf"], g * g.sign() + h["eps"]
    u = torch.where(kept > now, kept, now)
    return p - h["lr"] / (1 - h["beta1"] ** count) * m / u, {"exp_avg": m, "exp_inf": u}


def radam(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    if h["decoupled_weight_decay"]:
        p, g = p - h["lr"] * h["weight_decay"] * p, -g if h["maximize"] else g
    else:
        g = _coupled(p, g, h)
    m = h["beta1"] * slots["exp_avg"] + (1 - h["beta1"]) * g
    v = h["beta2"] * slots["exp_avg_sq"] + (1 - h["beta2"]) * g * g
    rho_inf = 2 / (1 - h["beta2"]) - 1
    rho = rho_inf - 2 * count * h["beta2"] ** count / (1 - h["beta2"] ** count)
    step = m / (1 - h["beta1"] ** count)
    if bool(rho.detach() > 5):
        r = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)).sqrt()
        step = step * r * (1 - h["beta2"] ** count).sqrt() / (v.sqrt() + h["eps"])
    return p - h["lr"] * step, {"exp_avg": m, "exp_avg_sq": v}


def lion(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    c = h["beta1"] * slots["exp_avg"] + (1 - h["beta1"]) * g
    step = torch.where(c.detach() > 0, 1.0, -1.0).to(p)
    new = p - h["lr"] * (step + h["weight_decay"] * p)
    return new, {"exp_avg": h["beta2"] * slots["exp_avg"] + (1 - h["beta2"]) * g}


def muon(p: Tensor, g: Tensor, slots: Slots, count: Tensor, h: Hyper) -> Stepped:
    """In exact arithmetic; torch rounds to bfloat16 inside."""
    mu, a, b, c = (h[n] for n in ("momentum", "ns_a", "ns_b", "ns_c"))
    v = mu * slots["momentum_buffer"] + (1 - mu) * g
    x = (1 - mu) * g + mu * v if h["nesterov"] else v
    x = x / x.square().sum().sqrt()
    for _ in range(int(h["ns_steps"])):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    rows, columns = p.shape
    scale = {0: max(1, rows / columns), 1: max(1, rows / columns), 2: 0.04 * max(rows, columns)}[h["adjust_lr_fn"]]
    return p - h["lr"] * h["weight_decay"] * p - h["lr"] * scale**0.5 * x, {"momentum_buffer": v}


UPDATES = {
    "Adam with amsgrad": amsgrad,
    "AdamW with amsgrad": amsgradw,
    "RMSprop": rmsprop,
    "Adagrad": adagrad,
    "Adamax": adamax,
    "RAdam": radam,
    "Lion": lion,
    "Muon": muon,
}
