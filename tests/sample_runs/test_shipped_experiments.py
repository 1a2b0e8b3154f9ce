"""Runs that ship with an experiment: small, intact, open without any data folder, and those of the stored results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import aa_core as aa
from aa_core.confidence.calibration import Calibration
from aa_core.errors import RequestError
from aa_core.registry import load_problem
from sample_runs.experiment.measure import holds, judged
from sample_runs.experiment.plan import ROOT, experiments, read_plan
from sample_runs.experiment.results import read_results, results_path
from sample_runs.experiment.store import LARGEST, store

SHIPPED = tuple(name for name in experiments() if (ROOT / name / "run").is_dir())


@pytest.fixture(params=SHIPPED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_shipped_run_is_small_sealed_intact_and_the_one_that_was_measured(name: str) -> None:
    run, plan = aa.open_run(ROOT / name / "run"), read_plan(name)
    assert run.sealed and not run.warnings and aa.check_integrity(run) == ()
    assert sum(f.stat().st_size for f in run.path.rglob("*") if f.is_file()) < LARGEST
    trained = read_results(results_path(name)).of_case(plan.shipped)[0]
    calibration = Calibration.model_validate_json((ROOT / name / "calibration.json").read_bytes())
    assert run.digest == trained.run == calibration.run
    stored = {e.name: e.pairs.relative_error for e in trained.estimators if e.method != "path share"}
    assert {e.name: e.pairs.relative_error for e in calibration.estimators} == pytest.approx(stored, rel=1e-3)
    assert [s.name for s in run.stages] == [s.name for s in plan.case(plan.shipped).stages]


def test_shipped_run_replays(name: str) -> None:
    run = aa.open_run(ROOT / name / "run")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    assert all(d.within_tolerance for d in aa.replay_drift(run, problem))


def test_evaluation_can_be_looked_at_and_filtered(name: str) -> None:
    evaluation = aa.open_run(ROOT / name / "run").evaluation
    assert evaluation is not None and evaluation.metadata is not None and evaluation.display is not None
    if evaluation.display["kind"] == "image":
        assert isinstance(evaluation.x, torch.Tensor) and evaluation.x.dtype == torch.uint8
        assert list(evaluation.x.shape[1:]) == evaluation.display["shape"]
    else:
        assert evaluation.metadata["text"].str.len().min() > 0
    assert len(evaluation.metadata.columns) >= 3


def test_what_was_found_is_found_again(name: str) -> None:
    plan, run = read_plan(name), aa.open_run(ROOT / name / "run")
    case = plan.case(plan.shipped)
    claims = dict(zip(case.findings, read_results(results_path(name)).of_case(plan.shipped)[0].found, strict=True))
    claim, found = next((c, f) for c, f in claims.items() if f.engine)
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    by = next(p for p in case.performances if p.name == claim.performance)
    effects = aa.stage_effects(run, problem, judged(run, by).mean()).to_frame().set_index("stage")["effect"]
    assert holds(claim, effects) is found.engine is True


def test_a_run_that_is_too_large_is_not_taken_over(tmp_path: Path) -> None:
    plan = read_plan("mnist")
    with pytest.raises(RequestError, match="run `aa experiment`"):
        store("mnist", tmp_path)
    (tmp_path / "results.json").write_bytes(b'{"experiment": "mnist", "date": "x", "machine": "x", "trained": []}')
    with pytest.raises(RequestError, match="0 bytes, expected 1 to 3,000,000"):
        store("mnist", tmp_path)
    big = tmp_path / "runs" / f"{plan.shipped}, seed {plan.seeds[0]}" / "run"
    big.mkdir(parents=True)
    (big / "file").write_bytes(bytes(LARGEST))
    with pytest.raises(RequestError, match="3,000,000 bytes"):
        store("mnist", tmp_path)
