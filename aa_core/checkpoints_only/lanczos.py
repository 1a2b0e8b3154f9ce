"""What a symmetric operator does to vectors, from products alone: its flow exp(-A), and its extreme eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

EVERY = 5
"""Iterations between two looks at the error."""
EARLIEST, MOMENTS = -12.0, 240
"""The residual is looked at so often between 10^EARLIEST and 1, evenly in the logarithm of time."""


class Applied(NamedTuple):
    """f(A) v for each row v."""

    vectors: Tensor
    """[R, n]."""
    error: float
    """Bound on the error of a row, relative to the norm of v; the worst row."""
    iterations: int


def apply_flow(
    product: Callable[[Tensor], Tensor],
    vectors: Tensor,
    function: Callable[[Tensor], Tensor],
    *,
    tolerance: float = 1e-5,
    limit: int = 300,
) -> Applied:
    """f(A) v = |v| Q f(T) e_1 with A Q = Q T + ..., the Lanczos relation, for all rows of `vectors` side by side.

    f is exp(-x), or an average of exp(-t x) over 0 <= t <= 1. With A positive semidefinite the error is at most the
    integral over 0 <= t <= 1 of the residual |v| beta_m |e_m^T exp(-t T) e_1|, since the flow contracts what was
    neglected. That two results agree would say nothing: both may have missed the small eigenvalues.

    Args:
        product: [R, n] -> [R, n], A applied to every row.
        function: f on a tensor of eigenvalues.
        tolerance: stop when the bound is below it, or at `limit` iterations; `error` says what was reached.

    Cost: one product and two passes over the basis an iteration; the basis holds one [R, n] an iteration.
    """
    size = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    basis, diagonal, beside = [_divided(vectors, size)], list[Tensor](), list[Tensor]()
    error, count = torch.inf, 0
    while error > tolerance and count < limit:
        count += 1
        pushed = product(basis[-1])
        diagonal.append(_dot(pushed, basis[-1]))
        for _ in range(2):  # twice is enough: the basis stays orthogonal to rounding
            for vector in basis:
                pushed = pushed - _dot(pushed, vector)[:, None].to(pushed) * vector
        rest = torch.linalg.vector_norm(pushed, dim=1, dtype=torch.float64)
        floor = 10 * torch.finfo(pushed.dtype).eps * torch.stack(diagonal).abs().amax(0)
        beside.append(torch.where(rest > floor, rest, 0.0))
        basis.append(_divided(pushed, beside[-1]))
        if count % EVERY == 0 or count == limit:
            lost = beside[-1] * _lost(*torch.linalg.eigh(_tridiagonal(diagonal, beside[:-1])))
            error = float(lost.max()) if len(vectors) else 0.0
    values, rotation = torch.linalg.eigh(_tridiagonal(diagonal, beside[:-1]))
    column = torch.einsum("rij,rj,rj->ri", rotation, function(values), rotation[:, 0])
    result = torch.zeros_like(vectors)
    for weight, vector in zip(column.T, basis, strict=False):
        result = result + (weight * size)[:, None].to(vectors) * vector
    return Applied(result, error, count)


def _tridiagonal(diagonal: list[Tensor], beside: list[Tensor]) -> Tensor:
    """T, [R, m, m]."""
    matrix = torch.diag_embed(torch.stack(diagonal, 1))
    for offset in (1, -1) if beside else ():
        matrix = matrix + torch.diag_embed(torch.stack(beside, 1), offset)
    return matrix


def _lost(values: Tensor, rotation: Tensor) -> Tensor:
    """Integral over 0 <= t <= 1 of |e_m^T exp(-t T) e_1|, [R]."""
    times = torch.logspace(EARLIEST, 0, MOMENTS, dtype=values.dtype, device=values.device)
    through = (rotation[:, -1] * rotation[:, 0])[:, None] * torch.exp(-times[:, None] * values[:, None])
    return torch.trapezoid(through.sum(2).abs(), times, dim=1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum(1)


def _divided(vectors: Tensor, by: Tensor) -> Tensor:
    """Each row by its number; zero where that is zero."""
    return torch.where(by > 0, 1 / by, 0.0)[:, None].to(vectors) * vectors


def extremes(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 15) -> tuple[float, float]:
    """(smallest, largest) eigenvalue of A as far as `iterations` products from `start`, [n], tell; both lie inside A's.

    product: [n] -> [n]; A symmetric.
    """
    basis, diagonal, beside = [start / start.norm()], list[Tensor](), list[Tensor]()
    for _ in range(min(iterations, len(start))):
        pushed = product(basis[-1])
        diagonal.append(pushed @ basis[-1])
        for _ in range(2):
            for vector in basis:
                pushed = pushed - (pushed @ vector) * vector
        rest = pushed.norm()
        if rest <= len(start) * torch.finfo(pushed.dtype).eps * torch.stack(diagonal).abs().max():
            break
        beside.append(rest)
        basis.append(pushed / rest)
    edge = torch.stack(beside[: len(diagonal) - 1]) if len(diagonal) > 1 else diagonal[0].new_zeros(0)
    values = torch.linalg.eigvalsh(torch.diag(torch.stack(diagonal)) + torch.diag(edge, 1) + torch.diag(edge, -1))
    return float(values[0]), float(values[-1])
