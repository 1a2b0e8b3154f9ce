"""The README does what it says: its example runs, and its figures are the measured ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from tests import zoo

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_ten_line_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    torch.manual_seed(0)
    model, (x_test, y_test) = zoo.mlp(), zoo.examples(6, seed=1, dtype=torch.float32)
    batches = [(list(range(8 * k, 8 * k + 8)), *zoo.examples(8, seed=k + 2, dtype=torch.float32)) for k in range(5)]
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        "loss_fn": nn.functional.cross_entropy,
        "loader": batches,
        "x_test": x_test,
        "y_test": y_test,
        "frame": pd.DataFrame({"group": list("ababab")}),
    }
    exec(code, names)
    stages, steps = names["stages"].to_frame(), names["steps"].to_frame()
    assert list(stages.columns[:3]) == ["stage", "example", "effect"] and len(stages) == 6
    assert list(steps.columns[:4]) == ["step", "stage", "example", "effect"] and len(steps) == 5
    first = names["run"].load(0).state.params  # its only stage skipped: the model that training began with
    assert all(torch.equal(names["model_without"].params[n], first[n]) for n in first)
    assert names["model_without"].performance(names["gamma"]).shape == (6,)


def test_the_accuracy_table_is_the_measured_one() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "digits-shift.json").read_text())
    measured = {(r["method"], r["curvature"], r["readout"]): r for r in figures["accuracy"]}
    rows = re.findall(r"^\| (\w+), (\w+), (\w+)[^|]*\| ([\d.]+) \| ([\d.]+) \| (\d+)% \|$", README, re.MULTILINE)
    assert len(rows) == 5
    for method, curvature, readout, pearson, sign, error in rows:
        row = measured[method, curvature, readout]
        assert f"{row['pearson']:.3f}" == pearson
        assert f"{row['sign']:.2f}" == sign
        assert f"{row['relative_error_of_stage_means']:.0%}" == f"{error}%"


def test_every_local_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
