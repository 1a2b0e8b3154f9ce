"""Agreement of an estimate with the truth, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import aa_core as aa

TRUTH = np.array([1.0, -2.0, 3.0, 4.0])


def test_each_figure_by_hand() -> None:
    found = aa.agreement(np.array([2.0, -4.0, 6.0, -1.0]), TRUTH)
    assert found.n == 4
    assert found.sign == 0.75
    assert found.relative_error == pytest.approx((1 + 2 + 3 + 5) / 10)
    exact = aa.agreement(2 * TRUTH, TRUTH)
    assert exact[1:] == pytest.approx((1, 1, 1, 0.5, 1))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["estimate", "truth"])
def test_what_is_not_finite_does_not_pass_for_the_rest(broken: float, where: str) -> None:
    other = TRUTH.copy()
    other[1] = broken
    pair = (other, TRUTH) if where == "estimate" else (TRUTH, other)
    found = aa.agreement(*pair)
    assert found.n == 4 and all(map(math.isnan, found[1:]))
