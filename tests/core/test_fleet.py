"""Retraining many counterfactuals at once is retraining each of them, whatever way was faster."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.counterfactuals import fleet
from aa_core.counterfactuals.fleet import retrain_all, stack, step_together, unstack
from aa_core.errors import Cancelled, NonFiniteError, UnknownStageError
from aa_core.propagator import Training
from aa_core.records import StepInput
from aa_core.replay import prepare, silent
from aa_core.state import Snapshot, nbytes
from tests import zoo
from tests.core.cases import STAGES, Case, assert_same_params, equal, make_case, recorded, two_groups
from tests.core.test_features import CASES as FEATURES

SKIPS = tuple(aa.Counterfactual.skip(stage) for stage in STAGES)
QUESTIONS = (
    *SKIPS,
    aa.Counterfactual.skip("b", semantics="zero_gradient"),
    aa.Counterfactual(("a", "c"), 0.5),
    aa.Counterfactual(("b",), 0.25, "zero_gradient"),
    aa.Counterfactual.skip_steps(3, 8),
)
WAYS = ("batch", "both", "loop")


@pytest.fixture(autouse=True)
def no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, which may be the fastest way, are tried in test_abreast.py."""
    monkeypatch.setattr(fleet, "spare", lambda device: False)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every way in turn, whatever a trial would choose; a batch that fails is an error."""
    monkeypatch.setattr(fleet._Trial, "way", lambda trial, lanes: request.param if lanes > 1 else "loop")
    monkeypatch.setattr(fleet._Trial, "fail", lambda trial: pytest.fail("could not be batched"))
    return request.param


def assert_as_alone(case: Case, questions: tuple[aa.Counterfactual, ...], rtol: float = 1e-9) -> None:
    for what, found in zip(questions, retrain_all(case.run, case.problem, questions), strict=True):
        alone = aa.retrain(case.run, case.problem, what)
        assert found.steps_replayed == alone.steps_replayed
        assert_same_params(found.params, alone.params, rtol)


@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
def test_every_question_gets_what_it_gets_alone(optimizer: str, way: str) -> None:
    assert_as_alone(recorded("mlp", optimizer), QUESTIONS)


@pytest.mark.parametrize("model", ["linear", "attention"])
def test_so_it_is_for_every_model_with_groups_and_micro_batches(model: str, way: str) -> None:
    make = two_groups(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    assert_as_alone(make_case(zoo.MODELS[model], make, micro_batches=2, every=5), SKIPS)


def test_so_it_is_in_float32(way: str) -> None:
    assert_as_alone(make_case(zoo.mlp, zoo.OPTIMIZERS["momentum"], dtype=torch.float32), QUESTIONS, rtol=1e-5)


@pytest.mark.parametrize("feature", FEATURES)
def test_so_it_is_with_dropout_clipping_and_batch_norm(feature: str, way: str, tmp_path: Path) -> None:
    run, model = FEATURES[feature](tmp_path / "run")
    problem = aa.Problem(model, zoo.cross_entropy)
    skips = (*(aa.Counterfactual.skip(s) for s in ("a", "b")), aa.Counterfactual.without_examples(2, 11))
    for what, found in zip(skips, retrain_all(run, problem, skips), strict=True):
        alone = aa.retrain(run, problem, what)
        assert_same_params(found.params, alone.params)
        assert all(torch.allclose(found.buffers[n], b) for n, b in alone.buffers.items())


def test_one_by_one_it_is_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("mlp", "adam")
    monkeypatch.setattr(fleet._Trial, "way", lambda trial, lanes: "loop")
    for what, found in zip(QUESTIONS, retrain_all(case.run, case.problem, QUESTIONS), strict=True):
        assert equal(found.params, aa.retrain(case.run, case.problem, what).params)


@pytest.mark.parametrize("way_", ["loop", "batch"])
def test_whatever_the_memory_the_answers_are_the_same(way_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, most = recorded("mlp", "adam"), 0
    advance = fleet._advance

    def watched(training: object, at: object, lanes: tuple[int, ...], *rest: object) -> None:
        nonlocal most
        most = max(most, len(lanes))
        advance(training, at, lanes, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fleet._Trial, "way", lambda trial, lanes: way_ if lanes > 1 else "loop")
    monkeypatch.setattr(fleet, "_advance", watched)
    two = 2 * fleet.COPIES * nbytes(case.run.load(0))
    for memory, width in ((0, 1), (two, 2), (1 << 30, 5)):
        most = 0
        found = retrain_all(case.run, case.problem, QUESTIONS, memory=memory)
        assert most == width
        for what, model in zip(QUESTIONS, found, strict=True):
            assert_same_params(model.params, aa.retrain(case.run, case.problem, what).params)


# ---- the choice ------------------------------------------------------------------------------------------------------


class Moody(nn.Module):
    """Looks at its data before it decides: cannot be batched."""

    def __init__(self) -> None:
        super().__init__()
        self.body = zoo.mlp()

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return out if float(out.detach().sum()) > 0 else 2 * out


@pytest.mark.parametrize("model", [Moody, zoo.MODELS["lstm"]])
def test_a_model_that_cannot_be_batched_is_trained_one_by_one(
    model: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "WORTH", 1)
    case = make_case(model, zoo.OPTIMIZERS["momentum"])
    for what, found in zip(QUESTIONS, retrain_all(case.run, case.problem, QUESTIONS), strict=True):
        assert equal(found.params, aa.retrain(case.run, case.problem, what).params)


def test_a_batch_that_is_not_the_same_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("mlp", "momentum")

    def slightly_wrong(*args: object) -> fleet.Stack:
        found = step_together(*args)  # type: ignore[arg-type]
        found.at.state.params["0.bias"].mul_(1 + 1e-6)
        return found

    monkeypatch.setattr(fleet, "step_together", slightly_wrong)
    monkeypatch.setattr(fleet, "WORTH", 1)
    for what, found in zip(SKIPS, retrain_all(case.run, case.problem, SKIPS), strict=True):
        assert equal(found.params, aa.retrain(case.run, case.problem, what).params)


def test_the_faster_way_is_chosen_and_a_loss_is_tried_again_with_twice_as_many() -> None:
    trial = fleet._Trial()
    assert [trial.way(n) for n in (1, 2, 3)] == ["loop", "both", "both"]
    measure(trial, 3, loop=1.0, batch=1.1)
    assert [trial.way(n) for n in (2, 3, 5, 6)] == ["loop", "loop", "loop", "both"]
    measure(trial, 6, loop=2.0, batch=1.9)
    assert [trial.way(n) for n in (3, 5, 6, 9)] == ["loop", "loop", "batch", "batch"]
    trial.fail()
    assert trial.way(100) == "loop"


def test_no_trial_is_begun_that_could_hardly_pay() -> None:
    trial = fleet._Trial(left=2 * fleet.WORTH)
    assert [trial.way(n) for n in (2, 3)] == ["both", "loop"]
    measure(trial, 2, loop=1.1, batch=1.0)
    trial.left = 2
    assert trial.way(2) == "batch"


def measure(trial: fleet._Trial, lanes: int, **seconds: float) -> None:
    """A trial as the fleet carries it out: the slowest steps are disturbed, and do not count."""
    trial.agree()
    for disturbed in (50.0, 0.0):
        for _ in seconds:
            way = trial.way(lanes)
            trial.note(1, way, 0.0)  # too few lanes to learn from
            trial.note(lanes, way, seconds[way] + disturbed)


def test_a_trial_takes_one_step_twice_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    case, taken = recorded("mlp", "adam"), {"loop": 0, "batch": 0}
    one, many = Training.step, step_together

    def alone(training: Training, at: Snapshot, step: StepInput) -> Snapshot:
        taken["loop"] += 1
        return one(training, at, step)

    def together(training: Training, stacked: fleet.Stack, step: StepInput) -> fleet.Stack:
        taken["batch"] += len(stacked.at.state.count)
        return many(training, stacked, step)

    training = prepare(case.run, case.problem)
    monkeypatch.setattr(Training, "step", alone)
    monkeypatch.setattr(fleet, "step_together", together)
    monkeypatch.setattr(fleet, "WORTH", 1)
    fleet._train_in_step(case.run, training, [fleet.Lane(case.run.states[0])] * 2, silent)
    assert sum(taken.values()) == 2 * (case.run.steps + 1) and min(taken.values()) >= 2 * fleet.TRIES


def test_stacking_and_unstacking_lose_nothing() -> None:
    states = recorded("mlp", "adam").run.states[2:5]
    problem = recorded("mlp", "adam").problem
    states = [Snapshot(2, at.state, {**at.buffers, "frozen": torch.ones(2)}) for at in states]
    stacked = stack(problem, states)
    assert set(stacked.shared) == {"frozen"} and not stacked.at.buffers
    for at, again in zip(states, unstack(stacked), strict=True):
        assert equal(at.state.params, again.state.params) and equal(at.buffers, again.buffers)
        assert torch.equal(at.state.count, again.state.count)


def test_a_frozen_parameter_that_differs_is_kept_apart() -> None:
    at = recorded("mlp", "adam").run.states[2]
    states = [at._replace(buffers={"frozen": torch.full((2,), v)}) for v in (1.0, 2.0)]
    stacked = stack(recorded("mlp", "adam").problem, states)
    assert not stacked.shared and stacked.at.buffers["frozen"].shape == (2, 2)


# ---- what a caller sees ----------------------------------------------------------------------------------------------


def test_progress_never_goes_back_and_ends_at_the_end() -> None:
    case, seen = recorded("mlp", "momentum"), list[tuple[int, int]]()
    for memory in (0, 1 << 30):
        seen.clear()
        retrain_all(case.run, case.problem, SKIPS, lambda *at: seen.append(at), memory)
        assert seen == sorted(seen) and seen[-1] == (12 + 8 + 3, 12 + 8 + 3)


def test_it_can_be_cancelled() -> None:
    def stop(done: int, total: int) -> None:
        if done > 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        retrain_all(recorded("mlp", "momentum").run, recorded("mlp", "momentum").problem, SKIPS, stop)


def test_a_question_that_does_not_fit_is_refused_before_anything_is_trained() -> None:
    case = recorded("mlp", "momentum")
    with pytest.raises(UnknownStageError):
        retrain_all(case.run, case.problem, (SKIPS[0], aa.Counterfactual.skip("nowhere")), pytest.fail)


def test_a_training_that_diverges_is_named() -> None:
    case = recorded("linear", "momentum")
    inputs = [
        data._replace(hyper=tuple({**h, "lr": 1e200} for h in data.hyper)) if data.step > 9 else data
        for data in case.run.inputs
    ]
    run = dataclasses.replace(case.run, inputs=inputs, digest="wild")
    case.problem.verified.add("wild")
    with pytest.raises(NonFiniteError, match="skip a"):
        retrain_all(run, case.problem, SKIPS)
