"""A function of a symmetric operator, applied to vectors by products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

EVERY = 5
"""Iterations between two looks at the result."""


class Applied(NamedTuple):
    """f(A) v for each row v."""

    vectors: Tensor
    """[R, n]."""
    change: float
    """How much the last iterations still changed it, relative to the norm of v; the worst row."""
    iterations: int


def apply_function(
    product: Callable[[Tensor], Tensor],
    vectors: Tensor,
    function: Callable[[Tensor], Tensor],
    *,
    tolerance: float = 1e-6,
    limit: int = 200,
) -> Applied:
    """f(A) v = |v| Q f(T) e_1 with A Q = Q T + ..., the Lanczos relation, for all rows of `vectors` side by side.

    Args:
        product: [R, n] -> [R, n], A applied to every row; A symmetric.
        function: f on a tensor of eigenvalues.
        tolerance: stop when EVERY iterations change the result by less, relative to |v|.
        limit: iterations at most; `change` says what was reached.

    Cost: one product and two passes over the basis an iteration; the basis holds one [R, n] an iteration.
    """
    size = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    basis, diagonal, beside = [_divided(vectors, size)], list[Tensor](), list[Tensor]()
    before, change = size.new_zeros((len(vectors), 0)), torch.inf
    for count in range(1, limit + 1):
        pushed = product(basis[-1])
        diagonal.append(_dot(pushed, basis[-1]))
        if count % EVERY == 0 or count == limit:
            now = _first_column(diagonal, beside, function)
            change = float(torch.linalg.vector_norm(now - _padded(before, count), dim=1).max()) if len(now) else 0.0
            before = now
            if change <= tolerance:
                break
        for _ in range(2):  # twice is enough: the basis stays orthogonal to rounding
            for vector in basis:
                pushed = pushed - _dot(pushed, vector)[:, None].to(pushed) * vector
        rest = torch.linalg.vector_norm(pushed, dim=1, dtype=torch.float64)
        floor = torch.finfo(pushed.dtype).eps * torch.stack(diagonal).abs().amax(0)
        beside.append(torch.where(rest > floor, rest, 0.0))
        basis.append(_divided(pushed, beside[-1]))
    result = torch.zeros_like(vectors)
    for weight, vector in zip(before.T, basis, strict=False):
        result = result + (weight * size)[:, None].to(vectors) * vector
    return Applied(result, change, count)


def _first_column(diagonal: list[Tensor], beside: list[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """f(T) e_1, [R, m]."""
    tridiagonal = torch.diag_embed(torch.stack(diagonal, 1))
    if beside:
        edge = torch.stack(beside, 1)
        tridiagonal = tridiagonal + torch.diag_embed(edge, 1) + torch.diag_embed(edge, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return torch.einsum("rij,rj,rj->ri", vectors, function(values), vectors[:, 0])


def _padded(column: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(column, (0, length - column.shape[1]))


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
