"""Scales and changed hyperparameters: retraining against torch.optim, estimates against brute force, errors, texts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

import aa_core as aa
from aa_core.counterfactuals.change import Change, parse
from aa_core.counterfactuals.intervention import intervene
from aa_core.errors import RequestError
from aa_core.stages import Stage
from aa_core.state import State
from tests import zoo
from tests.core import test_phases
from tests.core.cases import (
    Case,
    MakeOptimizer,
    assert_close,
    equal,
    log_likelihood,
    make_case,
    memory_cache,
    queries,
    recorded,
    scheduled,
    squares,
    two_groups,
    vector,
    warm_and_cosine,
)
from tests.core.oracle import flatten, unflatten

SEMANTICS = ("freeze", "zero_gradient")
B = range(4, 9)
"""The steps of stage "b"."""


def effect(case: Case, what: aa.Counterfactual, gamma: aa.Performance) -> Tensor:
    """The truth: by retraining."""
    recorded_model = aa.final_model(case.run, case.problem)
    return recorded_model.performance(gamma) - aa.retrain(case.run, case.problem, what).performance(gamma)


def predicted(case: Case, what: aa.Counterfactual, gamma: aa.Performance, **request: Any) -> Tensor:
    return aa.predict(case.run, case.problem, what, gamma, cache=memory_cache(), **request)


# ---- retraining with other hyperparameters is torch.optim with them --------------------------------------------------


def trained_with(case: Case, make: MakeOptimizer, hyper: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Tensor]:
    """torch.optim from the initial weights; at the named steps its groups have these hyperparameters."""
    model = copy.deepcopy(case.model)
    model.load_state_dict(case.run.states[0].state.params)
    optimizer = make(list(model.parameters()))
    (group,) = optimizer.param_groups
    always = {n: v for n, v in group.items() if n != "params"}
    for data in case.run.inputs:
        group |= always | hyper.get(data.step, {})
        optimizer.zero_grad()
        for batch, weight in data.batches:
            (case.problem.loss_fn(model(batch.inputs), batch.targets) * weight).backward()
        optimizer.step()
    return {n: p.detach() for n, p in model.named_parameters()}


CHANGES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "lr, value": ("momentum", {"lr": 0.02}, lambda i: {"lr": 0.02}),
    "lr, factor": ("nesterov", {"lr": "0.5x"}, lambda i: {"lr": 0.05 * 0.5}),
    "momentum off": ("momentum", {"momentum": 0}, lambda i: {"momentum": 0.0}),
    "momentum and decay": (
        "momentum",
        {"momentum": 0.5, "weight_decay": "10x"},
        lambda i: {"momentum": 0.5, "weight_decay": 0.1},
    ),
    "decoupled decay": ("adamw", {"weight_decay": 0}, lambda i: {"weight_decay": 0.0}),
    "betas": ("adam", {"beta1": 0.5, "beta2": 0.9}, lambda i: {"betas": (0.5, 0.9)}),
    "linear": ("adamw", {"lr": "0.02 to 0.01"}, lambda i: {"lr": 0.02 + (0.01 - 0.02) * (i / 4)}),
    "list": ("sgd", {"lr": "0.05, 0.04, 0.03, 0.02, 0.01"}, lambda i: {"lr": [0.05, 0.04, 0.03, 0.02, 0.01][i]}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_retraining_with_other_hyperparameters_is_torch_with_them(name: str) -> None:
    optimizer, changes, hyper = CHANGES[name]
    case = recorded("mlp", optimizer)
    found = aa.retrain(case.run, case.problem, aa.Counterfactual.change("b", **changes))
    expected = trained_with(case, zoo.OPTIMIZERS[optimizer], {k: hyper(i) for i, k in enumerate(B)})
    assert equal(found.params, dict(expected))
    assert not equal(found.params, case.run.states[-1].state.params)
    assert found.steps_replayed == 8


def test_a_factor_keeps_the_shape_of_a_schedule_and_groups_can_be_changed_alone() -> None:
    make = scheduled(two_groups(torch.optim.AdamW, lr=0.01, weight_decay=0.1), warm_and_cosine)
    case = make_case(zoo.mlp, make)
    recorded_hyper = [s.hyper for s in case.run.inputs]
    both = intervene(case.run, aa.Counterfactual.change("b", lr="0.5x")).hyper
    assert all(both[k][g]["lr"] == 0.5 * recorded_hyper[k][g]["lr"] for k in B for g in (0, 1))
    one = intervene(case.run, aa.Counterfactual.change("b", **{"lr[1]": "0.5x"})).hyper
    assert all(one[k][0] == recorded_hyper[k][0] for k in B)
    assert all(one[k][1] == {**recorded_hyper[k][1], "lr": 0.5 * recorded_hyper[k][1]["lr"]} for k in B)
    assert set(both) == set(one) == set(B)


def test_a_schedule_runs_from_the_first_to_the_last_changed_step_across_blocks() -> None:
    case = recorded("mlp", "sgd")
    run = dataclasses.replace(case.run, stages=(Stage("x", ((0, 2), (9, 12))), Stage("y", ((2, 9),))))
    found = intervene(run, aa.Counterfactual.change("x", lr="cosine 0.4 to 0")).hyper
    values = [found[k][0]["lr"] for k in (0, 1, 9, 10, 11)]
    assert values[0] == 0.4 and values[2] == pytest.approx(0.2) and values[-1] == 0.0
    assert all(a > b for a, b in pairwise(values))


# ---- estimates: exact inside the block, first order after it ---------------------------------------------------------

WHAT = {
    "half the lr": aa.Counterfactual.change("b", lr="0.5x"),
    "no momentum": aa.Counterfactual.change("b", momentum=0),
    "a quarter, frozen": aa.Counterfactual(("b",), 0.25),
    "a quarter of the data": aa.Counterfactual(("b",), 0.25, "zero_gradient"),
    "half as much again": aa.Counterfactual(("b",), 1.5, "zero_gradient"),
    "some steps": aa.Counterfactual(steps=(5, 6, 7), scale=0.5),
}


@pytest.mark.parametrize("name", WHAT)
def test_an_estimate_pushes_the_difference_to_the_state_that_the_changed_block_itself_reached(name: str) -> None:
    case, what = recorded("mlp", "momentum"), WHAT[name]
    steps = sorted(intervene(case.run, what).steps)
    start, stop = steps[0], steps[-1] + 1
    state = case.run.states[start].state
    for k in steps:
        state = taken(case, what, state, k)
    change = flatten(case.run.states[stop].state) - flatten(state)
    for k in range(stop, case.run.steps):
        change = case.oracle.jacobian(case.run.states[k].state, k) @ change
    end = case.run.states[-1].state
    slope = jacrev(lambda v: log_likelihood(case)(unflatten(v, end).params))(flatten(end))
    assert_close(predicted(case, what, queries()), slope @ change, 1e-9)


def taken(case: Case, what: aa.Counterfactual, state: State, k: int) -> State:
    """One step of the counterfactual by the oracle."""
    if what.changes:
        changed = intervene(case.run, what).hyper[k]
        oracle = copy.copy(case.oracle)
        oracle.steps = [s._replace(hyper=changed) if s.step == k else s for s in case.oracle.steps]
        return oracle.step(state, k)
    base = flatten(state if what.semantics == "freeze" else case.oracle.step_without_data(state, k))
    return unflatten(base + what.scale * (flatten(case.oracle.step(state, k)) - base), state)


@pytest.mark.parametrize("name", WHAT)
def test_in_an_affine_run_the_estimate_is_the_truth(name: str) -> None:
    """Quadratic loss, linear model, SGD: the training after the block is affine, and inside nothing is approximated."""
    case = make_case(zoo.linear, zoo.OPTIMIZERS["momentum"], squares)
    gamma = aa.performance(*zoo.examples(5, 9), lambda f, y: f.gather(1, y[:, None])[:, 0], name="logit", unit="nats")
    assert_close(predicted(case, WHAT[name], gamma), effect(case, WHAT[name], gamma), 1e-10)


@pytest.mark.parametrize("optimizer", ["nesterov", "adam-decay", "adamw"])
@pytest.mark.parametrize(
    "what",
    [
        aa.Counterfactual.change("c", lr="2x"),
        aa.Counterfactual.change("c", lr="0.01 to 0", weight_decay=0.2),
        aa.Counterfactual(("c",), 0.5),
        aa.Counterfactual(("c",), 1.25, "zero_gradient"),
    ],
    ids=lambda what: what.name,
)
def test_of_the_last_stage_the_displaced_estimate_is_the_truth(optimizer: str, what: aa.Counterfactual) -> None:
    case = recorded("mlp", optimizer)
    assert_close(predicted(case, what, queries(), readout="displaced"), effect(case, what, queries()), 1e-9)


def test_an_estimate_converges_to_the_truth_as_the_change_vanishes() -> None:
    case, errors = recorded("mlp", "adamw"), []
    for factor in ("0.5x", "0.95x", "0.995x"):
        what = aa.Counterfactual.change("a", lr=factor)
        truth = effect(case, what, queries())
        errors.append(float((predicted(case, what, queries()) - truth).norm() / truth.norm()))
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]


@pytest.mark.parametrize(
    "training", ["new optimizer", "frozen, then thawed (AdamW)", "head replaced", "adapters added"]
)
def test_hyperparameters_change_across_new_optimizers_and_parameters_too(training: str, tmp_path: Path) -> None:
    case, gamma = test_phases.record(tmp_path / "run", test_phases.TRAININGS[training]), test_phases.GAMMA
    truth = aa.final_model(case.run, case.problem).performance(gamma)
    for what in (aa.Counterfactual.change("c", lr="0.5x"), aa.Counterfactual(("c",), 0.25)):
        exact = truth - aa.retrain(case.run, case.problem, what).performance(gamma)
        found = aa.predict(case.run, case.problem, what, gamma, readout="displaced")
        assert_close(found, exact, 1e-8)
    nearly = aa.Counterfactual.change("a", lr="0.99999x")
    exact = truth - aa.retrain(case.run, case.problem, nearly).performance(gamma)
    assert_close(aa.predict(case.run, case.problem, nearly, gamma), exact, 1e-2)


@pytest.mark.parametrize("every", [1, 5, 12])
def test_the_checkpoints_do_not_matter(every: int) -> None:
    case, what = recorded("mlp", "adamw"), aa.Counterfactual.change("b", lr="0.5x")
    found = aa.predict(case.every(every), case.problem, what, queries())
    assert_close(found, predicted(case, what, queries()), 1e-11)
    model = aa.retrain(case.every(every), case.problem, what)
    assert equal(model.params, aa.retrain(case.run, case.problem, what).params)


# ---- what is known of an estimate ------------------------------------------------------------------------------------


def test_an_estimate_says_what_it_answers_and_how_far_to_believe_it() -> None:
    case, what = recorded("mlp", "momentum"), aa.Counterfactual.change("b", lr="0.5x")
    found = aa.estimate(case.run, case.problem, what, queries())
    assert found.units["counterfactual"].tolist() == ["b with lr 0.5x"]
    assert found.provenance["semantics"] == "change"
    assert found.reliability.assumptions[0].startswith("change: the changed steps were taken with other")
    assert not any("freeze" in a for a in found.reliability.assumptions)
    assert any("measured on skipped stages and steps" in a for a in found.reliability.assumptions)
    assert found.reliability.words and found.reliability.calibration is None
    assert set(found.readings) == {"linear", "displaced", "link"}
    end, start = case.run.states[9].state.params, case.run.states[4].state
    for k in B:
        start = taken(case, what, start, k)
    moved = (vector(end) - vector(start.params)).norm() / vector(case.run.states[-1].state.params).norm()
    assert found.reliability.moved == pytest.approx(float(moved), rel=1e-9)


def test_a_skipped_stage_is_estimated_with_the_very_figures_of_its_stage_effect() -> None:
    case = recorded("mlp", "momentum")
    found = aa.estimate(case.run, case.problem, aa.Counterfactual.skip("b"), queries(), cache=memory_cache())
    stage = aa.stage_effects(case.run, case.problem, queries(), stages=["b"], cache=memory_cache())
    assert torch.equal(found.effects, stage.effects)
    assert found.reliability == stage.reliability


def test_a_what_if_carries_the_reliability_of_its_estimate() -> None:
    case, what = recorded("mlp", "momentum"), aa.Counterfactual.change("b", momentum=0.5)
    found = aa.what_if(case.run, case.problem, what, queries())
    assert found.reliability == aa.estimate(case.run, case.problem, what, queries()).reliability
    assert_close(found.truth, effect(case, what, queries()), 1e-12)
    assert found.agreement.pearson > 0.9


def test_a_performance_without_derivative_is_retrained_and_its_estimate_is_not_a_number() -> None:
    case, what = recorded("mlp", "momentum"), aa.Counterfactual.skip("b")
    gamma = aa.accuracy(*zoo.examples(40, seed=9))
    found = aa.what_if(case.run, case.problem, what, gamma)
    assert bool(found.estimate.isnan().all()) and found.reliability is None and found.agreement.n == 0
    assert torch.equal(found.truth, effect(case, what, gamma).double())
    assert found.provenance["method"] == "none" and found.provenance["counterfactual"] == "skip b"
    with pytest.raises(RequestError, match="accuracy changes in steps"):
        aa.estimate(case.run, case.problem, what, gamma)
    with pytest.raises(RequestError, match="accuracy changes in steps"):
        aa.calibrate(case.run, case.problem, gamma)


# ---- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "kind", "numbers"),
    [
        ("0.5x", "times", (0.5,)),
        ("2 x", "times", (2.0,)),
        (0.01, "set", (0.01,)),
        ("1e-3", "set", (1e-3,)),
        (1, "set", (1.0,)),
        ("0.1 to 0", "linear", (0.1, 0.0)),
        ("cosine 0.1 to 1e-05", "cosine", (0.1, 1e-5)),
        ("0.1, .05,0.01", "list", (0.1, 0.05, 0.01)),
    ],
)
def test_a_change_is_read_from_its_text_and_says_it_again(how: Any, kind: Any, numbers: tuple[float, ...]) -> None:
    found = parse("lr", how)
    assert found == Change("lr", kind, numbers)
    assert parse("lr", found.text) == found


@pytest.mark.parametrize("number", [0.1 + 0.2, 1 / 3, 1e-17, 123456.0])
def test_no_digit_is_lost(number: float) -> None:
    for kind, count in (("times", 1), ("set", 1), ("linear", 2), ("cosine", 2), ("list", 3)):
        change = Change("lr[0]", kind, (number,) * count)  # type: ignore[arg-type]
        assert parse("lr[0]", change.text) == change


def test_a_change_is_named_by_what_it_changes() -> None:
    what = aa.Counterfactual.change("a", "b", steps=range(10, 12), lr="0.5x", momentum=0.8)
    assert what.name == "a + b + steps 10 to 11 with lr 0.5x, momentum 0.8"
    assert aa.Counterfactual(("a",), 1.5).name == "1.5 x a"


# ---- what makes no sense is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["", "x", "0.5 y", "half", "0.1 to", "0.1 to 0 to 1", "nan", "inf", "1,"])
def test_a_text_that_is_no_change_is_refused_with_what_is_expected(how: str) -> None:
    with pytest.raises(RequestError, match=r"lr=.*: expected 0.5x \(of what was recorded\)"):
        aa.Counterfactual.change("a", lr=how)


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("b", {"learning_rate": 0.1}, "'learning_rate' is no hyperparameter of these steps, which have lr, momentum"),
        ("b", {"lr[1]": 0.1}, r"'lr\[1\]' is no hyperparameter.*in 1 parameter group"),
        ("b", {"lr": "0.1, 0.2"}, "2 numbers for 5 changed steps"),
        ("b", {"lr": "-1x"}, "gives -0.05 in step 4"),
        ("b", {"lr": "1x"}, "leaves every step as it was recorded"),
        ("b", {"dampening": "3x"}, "leaves every step as it was recorded"),
        ("b", {"lr x": 0.1}, "names no hyperparameter"),
        ("b", {}, "at least one hyperparameter"),
    ],
)
def test_a_change_that_does_not_fit_the_run_is_refused(stage: str, changes: dict[str, Any], message: str) -> None:
    case = recorded("mlp", "momentum")
    with pytest.raises(RequestError, match=message):
        aa.retrain(case.run, case.problem, aa.Counterfactual.change(stage, **changes))


def test_momentum_that_torch_would_start_otherwise_is_refused() -> None:
    case = make_case(zoo.mlp, lambda p: torch.optim.SGD(p, lr=0.05, dampening=0.3))
    with pytest.raises(RequestError, match=r"step 4: momentum is switched on with dampening=0\.3"):
        aa.retrain(case.run, case.problem, aa.Counterfactual.change("b", momentum=0.9))
    aa.retrain(case.run, case.problem, aa.Counterfactual.change("b", momentum=0.9, dampening=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": ("a",), "scale": 0.5}, "taken in full"),
        ({"stages": ("a",), "scale": 1.0, "semantics": "zero_gradient"}, "taken in full"),
        ({"examples": (1,), "scale": 1.0, "semantics": "zero_gradient"}, "examples have no hyperparameters"),
        ({"scale": 1.0}, "at least one stage"),
    ],
)
def test_a_change_goes_with_nothing_else(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        aa.Counterfactual(**arguments, changes=(parse("lr", "0.5x"),))
    with pytest.raises(RequestError, match="changed twice"):
        aa.Counterfactual(("a",), 1.0, changes=(parse("lr", "0.5x"), parse("lr", 0.1)))
