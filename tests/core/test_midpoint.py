"""The midpoint method: second order where one stage is on its way, the boundary method where nothing is curved."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import aa_core as aa
from aa_core.errors import RequestError
from tests import zoo
from tests.core import oracle
from tests.core.cases import (
    STAGES,
    Case,
    assert_same_params,
    embeddings,
    make_case,
    memory_cache,
    queries,
    recorded,
    squares,
    vector,
)

PAIR = (("a", 4), ("b", 8))


def one_on_its_way(optimizer: str) -> Case:
    """Two stages: only the change of the first is ever propagated."""
    return make_case(zoo.mlp, zoo.OPTIMIZERS[optimizer], stages=PAIR)


@cache
def steered(factor: float) -> Case:
    """The first stage learns `factor` times as fast, so that it moves the model that much less."""

    def optimizer(params: list[Any]) -> torch.optim.Optimizer:
        made, step = torch.optim.SGD(params, lr=0.2 * factor, momentum=0.0), 0

        def count(*_: Any) -> None:
            nonlocal step
            step += 1
            made.param_groups[0]["lr"] = 0.2 * factor if step < 4 else 0.2

        made.register_step_post_hook(count)
        return made

    return make_case(zoo.mlp, optimizer, stages=PAIR)


@pytest.mark.parametrize("curvature", ["exact", "ggn"])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_it_is_a_dense_product_at_the_midpoints(optimizer: str, curvature: str) -> None:
    case = one_on_its_way(optimizer)
    before, after = (case.run.states[k].state for k in (0, 4))
    change = oracle.flatten(after) - oracle.flatten(before)
    size = len(vector(after.params))
    longest = change[:size].norm()
    for k in range(4, case.run.steps):
        at, path = case.run.states[k].state, change[:size]
        path = path * min(1.0, float(longest / path.norm()))
        half = oracle.unflatten(oracle.flatten(at) - torch.cat([path / 2, 0 * change[size:]]), at)
        change = case.oracle.dense(half, k, curvature) @ change
    found = embeddings(case.run, case.problem, method="midpoint", curvature=curvature)
    assert torch.allclose(vector(found["a"]), change[:size], rtol=1e-9, atol=1e-12)


def test_its_error_falls_with_the_third_power_of_the_change_and_that_of_the_boundary_with_the_second() -> None:
    errors: dict[str, list[float]] = {"midpoint": [], "boundary": []}
    for factor in (0.1, 0.05):
        case = steered(factor)
        without = aa.retrain(case.run, case.problem, aa.Counterfactual.skip("a")).params
        truth = vector(case.run.states[-1].state.params) - vector(without)
        for method, found in errors.items():
            estimate = vector(embeddings(case.run, case.problem, method=method)["a"])
            found.append(float((estimate - truth).norm()))
    assert errors["boundary"][0] / errors["boundary"][1] == pytest.approx(4, rel=0.15)
    assert errors["midpoint"][0] / errors["midpoint"][1] == pytest.approx(8, rel=0.15)


def test_a_what_if_of_stages_is_what_the_stages_effects_are() -> None:
    case, gamma = recorded("mlp", "momentum"), queries()
    asked: dict[str, Any] = {"method": "midpoint", "readout": "displaced", "cache": memory_cache()}
    stages = aa.stage_effects(case.run, case.problem, gamma, **asked)
    for name, effects in zip(STAGES, stages.effects, strict=True):
        found = aa.estimate(case.run, case.problem, aa.Counterfactual.skip(name), gamma, **asked)
        assert torch.equal(found.effects[0], effects) and found.reliability.estimator == (
            "midpoint",
            "exact",
            "displaced",
        )
        assert found.reliability.assumptions[-1] == stages.reliability.assumptions[-1]


def test_the_steps_of_a_stage_are_the_stage() -> None:
    case, gamma = one_on_its_way("momentum"), queries()
    asked: dict[str, Any] = {"readout": "linear", "curvature": "exact", "cache": memory_cache()}
    stage, steps = aa.Counterfactual.skip("a"), aa.Counterfactual((), steps=(0, 1, 2, 3))
    by = {
        (what.name, method): aa.predict(case.run, case.problem, what, gamma, method=method, **asked)
        for what in (stage, steps)
        for method in ("boundary", "midpoint")
    }
    for method in ("boundary", "midpoint"):
        torch.testing.assert_close(by[steps.name, method], by[stage.name, method], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(by[steps.name, "midpoint"], by[steps.name, "boundary"], rtol=1e-3)


@pytest.mark.parametrize("what", [aa.Counterfactual.skip("a"), aa.Counterfactual.without_examples(0)])
def test_a_what_if_by_another_method_is_refused(what: aa.Counterfactual) -> None:
    case = recorded("mlp", "momentum")
    method = "midpoint" if what.examples else "additive"
    with pytest.raises(RequestError, match="is estimated by boundary"):
        aa.estimate(case.run, case.problem, what, queries(), method=method)


@pytest.mark.parametrize("semantics", ["freeze", "zero_gradient"])
def test_where_training_is_affine_it_is_the_boundary(semantics: str) -> None:
    case = make_case(zoo.linear, zoo.OPTIMIZERS["nesterov"], squares)
    half, boundary = (
        embeddings(case.run, case.problem, method=m, semantics=semantics) for m in ("midpoint", "boundary")
    )
    for stage in STAGES:
        assert_same_params(half[stage], boundary[stage])


def test_the_last_stage_is_never_propagated() -> None:
    case = recorded("mlp", "adam")
    half, boundary = (embeddings(case.run, case.problem, method=m) for m in ("midpoint", "boundary"))
    assert_same_params(half["c"], boundary["c"], rtol=1e-12)
    assert not torch.allclose(vector(half["a"]), vector(boundary["a"]), rtol=1e-3)


def test_what_else_is_asked_makes_no_difference() -> None:
    case, cache_ = recorded("mlp", "momentum"), memory_cache()
    together = embeddings(case.run, case.problem, method="midpoint")
    alone = embeddings(case.run, case.problem, ("b",), method="midpoint", cache=cache_)
    assert_same_params(alone["b"], together["b"], rtol=1e-12)
    assert_same_params(
        embeddings(case.run, case.problem, method="midpoint", cache=cache_)["a"], together["a"], rtol=1e-12
    )


def test_checkpoints_make_no_difference() -> None:
    case = recorded("mlp", "momentum")
    some, all_ = (embeddings(run, case.problem, method="midpoint") for run in (case.every(5), case.run))
    for stage in STAGES:
        assert_same_params(some[stage], all_[stage])


def test_results_say_where_they_were_linearised() -> None:
    case = recorded("mlp", "momentum")
    found = aa.stage_effects(case.run, case.problem, queries(), method="midpoint", cache=memory_cache())
    assert any("half way" in said for said in found.reliability.assumptions)
    assert found.reliability.moved is not None and found.provenance["method"] == "midpoint"
