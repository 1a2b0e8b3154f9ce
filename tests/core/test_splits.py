"""Effects split by parameter, by cause and along the path: each part against brute force, and all parts add up."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import aa_core as aa
from aa_core.counterfactuals.counterfactual import blocks
from aa_core.effects.attribution import Attribution
from aa_core.effects.estimate import predict
from aa_core.effects.path_shares import path_shares
from aa_core.effects.splits import (
    CAUSES,
    COUNT,
    causes,
    collapse,
    stage_effects_by_parameter,
    step_effects_by_cause,
    step_effects_by_parameter,
)
from aa_core.errors import RequestError, UnknownStageError
from aa_core.performance import accuracy
from aa_core.replay import at_steps
from aa_core.stages import Stage
from aa_core.state import State, map_state
from tests import zoo
from tests.core.cases import (
    STAGES,
    Case,
    assert_close,
    assert_same_params,
    log_likelihood,
    make_case,
    memory_cache,
    queries,
    recorded,
    stage_effects,
    two_groups,
    vector,
)

SEMANTICS = ("freeze", "zero_gradient")
SOME = ("nesterov", "dampened", "adam-decay", "adamw")


def interrupted(case: Case) -> zoo.MemoryRun:
    """The same run with stage "a" coming back after "b"."""
    stages = (Stage("a", ((0, 4), (9, 12))), Stage("b", ((4, 9),)))
    return dataclasses.replace(case.run, stages=stages, digest="interrupted")


def part(found: Attribution, column: str, value: Any) -> Tensor:
    return found.effects[(found.units[column] == value).to_numpy(copy=True)]


# ---- by parameter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_parameters_add_up_to_the_step(optimizer: str, semantics: Any) -> None:
    case = recorded("mlp", optimizer)
    found = step_effects_by_parameter(case.run, case.problem, queries(), semantics=semantics)
    steps = aa.step_effects(case.run, case.problem, queries(), semantics=semantics)
    assert_close(collapse(found, "step").effects, steps.effects)
    assert_close(collapse(found, "step", "layer", "stage").effects.sum(0), steps.effects.sum(0))


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_part_is_the_derivative_in_that_parameters_change_alone(optimizer: str) -> None:
    case, step = recorded("mlp", optimizer), 7
    found = step_effects_by_parameter(case.run, case.problem, queries(), stages=["b"])
    of_step = found.units["step"] == step
    expected = [derivative_in(case, step, name) for name in found.units["parameter"][of_step]]
    assert_close(found.effects[of_step.to_numpy(copy=True)], torch.stack(expected), 1e-7)


def derivative_in(case: Case, step: int, name: str) -> Tensor:
    """d gamma / dt of training on from xi_{k+1} with (1 - t) of what step k did to one leaf taken back, at t = 0."""
    before, after, gamma = case.run.states[step].state, case.run.states[step + 1].state, log_likelihood(case)
    change = only(map_state(torch.sub, after, before), name)

    def end(t: Tensor) -> Tensor:
        state = map_state(lambda a, d: a + t * d, after, change)
        for k in range(step + 1, case.run.steps):
            state = case.oracle.step(state, k)
        return gamma(state.params)

    return torch.autograd.functional.jacobian(end, torch.zeros((), dtype=torch.float64))


def only(change: State, name: str) -> State:
    keep = lambda named: {n: t if n == name else torch.zeros_like(t) for n, t in named.items()}  # noqa: E731
    count = change.count if name == COUNT else torch.zeros_like(change.count)
    return State(keep(change.params), {s: keep(named) for s, named in change.slots.items()}, count)


def test_layers_own_their_parameters_and_the_step_count_stands_by_itself() -> None:
    case = recorded("mlp", "adamw")
    units = step_effects_by_parameter(case.run, case.problem, queries().mean()).units
    assert units["parameter"][:5].tolist() == ["0.weight", "0.bias", "2.weight", "2.bias", COUNT]
    assert units["layer"][:5].tolist() == ["0", "0", "2", "2", COUNT]
    assert len(units) == 12 * 5


def test_parameter_groups_of_the_optimizer_can_be_added_up() -> None:
    case = make_case(zoo.mlp, two_groups(torch.optim.AdamW, lr=0.01, weight_decay=0.1, eps=1e-4))
    found = step_effects_by_parameter(case.run, case.problem, queries())
    by_group = collapse(found, "group")
    assert by_group.units["group"].tolist() == [0, 1, -1]
    for number, ending in enumerate(("weight", "bias")):
        own = found.units["parameter"].str.endswith(ending).to_numpy(copy=True)
        assert_close(by_group.effects[number], found.effects[own].sum(0))


@pytest.mark.parametrize("optimizer", SOME)
@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("come_back", [False, True])
def test_parameters_add_up_to_the_boundary_effect_of_the_stage(optimizer: str, semantics: Any, come_back: bool) -> None:
    case = recorded("mlp", optimizer)
    run = interrupted(case) if come_back else case.run
    found = stage_effects_by_parameter(run, case.problem, queries(), semantics=semantics)
    assert_close(collapse(found, "stage").effects, stage_effects(run, case.problem, queries(), semantics=semantics))


def test_stages_that_are_not_asked_about_have_no_part() -> None:
    case = recorded("mlp", "momentum")
    every = stage_effects_by_parameter(case.run, case.problem, queries())
    some = stage_effects_by_parameter(case.run, case.problem, queries(), stages=["b"])
    assert set(some.units["stage"]) == {"b"}
    assert_close(some.effects, part(every, "stage", "b"))
    with pytest.raises(UnknownStageError):
        stage_effects_by_parameter(case.run, case.problem, queries(), stages=["z"])


# ---- by cause --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
def test_causes_add_up_to_the_step_and_the_data_are_its_zero_gradient_effect(optimizer: str) -> None:
    case = recorded("mlp", optimizer)
    found = step_effects_by_cause(case.run, case.problem, queries())
    freeze, data = (aa.step_effects(case.run, case.problem, queries(), semantics=s) for s in SEMANTICS)
    assert_close(collapse(found, "step").effects, freeze.effects)
    assert_close(part(found, "cause", "data"), data.effects)
    assert found.units["cause"][:3].tolist() == list(CAUSES)


def pushes(case: Case, k: int) -> dict[str, State]:
    return causes(case.training(), case.run.states[k], case.run.states[k + 1], case.run.inputs[k])


@pytest.mark.parametrize("nesterov", [False, True])
def test_causes_of_sgd_have_their_closed_form(nesterov: bool) -> None:
    eta, mu, lam = 0.05, 0.9, 0.01
    case = recorded("mlp", "nesterov" if nesterov else "momentum")
    found, at = pushes(case, 5), case.run.states[5].state
    reach = eta * (1 + mu) if nesterov else eta  # how far one unit of gradient moves the parameters
    velocity = {n: v for n, v in at.slots["momentum_buffer"].items()}
    assert_same_params(found["weight decay"].params, {n: -reach * lam * p for n, p in at.params.items()})
    carried = eta * (mu * mu if nesterov else mu)
    assert_same_params(found["momentum"].params, {n: -carried * v for n, v in velocity.items()})
    assert_same_params(found["momentum"].slots["momentum_buffer"], {n: (mu - 1) * v for n, v in velocity.items()})
    assert float(found["momentum"].count) == 1


def test_decay_of_adamw_is_its_shrinking_of_the_parameters() -> None:
    case = recorded("mlp", "adamw")
    found, at = pushes(case, 5)["weight decay"], case.run.states[5].state
    assert_same_params(found.params, {n: -0.01 * 0.1 * p for n, p in at.params.items()}, 1e-9)
    assert all(not t.any() for slot in found.slots.values() for t in slot.values())


@pytest.mark.parametrize(
    ("optimizer", "same"), [("momentum", True), ("nesterov", True), ("adamw", True), ("adam-decay", False)]
)
def test_only_in_adam_does_it_matter_whether_decay_or_data_come_first(optimizer: str, same: bool) -> None:
    case, k = recorded("mlp", optimizer), 5
    step = case.run.inputs[k]
    undecayed = step._replace(hyper=tuple({**h, "weight_decay": 0.0} for h in step.hyper))
    with_data = case.training().step(case.run.states[k], undecayed).state
    decay_last = {n: case.run.states[k + 1].state.params[n] - p for n, p in with_data.params.items()}
    decay_first = pushes(case, k)["weight decay"].params
    assert torch.allclose(vector(decay_first), vector(decay_last), rtol=1e-9, atol=1e-12) == same


@pytest.mark.parametrize(
    ("optimizer", "absent"), [("sgd", "momentum"), ("sgd", "weight decay"), ("adam", "weight decay")]
)
def test_a_cause_that_is_not_there_has_no_effect(optimizer: str, absent: str) -> None:
    case = recorded("mlp", optimizer)
    found = step_effects_by_cause(case.run, case.problem, queries())
    assert not part(found, "cause", absent).any()


def test_causes_know_parameter_groups() -> None:
    case = make_case(zoo.mlp, two_groups(torch.optim.AdamW, lr=0.01, weight_decay=0.1, eps=1e-4))
    found = pushes(case, 3)["weight decay"].params
    assert all(bool(t.any()) == n.endswith("weight") for n, t in found.items())


# ---- any split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [5, 12])
def test_fewer_checkpoints_and_less_memory_change_nothing(every: int) -> None:
    case = recorded("mlp", "adamw")
    run = case.every(every)
    for split in (step_effects_by_cause, step_effects_by_parameter, stage_effects_by_parameter):
        found, expected = split(run, case.problem, queries(), memory=1), split(case.run, case.problem, queries())
        assert_close(found.effects, expected.effects)


def test_a_split_is_told_how_far_it_can_be_believed() -> None:
    case = recorded("mlp", "momentum")
    found = step_effects_by_cause(case.run, case.problem, queries(), stages=["c"])
    whole = aa.step_effects(case.run, case.problem, queries(), stages=["c"])
    assert found.reliability == whole.reliability
    assert found.provenance == whole.provenance
    assert list(found.to_frame().columns) == ["step", "stage", "cause", "example", "effect", "unit"]


def test_collapsing_to_a_column_that_is_not_there_is_refused() -> None:
    case = recorded("mlp", "sgd")
    with pytest.raises(RequestError, match="no column 'layer'"):
        collapse(step_effects_by_cause(case.run, case.problem, queries().mean()), "layer")


@pytest.mark.parametrize("wrong", [{"curvature": "full"}, {"semantics": "skip"}])
def test_wrong_requests_are_refused(wrong: dict[str, Any]) -> None:
    case = recorded("mlp", "sgd")
    for split in (step_effects_by_parameter, stage_effects_by_parameter):
        with pytest.raises(RequestError, match="expected one of"):
            split(case.run, case.problem, queries(), **wrong)


# ---- path shares -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["stage", "step"])
@pytest.mark.parametrize("every", [1, 5, 12])
def test_path_shares_telescope_and_are_differences_along_the_recorded_path(by: Any, every: int) -> None:
    case, gamma = recorded("mlp", "adamw"), queries()
    along = [log_likelihood(case)(s.state.params) for s in case.run.states]
    found = path_shares(case.every(every), case.problem, gamma, by)
    edges = [0, 4, 9, 12] if by == "stage" else range(13)
    assert_close(found.shares, torch.stack([along[e] - along[s] for s, e in pairwise(edges)]))
    assert_close(found.start + found.shares.sum(0), found.end, 1e-12)
    assert_close(found.end, along[-1])


def test_a_stage_that_comes_back_shares_in_all_of_its_blocks() -> None:
    case = recorded("mlp", "momentum")
    steps = path_shares(case.run, case.problem, queries(), "step").shares
    found = path_shares(interrupted(case), case.problem, queries())
    assert found.units["stage"].tolist() == ["a", "b"]
    assert_close(found.shares[0], steps[:4].sum(0) + steps[9:].sum(0))


def test_path_shares_need_no_derivative_and_are_never_called_effects() -> None:
    case = recorded("mlp", "momentum")
    frame = path_shares(case.run, case.problem, accuracy(*zoo.examples(40, seed=9)).mean()).to_frame()
    assert list(frame.columns) == ["stage", "example", "share", "unit"]
    assert frame["stage"].tolist() == list(STAGES)
    with pytest.raises(RequestError, match="by='epoch'"):
        path_shares(case.run, case.problem, queries(), "epoch")  # type: ignore[arg-type]


def test_one_replay_visits_all_states_in_order() -> None:
    case = recorded("mlp", "momentum")
    visited = list(at_steps(case.every(5), case.training(), [9, 0, 3, 3, 12]))
    assert [at.step for at in visited] == [0, 3, 9, 12]
    for at in visited:
        assert_same_params(at.state.params, case.run.states[at.step].state.params, 1e-12)


# ---- ranges of steps as a counterfactual -----------------------------------------------------------------------------


def test_steps_are_named_and_grouped_by_their_ranges() -> None:
    assert blocks([7, 3, 4, 5, 4]) == ((3, 6), (7, 8))
    assert aa.Counterfactual.skip_steps(3, 4, 5, 7).name == "skip steps 3 to 5 + step 7"
    assert aa.Counterfactual.without_examples(1, 2, 3, 4).name == "skip 4 examples (1, 2, 3, ...)"


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_the_range_of_a_stage_is_predicted_as_the_stage(semantics: Any, scale: float) -> None:
    case = recorded("mlp", "adamw")
    ask = lambda what: predict(case.run, case.problem, what, queries(), cache=memory_cache())  # noqa: E731
    steps = ask(aa.Counterfactual((), scale, semantics, tuple(range(4, 9))))
    assert_close(steps, ask(aa.Counterfactual(("b",), scale, semantics)))


def test_ranges_that_do_not_touch_add_up() -> None:
    case = recorded("mlp", "momentum")
    ask = lambda *steps: predict(case.run, case.problem, aa.Counterfactual.skip_steps(*steps), queries())  # noqa: E731
    assert_close(ask(1, 2, 6, 7, 8), ask(1, 2) + ask(6, 7, 8))


def test_single_steps_are_predicted_as_their_step_effects() -> None:
    case = recorded("mlp", "adamw")
    found = predict(case.run, case.problem, aa.Counterfactual.skip_steps(5), queries())
    assert_close(found, aa.step_effects(case.run, case.problem, queries()).effects[5])


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_the_last_steps_displaced_are_exactly_retrained(semantics: Any) -> None:
    case, gamma = recorded("mlp", "adamw"), queries()
    what = aa.Counterfactual.skip_steps(10, 11, semantics=semantics)
    found = predict(case.run, case.problem, what, gamma, readout="displaced")
    recorded_values = aa.final_model(case.run, case.problem).performance(gamma)
    assert_close(found, recorded_values - aa.retrain(case.run, case.problem, what).performance(gamma))


def test_steps_beside_a_stage_join_its_block() -> None:
    case = recorded("mlp", "momentum")
    joined = predict(case.run, case.problem, aa.Counterfactual(("c",), steps=(8,)), queries())
    assert_close(joined, predict(case.run, case.problem, aa.Counterfactual.skip_steps(8, 9, 10, 11), queries()))


def test_a_step_outside_the_run_is_refused() -> None:
    case = recorded("mlp", "momentum")
    with pytest.raises(RequestError, match="step 12 is not in the run"):
        predict(case.run, case.problem, aa.Counterfactual.skip_steps(12), queries())
