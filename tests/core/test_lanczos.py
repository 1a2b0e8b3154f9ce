"""The flow of a symmetric operator by products is that of its dense eigendecomposition, within a bound that holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aa_core.checkpoints_only.lanczos import apply_flow, extremes

FUNCTIONS = {
    "flow": lambda x: torch.exp(-x),
    "mean of the flow": lambda x: -torch.expm1(-x) / x,
    "shrunk": lambda x: torch.exp(-x - 0.3),
}


def symmetric(values: Tensor) -> Tensor:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64)).Q
    return basis @ torch.diag(values) @ basis.T


def dense(matrix: Tensor, vectors: Tensor, function) -> Tensor:  # type: ignore[no-untyped-def]
    values, basis = torch.linalg.eigh(matrix)
    return vectors @ basis @ torch.diag(function(values)) @ basis.T


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("widest", [1.0, 30.0, 1000.0])
def test_it_is_the_dense_function_within_its_bound(name: str, widest: float) -> None:
    matrix = symmetric(torch.logspace(-3, 0, 300, dtype=torch.float64) * widest)
    vectors = torch.randn(3, 300, dtype=torch.float64)
    for tolerance in (1e-3, 1e-9):
        found = apply_flow(lambda v: v @ matrix, vectors, FUNCTIONS[name], tolerance=tolerance)
        error = (found.vectors - dense(matrix, vectors, FUNCTIONS[name])).norm(dim=1) / vectors.norm(dim=1)
        assert float(error.max()) <= found.error + 1e-12 and found.error <= tolerance
        assert found.iterations < 160


def test_few_distinct_eigenvalues_end_it_early_and_break_nothing() -> None:
    matrix = symmetric(torch.tensor([0.0] * 15 + [2.0] * 5, dtype=torch.float64))
    vectors = torch.cat([torch.randn(2, 20, dtype=torch.float64), torch.zeros(1, 20, dtype=torch.float64)])
    found = apply_flow(lambda v: v @ matrix, vectors, FUNCTIONS["flow"], tolerance=1e-12)
    torch.testing.assert_close(found.vectors, dense(matrix, vectors, FUNCTIONS["flow"]), rtol=1e-12, atol=1e-12)
    assert found.iterations <= 10 and not bool(found.vectors[2].any())


@pytest.mark.parametrize("power", [4, 6, 9])
def test_small_eigenvalues_that_were_missed_are_not_taken_for_convergence(power: int) -> None:
    spectrum = torch.logspace(-3, power, 3000, dtype=torch.float64)
    start = torch.ones(1, 3000, dtype=torch.float64)
    found = apply_flow(lambda v: v * spectrum, start, FUNCTIONS["flow"], tolerance=1e-4, limit=40)
    error = float((found.vectors - torch.exp(-spectrum)).norm() / start.norm())
    assert found.iterations == 40 and 0.01 < error <= found.error


def test_single_precision_stays_single() -> None:
    matrix = symmetric(torch.linspace(0.01, 4, 30, dtype=torch.float64))
    vectors = torch.randn(2, 30)
    found = apply_flow(lambda v: v @ matrix.float(), vectors, FUNCTIONS["flow"], tolerance=1e-4)
    assert found.vectors.dtype == torch.float32 and found.error <= 1e-4
    expected = dense(matrix, vectors.double(), FUNCTIONS["flow"])
    torch.testing.assert_close(found.vectors.double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("values", [[-3.0, -1.0, 0.0, 0.5, 2.0], [0.0] * 4, [1.0] * 6, [-2.0]])
def test_the_ends_of_a_small_spectrum_are_exact(values: list[float]) -> None:
    matrix = symmetric(torch.tensor(values, dtype=torch.float64))
    low, high = extremes(lambda v: matrix @ v, torch.randn(len(values), dtype=torch.float64))
    assert low == pytest.approx(min(values), abs=1e-12) and high == pytest.approx(max(values), abs=1e-12)


def test_the_ends_of_a_large_spectrum_are_approached_from_inside() -> None:
    matrix = symmetric(torch.cat([torch.tensor([-2.0, 9.0]), torch.linspace(0, 1, 200)]).double())
    low, high = extremes(lambda v: matrix @ v, torch.randn(202, dtype=torch.float64), 12)
    assert -2.0 - 1e-9 <= low < -1.99 and 8.99 < high <= 9.0 + 1e-9
