"""What is said of results from checkpoints is what was measured, and the page that says so does what it prints."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

import aa_core as aa
from aa_core.checkpoints_only.segments import SegmentCurvature
from aa_core.confidence.verdict import (
    SEGMENT_MOVED_LIMITS,
    SEGMENT_SPREAD_LIMITS,
    SEGMENT_TRIED,
    SEGMENTS,
    judge_readouts,
)
from aa_core.effects.embedding import READOUTS
from benchmarks import checkpoints_page, reliability_fit, reliability_page
from tests import zoo

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "checkpoints-only.md"


@cache
def measured() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "checkpoints-only.json").read_text())


def test_the_limits_are_those_fitted_on_one_half_and_tried_on_the_other() -> None:
    runs = measured()["runs"]
    assert reliability_fit.fit_spread(runs) == SEGMENT_SPREAD_LIMITS
    assert reliability_fit.fit_moved(runs, SEGMENT_SPREAD_LIMITS) == SEGMENT_MOVED_LIMITS
    assert reliability_fit.by_sweep(runs, reliability_page.judge) == SEGMENT_TRIED


def test_every_estimator_has_limits_that_rise() -> None:
    assert set(SEGMENT_SPREAD_LIMITS) == set(product([SEGMENTS], get_args(SegmentCurvature), READOUTS))
    assert all(a <= b for limits in SEGMENT_SPREAD_LIMITS.values() for a, b in pairwise(limits))


def test_a_verdict_follows_its_limits() -> None:
    for estimator, limits in SEGMENT_SPREAD_LIMITS.items():
        for spread, trust in zip(limits, ("size", "rank", "sign"), strict=True):
            said = judge_readouts(estimator, spread, 1.0, 0.0).trust
            assert spread == 0 or reliability_page.LADDER.index(said) <= reliability_page.LADDER.index(trust)
        assert judge_readouts(estimator, max(limits) * 1.01 + 0.01, 1.0, 0.0).trust == "nothing"
        assert judge_readouts(estimator, 0.0, 0.9, 0.0).trust == "nothing"


def test_the_page_is_that_of_the_figures() -> None:
    assert PAGE.read_text() == checkpoints_page.page(measured())


def test_the_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    torch.manual_seed(0)
    model = zoo.mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    names: dict[str, Any] = {"model": model, "loss_fn": nn.functional.cross_entropy}
    names["initial_state"] = {n: t.clone() for n, t in model.state_dict().items()}
    for stage in (1, 2):
        x, y = zoo.examples(20, seed=stage, dtype=torch.float32)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        names |= {f"state_{stage}": {n: t.clone() for n, t in model.state_dict().items()}, f"x_{stage}": x}
        names |= {f"optimizer_{stage}": optimizer.state_dict(), f"y_{stage}": y}
    names["x_test"], names["y_test"] = zoo.examples(6, seed=3, dtype=torch.float32)
    exec(code, names)
    assert list(names["effects"].to_frame().columns) == ["stage", "example", "effect", "unit"]
    assert names["effects"].effects.shape == (2, 6) and aa.open_checkpoints("runs/kept").steps == 500
