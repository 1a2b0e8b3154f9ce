"""The curves of a training are the same with and without the engine, and without it they need no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import save as torch_save

from aa_core.errors import IntegrityError, RunFormatError, RunNotFoundError
from aa_core.recording.recorder import Recorder
from aa_core.runs import curves
from aa_core.runs.curves import read_curves
from aa_core.runs.trajectory import open_run
from tests.recorded import LOSS, make, record, train

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "sample_runs").glob("*/run"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.parent.name)
def test_the_shipped_runs_have_the_same_curves_before_the_engine(path: Path) -> None:
    run, found = open_run(path), read_curves(path)
    assert found is not None and (found.title, found.digest, found.stages) == (run.title, run.digest, run.stages)
    pd.testing.assert_frame_equal(found.log, run.log_frame())


def test_groups_of_parameters_have_their_own_columns(tmp_path: Path) -> None:
    model, _ = make()
    groups = [{"params": [p], "lr": lr} for p, lr in zip(model.parameters(), (0.1, 0.2), strict=False)]
    optimizer = torch.optim.SGD(groups, momentum=0.5)
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("one"):
        train(recorder, model, optimizer, 5)
    found = read_curves(tmp_path / "r")
    assert found is not None and {"lr", "lr[1]", "momentum[1]"} <= set(found.log)
    pd.testing.assert_frame_equal(found.log, open_run(tmp_path / "r").log_frame())


def test_a_run_that_is_still_recorded_has_to_be_opened(tmp_path: Path) -> None:
    model, optimizer = make()
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder:
        with recorder.stage("one"):
            train(recorder, model, optimizer, 5)
        assert read_curves(tmp_path / "r") is None
    assert read_curves(tmp_path / "r") is not None


def test_a_run_with_large_steps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "r")
    monkeypatch.setattr(curves, "MOST", 1_000)
    assert read_curves(tmp_path / "r") is None


def test_changed_files_have_no_curves(tmp_path: Path) -> None:
    record(tmp_path / "r")
    steps = next((tmp_path / "r" / "steps").iterdir())
    data = bytearray(steps.read_bytes())
    data[-1] ^= 1
    steps.write_bytes(data)
    with pytest.raises(IntegrityError, match=steps.name):
        read_curves(tmp_path / "r")
    with pytest.raises(RunNotFoundError):
        read_curves(tmp_path / "none")


def columns(**changes: np.ndarray) -> dict[str, np.ndarray]:
    known = ("loss", "grad_norm", "idle.count", "hyper.0.lr", "hyper.1.lr", "rows")
    return {n: np.zeros(3) for n in known} | changes


def test_columns_are_read_as_far_as_the_log_shows_them() -> None:
    assert set(curves._read(save(columns()), 3, "steps")) == set(columns()) - {"rows"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\0\0\0\0\0\0\0{}",
        b"",
        save(columns(loss=np.zeros(4))),
        save(columns(grad_norm=np.zeros((3, 1)))),
        save(columns(grad_norm=np.zeros(3, np.complex64))),
        torch_save({"loss": torch.zeros(3, dtype=torch.bfloat16)}),
        save({n: c for n, c in columns().items() if n != "loss"}),
        save({n: c for n, c in columns().items() if n != "hyper.0.lr"}),
        save(columns(**{"hyper.1.beta": np.zeros(3)})),
        save(columns(**{"hyper.7.lr": np.zeros(3)})),
        save(columns(**{"hyper.lr": np.zeros(3)})),
    ],
    ids=(
        "torn",
        "empty",
        "long",
        "wide",
        "complex",
        "no dtype of numpy",
        "no loss",
        "no group 0",
        "one name more",
        "a group too far",
        "no group",
    ),
)
def test_other_columns_are_refused(data: bytes) -> None:
    with pytest.raises(RunFormatError, match=r"^steps/0-3: "):
        curves._read(data, 3, "steps/0-3")


@pytest.mark.parametrize("module", ["aa_core.runs.curves", "aa_core.reporting.figures", "dashboard.preview"])
def test_what_is_drawn_before_the_engine_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
