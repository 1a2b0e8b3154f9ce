"""The format on disk: its schema is the one in the docs, and what earlier versions wrote is read by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch

from aa_core.effects.attribution import stage_effects
from aa_core.errors import IntegrityError
from aa_core.registry import load_problem
from aa_core.replay import replay_drift
from aa_core.run_performance import run_performance
from aa_core.runs.chain import read_chain
from aa_core.runs.integrity import check_integrity
from aa_core.runs.run_schema import run_schema
from aa_core.runs.trajectory import open_run
from tests.core.job_run import PROBLEM, STEPS

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = sorted(path for path in (ROOT / "tests" / "golden").glob("version-*") if path.is_dir())


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    committed = (ROOT / "docs" / "run-format.schema.json").read_text("utf-8")
    assert committed == run_schema(), "the JSON of a run changed: `make schema`, and a golden run if the version did"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.name)
def test_a_run_of_an_earlier_version_is_read_replayed_and_attributed_as_then(path: Path, tmp_path: Path) -> None:
    then = json.loads(path.with_suffix(".json").read_text())
    run = open_run(path)
    assert (run.digest, run.steps, run.sealed) == (then["digest"], then["steps"], True)
    assert {s.name: [list(b) for b in s.blocks] for s in run.stages} == then["stages"]
    assert run.record(run.steps - 1).loss == then["last_loss"] and check_integrity(run) == ()
    (tmp_path / "problem.py").write_text(PROBLEM)
    problem = load_problem(None, {}, f"{tmp_path / 'problem.py'}:problem")
    assert all(d.within_tolerance for d in replay_drift(run, problem))
    effects = stage_effects(run, problem, run_performance(run, "log-likelihood").mean()).to_frame()["effect"]
    assert effects.tolist() == pytest.approx(then["effects"], rel=1e-9)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.name)
def test_its_json_fits_the_schema(path: Path) -> None:
    schema = json.loads(run_schema())

    def check(file: Path, model: str) -> None:
        jsonschema.validate(json.loads(file.read_text()), {**schema, "$ref": f"#/$defs/{model}"})

    check(path / "run.json", "Header")
    for commit in (path / "log").iterdir():
        check(commit, "Commit")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.name)
def test_a_step_and_a_state_are_read_without_the_others(path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(path, tmp_path / "r")
    states = [f for c in read_chain(copy).commits for f in c.files if f.role == "state"]
    for file in states[:-1]:
        (copy / file.name).unlink()
    run = open_run(copy)
    assert run.load(run.checkpoints[-1]).step == run.checkpoints[-1]
    assert len(run.step_input(STEPS + 1, torch.device("cpu")).batches[0][0].targets) == 8
    with pytest.raises(IntegrityError, match=r"states/0\.safetensors: missing"):
        run.load(0)
