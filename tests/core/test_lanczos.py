"""A function of a symmetric operator by products is that of its dense eigendecomposition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aa_core.lanczos import apply_function, extremes

FUNCTIONS = {
    "exp": lambda x: torch.exp(-x),
    "inverse": lambda x: 1 / (x + 1),
    "sign of the spectrum kept": lambda x: x**3,
}


def symmetric(values: Tensor) -> Tensor:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64)).Q
    return basis @ torch.diag(values) @ basis.T


def dense(matrix: Tensor, vectors: Tensor, function) -> Tensor:  # type: ignore[no-untyped-def]
    values, basis = torch.linalg.eigh(matrix)
    return vectors @ basis @ torch.diag(function(values)) @ basis.T


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_the_dense_function(name: str) -> None:
    matrix = symmetric(torch.linspace(-1.5, 4, 30, dtype=torch.float64))
    vectors = torch.randn(3, 30, dtype=torch.float64)
    found = apply_function(lambda v: v @ matrix, vectors, FUNCTIONS[name], tolerance=1e-12)
    torch.testing.assert_close(found.vectors, dense(matrix, vectors, FUNCTIONS[name]), rtol=1e-9, atol=1e-9)
    assert found.change <= 1e-12


def test_a_wide_spectrum_takes_fewer_products_than_there_are_dimensions() -> None:
    matrix = symmetric(torch.logspace(-3, 2, 300, dtype=torch.float64))
    vectors = torch.randn(2, 300, dtype=torch.float64)
    found = apply_function(lambda v: v @ matrix, vectors, FUNCTIONS["exp"], tolerance=1e-9)
    torch.testing.assert_close(found.vectors, dense(matrix, vectors, FUNCTIONS["exp"]), rtol=0, atol=1e-7)
    assert found.iterations < 100


def test_few_distinct_eigenvalues_end_it_early_and_break_nothing() -> None:
    matrix = symmetric(torch.tensor([0.0] * 15 + [2.0] * 5, dtype=torch.float64))
    vectors = torch.cat([torch.randn(2, 20, dtype=torch.float64), torch.zeros(1, 20, dtype=torch.float64)])
    found = apply_function(lambda v: v @ matrix, vectors, FUNCTIONS["exp"], tolerance=1e-12)
    torch.testing.assert_close(found.vectors, dense(matrix, vectors, FUNCTIONS["exp"]), rtol=1e-12, atol=1e-12)
    assert found.iterations <= 10 and not bool(found.vectors[2].any())


def test_the_limit_ends_it_and_what_was_reached_is_said() -> None:
    matrix = symmetric(torch.logspace(-3, 2, 200, dtype=torch.float64))
    found = apply_function(
        lambda v: v @ matrix, torch.ones(1, 200, dtype=torch.float64), FUNCTIONS["exp"], tolerance=1e-12, limit=12
    )
    assert found.iterations == 12 and found.change > 1e-12


def test_single_precision_stays_single() -> None:
    matrix = symmetric(torch.linspace(0, 4, 30, dtype=torch.float64))
    vectors = torch.randn(2, 30)
    found = apply_function(lambda v: v @ matrix.float(), vectors, FUNCTIONS["exp"], tolerance=1e-4)
    assert found.vectors.dtype == torch.float32
    torch.testing.assert_close(
        found.vectors.double(), dense(matrix, vectors.double(), FUNCTIONS["exp"]), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("values", [[-3.0, -1.0, 0.0, 0.5, 2.0], [0.0] * 4, [1.0] * 6, [-2.0]])
def test_the_ends_of_a_small_spectrum_are_exact(values: list[float]) -> None:
    matrix = symmetric(torch.tensor(values, dtype=torch.float64))
    low, high = extremes(lambda v: matrix @ v, torch.randn(len(values), dtype=torch.float64))
    assert low == pytest.approx(min(values), abs=1e-12) and high == pytest.approx(max(values), abs=1e-12)


def test_the_ends_of_a_large_spectrum_are_approached_from_inside() -> None:
    matrix = symmetric(torch.cat([torch.tensor([-2.0, 9.0]), torch.linspace(0, 1, 200)]).double())
    low, high = extremes(lambda v: matrix @ v, torch.randn(202, dtype=torch.float64), 12)
    assert -2.0 - 1e-9 <= low < -1.99 and 8.99 < high <= 9.0 + 1e-9
