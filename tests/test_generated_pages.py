"""Pages of figures are those that are written from the stored figures."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as digits_shift
from benchmarks import gpu_page, load, performance, scale_page
from benchmarks.growth_picture import curves


@pytest.mark.parametrize(
    "measured", [digits_shift, performance, load, gpu_page], ids=["benchmarks", "performance", "load", "gpu"]
)
def test_a_page_is_that_of_its_figures(measured: object) -> None:
    results, page, write = (getattr(measured, name) for name in ("RESULTS", "PAGE", "page"))
    assert page.read_text() == write(json.loads(results.read_text()))


def test_the_picture_of_growth_is_that_of_its_figures() -> None:
    figures = json.loads(performance.RESULTS.read_text())["growth"]["figures"]
    assert performance.PICTURE.read_text() == curves(figures)


def test_the_cost_of_a_large_model_is_reckoned_from_what_was_measured() -> None:
    assert scale_page.PAGE.read_text() == scale_page.page()
