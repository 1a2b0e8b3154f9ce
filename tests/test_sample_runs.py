"""The shipped runs: small, intact, replayed to the bit, and recorded again to the bit by their scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import aa_core as aa
from aa_core.recording.machine import environment
from aa_core.registry import load_problem
from aa_core.state import max_difference
from sample_runs.record import NAMES, ROOT, record_again


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_shipped_run_is_small_sealed_and_intact(name: str) -> None:
    run = aa.open_run(ROOT / name / "run")
    assert run.sealed and not run.warnings
    assert aa.check_integrity(run) == ()
    assert sum(f.stat().st_size for f in run.path.rglob("*") if f.is_file()) < 3_000_000


def test_shipped_run_has_pictures_and_metadata_to_filter_by(name: str) -> None:
    evaluation = aa.open_run(ROOT / name / "run").evaluation
    assert evaluation is not None and evaluation.metadata is not None
    assert {"rotation", "digit"} <= set(evaluation.metadata.columns)
    assert evaluation.x.shape[1:] == (8, 8) and evaluation.x.dtype == torch.uint8
    assert np.array_equal(evaluation.metadata["digit"], evaluation.y.numpy())


def test_recording_again_gives_the_same_run(name: str, tmp_path: Path) -> None:
    shipped, again = aa.open_run(ROOT / name / "run"), record_again(name, tmp_path / "run")
    if again.environment == shipped.environment:
        assert again.digest == shipped.digest  # same kind of machine and versions: to the bit
    ours, theirs = again.load(again.steps).state.params, shipped.load(shipped.steps).state.params
    assert max_difference(ours, theirs) < 1e-9


def test_shipped_run_replays_what_was_recorded(name: str) -> None:
    run = aa.open_run(ROOT / name / "run")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    same_kind = run.environment == environment(problem.device)
    worst = max(d.relative for d in aa.replay_drift(run, problem))
    assert worst == 0.0 if same_kind else worst < 1e-9


def test_mislabelled_round_is_the_only_one_that_hurts() -> None:
    run = aa.open_run(ROOT / "digits-mislabelled" / "run")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    evaluation = run.evaluation
    assert evaluation is not None
    gamma = aa.log_likelihood(evaluation.x, evaluation.y)[slice(0, 397)].mean()
    effects = aa.stage_effects(run, problem, gamma).to_frame().set_index("stage")["effect"]
    assert [stage for stage, effect in effects.items() if effect < 0] == ["round 4"]
    recorded = float(aa.final_model(run, problem).performance(gamma))
    without = float(aa.retrain(run, problem, aa.Counterfactual.skip("round 4")).performance(gamma))
    assert without > recorded
