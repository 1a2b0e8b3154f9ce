"""A counterfactual becomes a run: its end is that of retraining, it replays, and it says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import aa_core as aa
from aa_core.check import check_run
from aa_core.counterfactuals.counterfactual_run import OF, WHICH, record_counterfactual
from aa_core.errors import RequestError
from aa_core.problem import Problem
from aa_core.registry import load_problem
from aa_core.run_performance import run_performance
from aa_core.runs.trajectory import Trajectory
from tests.core.job_run import STAGES, STEPS, make

Case = tuple[Trajectory, Problem]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    run, file = make(tmp_path_factory.mktemp("recorded"))
    return run, load_problem(None, {}, f"{file}:problem")


COUNTERFACTUALS = [
    aa.Counterfactual.skip(STAGES[0]),
    aa.Counterfactual.skip(STAGES[1]),
    aa.Counterfactual.skip(STAGES[2]),
    aa.Counterfactual.skip_steps(3, 4, 5, 17),
    aa.Counterfactual.change(STAGES[1], lr="0.5x", momentum=0.9),
]


@pytest.mark.parametrize("what", COUNTERFACTUALS, ids=lambda w: w.name)
def test_its_end_is_that_of_retraining_and_it_replays_to_the_bit(
    case: Case, what: aa.Counterfactual, tmp_path: Path
) -> None:
    run, problem = case
    found = record_counterfactual(run, problem, what, tmp_path / "what")
    retrained = aa.retrain(run, problem, what).params
    assert all(torch.equal(p, retrained[n]) for n, p in found.load(found.steps).state.params.items())
    checked = check_run(found, problem)
    assert checked.sound and "bit-exact" in checked.words and "chain consistent" in checked.words
    assert found.sealed and found.first_nonfinite is None


def test_what_is_left_out_does_not_occur_and_the_rest_is_as_recorded(case: Case, tmp_path: Path) -> None:
    run, problem = case
    what = aa.Counterfactual.skip(STAGES[1])
    found = record_counterfactual(run, problem, what, tmp_path / "what")
    assert [s.name for s in found.stages] == [STAGES[0], STAGES[2]]
    assert found.steps == run.steps - STEPS
    then, now = run.log_frame(), found.log_frame()
    assert now["loss"][:STEPS].tolist() == then["loss"][:STEPS].tolist()
    assert now["loss"][STEPS:].tolist() != then["loss"][2 * STEPS :].tolist()
    assert torch.equal(found.record(STEPS).micro_batches[0].rows, run.record(2 * STEPS).micro_batches[0].rows)


def test_it_says_of_which_run_it_is_a_counterfactual_and_can_be_audited_in_turn(case: Case, tmp_path: Path) -> None:
    run, problem = case
    what = aa.Counterfactual.change(STAGES[1], lr="0.5x")
    found = record_counterfactual(run, problem, what, tmp_path / "what")
    assert {(s.metadata[OF], s.metadata[WHICH]) for s in found.stages} == {(run.digest, what.name)}
    assert what.name in found.title
    assert found.log_frame()["lr"].tolist() == [0.1] * STEPS + [0.05] * STEPS + [0.1] * STEPS
    gamma = run_performance(found, "log-likelihood").mean()
    assert len(aa.stage_effects(found, problem, gamma).units) == 3


def test_its_recorded_losses_are_those_of_its_own_states(case: Case, tmp_path: Path) -> None:
    run, problem = case
    found = record_counterfactual(run, problem, aa.Counterfactual.skip(STAGES[0]), tmp_path / "what")
    at, data = found.load(0), found.step_input(0, torch.device("cpu"))
    loss, _ = problem.batch_loss(at.state.params, at.buffers, data.batches[0][0], training=data.training)
    assert found.record(0).loss == pytest.approx(float(loss), rel=1e-12)


@pytest.mark.parametrize(
    "what",
    [
        aa.Counterfactual(STAGES[:1], 0.5),
        aa.Counterfactual.skip(STAGES[0], semantics="zero_gradient"),
        aa.Counterfactual.without_examples(3),
        aa.Counterfactual.skip(*STAGES),
    ],
    ids=["scaled", "ignored", "reweighted", "nothing left"],
)
def test_what_no_recorder_could_have_seen_is_refused(case: Case, what: aa.Counterfactual, tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        record_counterfactual(*case, what, tmp_path / "what")
    assert list(tmp_path.iterdir()) == []
