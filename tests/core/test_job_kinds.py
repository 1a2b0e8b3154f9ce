"""A job answers what the engine answers: the same numbers, whoever asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import aa_core as aa
from aa_core.confidence.calibrate import SWEEPS
from aa_core.effects.embedding import READOUTS
from aa_core.errors import RequestError
from aa_core.jobs import (
    CalibrationRequest,
    EffectsRequest,
    Outcome,
    asked_counterfactual,
    estimate_spec,
    perform,
    spec_of,
)
from aa_core.jobs.estimating import By
from aa_core.registry import load_problem
from aa_core.run_performance import run_performance
from aa_core.runs.trajectory import Trajectory
from tests.core.job_run import STAGES, make

PLAIN: dict[str, Any] = {"performance": "log-likelihood", "examples": None, "stages": None, "method": "boundary"}
EXACT: dict[str, Any] = {"curvature": "exact", "semantics": "freeze"}
Asked = tuple[Trajectory, str]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    run, file = make(tmp_path_factory.mktemp("kinds"))
    return run, f"{file}:problem"


def outcome(asked: Asked, by: By, **changes: Any) -> Outcome:
    run, problem = asked
    return perform(spec_of("effects", run, EffectsRequest(**{**PLAIN, **EXACT, "by": by, **changes}), problem))


@pytest.mark.parametrize("by", get_args(By))
def test_every_way_answers_for_every_stage_with_a_unit(asked: Asked, by: By) -> None:
    found = outcome(asked, by)
    assert found.result["unit"] == "nats"
    assert set(found.tables["effects"]["stage"]) == set(STAGES)


def test_stage_and_step_effects_are_those_of_the_engine(asked: Asked) -> None:
    run, file = asked
    problem = load_problem(None, {}, file)
    mean = run_performance(run, "log-likelihood", [1, 4]).mean()
    direct = aa.step_effects(run, problem, mean, stages=[STAGES[1]])
    found = outcome(asked, "steps", examples=(1, 4), stages=(STAGES[1],))
    assert found.tables["effects"]["effect"].tolist() == direct.effects[:, 0].tolist()
    assert found.result["n"] == 2
    stages = outcome(asked, "stages", examples=(1, 4)).tables["effects"]
    assert stages["effect"].tolist() == aa.stage_effects(run, problem, mean).effects[:, 0].tolist()


@pytest.mark.parametrize(("part", "whole"), [("causes", "steps"), ("layers", "stages")])
def test_parts_add_up_to_the_effect_of_each_stage(asked: Asked, part: By, whole: By) -> None:
    parts = outcome(asked, part).tables["effects"].groupby("stage")["effect"].sum()
    total = outcome(asked, whole).tables["effects"].groupby("stage")["effect"].sum()
    np.testing.assert_allclose(parts.to_numpy(), total.to_numpy(), atol=1e-9)


def test_shares_add_up_to_what_the_whole_training_gained(asked: Asked) -> None:
    run, file = asked
    gamma = run_performance(run, "log-likelihood").mean()
    end = float(aa.final_model(run, load_problem(None, {}, file)).performance(gamma))
    found = outcome(asked, "shares")
    assert found.result["start"] + found.tables["effects"]["share"].sum() == pytest.approx(end)


@pytest.mark.parametrize(
    "what",
    [aa.Counterfactual((STAGES[0],), 0.5), aa.Counterfactual.change(STAGES[1], lr="0.5x")],
    ids=["scale", "change"],
)
def test_an_estimate_alone_is_that_of_the_engine_and_of_the_retraining(asked: Asked, what: aa.Counterfactual) -> None:
    run, file = asked
    problem, gamma = load_problem(None, {}, file), run_performance(run, "log-likelihood")
    spec = estimate_spec(run, what, readout="link", method="boundary", curvature="exact", problem=file)
    found = perform(spec)
    assert (
        found.tables["examples"]["estimate"].tolist() == aa.predict(run, problem, what, gamma, readout="link").tolist()
    )
    assert "mean_truth" not in found.result and asked_counterfactual(spec) == what
    retrained = perform(spec.model_copy(update={"kind": "whatif"}))
    assert {n: retrained.result[n] for n in ("mean_estimate", "mean_recorded", "n", "unit")} == {
        n: found.result[n] for n in ("mean_estimate", "mean_recorded", "n", "unit")
    }


def test_an_unknown_request_is_refused_by_name(asked: Asked) -> None:
    run, problem = asked
    with pytest.raises(RequestError, match="by"):
        perform(spec_of("effects", run, {**PLAIN, **EXACT, "by": "planets"}, problem))


def test_a_replay_has_one_row_a_segment(asked: Asked) -> None:
    run, problem = asked
    found = perform(spec_of("replay", run, {}, problem))
    assert found.result["sound"] and "bit-exact" in found.result["words"]
    assert len(found.tables["drifts"]) == len(run.checkpoints) - 1


def test_a_calibration_is_stored_and_found(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path))
    run, problem = asked
    assert aa.find_calibration(run, None) is None
    spec = spec_of("calibrate", run, CalibrationRequest(performance="log-likelihood", semantics="freeze"), problem)
    found = perform(spec)
    stored = aa.find_calibration(run, run_performance(run, "log-likelihood").digest)
    assert stored is not None and stored.to_dict() == found.result
    assert len(found.tables["estimators"]) == len(SWEEPS) * len(READOUTS) + 1, "and the path share"
