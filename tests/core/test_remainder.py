"""The bound on the error of a stage effect: its constants against dense matrices, and the true error below it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import aa_core as aa
from aa_core.confidence import disagreement
from aa_core.confidence.remainder import Remainder, remainders
from aa_core.errors import NonFiniteError, RequestError, UnsupportedError
from aa_core.plain import to_json
from aa_core.stages import Stage
from tests import zoo
from tests.core import test_phases
from tests.core.cases import (
    STAGES,
    Case,
    assert_close,
    log_likelihood,
    make_case,
    memory_cache,
    queries,
    recorded,
    squares,
    stage_effects,
    vector,
)
from tests.core.oracle import parameter_count

LOGIT = aa.performance(*zoo.examples(5, 9), lambda f, y: f.gather(1, y[:, None])[:, 0], name="logit", unit="nats")


def bounds(case: Case, **request: object) -> dict[str, Remainder]:
    return {r.stage: r for r in remainders(case.run, case.problem, queries(), **request)}  # type: ignore[arg-type]


def spectrum(case: Case, k: int) -> Tensor:
    """Eigenvalues of -(d theta' / d g) H at a recorded step, from dense matrices."""
    state, size = case.run.states[k].state, parameter_count(case.run.states[k].state)
    block = (case.oracle.dense(state, k, "none") - case.oracle.dense(state, k, "exact"))[:size, :size]
    return torch.linalg.eigvals(block).real


# ---- the constants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_distances_and_learning_rates_are_those_of_the_recorded_run(optimizer: str) -> None:
    case, found = recorded("mlp", optimizer), bounds(recorded("mlp", optimizer))
    points = [vector(s.state.params) for s in case.run.states]
    hyper = case.run.inputs[0].hyper[0]
    lr = hyper["lr"] / (1 - hyper.get("momentum", 0.0))
    for name, (start, stop) in zip(STAGES, ((0, 4), (4, 9), (9, 12)), strict=True):
        path = sum(float((points[k + 1] - points[k]).norm()) for k in range(start, stop))
        assert found[name].displacement == pytest.approx(path, rel=1e-9)
        assert found[name].net == pytest.approx(float((points[stop] - points[start]).norm()), rel=1e-9)
        assert found[name].lr_after == pytest.approx((12 - stop) * lr)
        assert found[name].net <= found[name].displacement


@pytest.mark.parametrize(("optimizer", "carried"), [("sgd", 0.0), ("momentum", 0.9), ("adam", 0.9), ("adamw", 0.9)])
def test_lambda_is_the_largest_eigenvalue_in_the_optimizers_metric(optimizer: str, carried: float) -> None:
    case = recorded("linear", optimizer)
    found = bounds(case, samples=2)["a"]
    assert found.samples == 2
    lr = case.run.inputs[0].hyper[0]["lr"] / (1 - case.run.inputs[0].hyper[0].get("momentum", 0.0))
    of_each = [spectrum(case, k) / (1 - carried) / lr for k in (6, 10)]  # the middles of two halves of steps 4 to 11
    assert found.largest == pytest.approx(max(float(s.abs().max()) for s in of_each), rel=1e-2)
    if optimizer == "sgd":
        assert found.unstable <= 1e-6, "cross-entropy of a linear model is convex, and the steps are short"


def test_downhill_curvature_and_overshooting_are_what_grows() -> None:
    case = recorded("mlp", "sgd")
    found, lr = bounds(case, samples=2)["a"], 0.05
    lowest = max(float(-(spectrum(case, k) / lr).min()) for k in (6, 10))
    assert found.unstable == pytest.approx(lowest, rel=0.05) and lowest > 0
    steep = make_case(zoo.linear, lambda p: torch.optim.SGD(p, lr=3.0), squares)
    over = max(float((spectrum(steep, k) - 2).max()) / 3.0 for k in (6, 10))
    assert bounds(steep, samples=2)["a"].unstable == pytest.approx(over, rel=1e-2) and over > 0


def test_slope_and_curvature_of_the_performance_are_those_of_its_dense_derivatives() -> None:
    case = recorded("linear", "sgd")
    found, final = bounds(case)["a"], case.run.states[-1].state.params

    def mean(flat: Tensor) -> Tensor:
        parts = dict(zip(final, flat.split([p.numel() for p in final.values()]), strict=True))
        return log_likelihood(case)({n: parts[n].view_as(p) for n, p in final.items()}).mean()

    at = vector(final)
    assert found.slope == pytest.approx(float(torch.autograd.functional.jacobian(mean, at).norm()), rel=1e-9)
    largest = float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(mean, at)).abs().max())
    assert found.curvature == pytest.approx(largest, rel=1e-2)


# ---- the bound -------------------------------------------------------------------------------------------------------


def test_where_nothing_bends_the_bound_is_nothing() -> None:
    case = make_case(zoo.linear, zoo.OPTIMIZERS["sgd"], squares)
    for found in remainders(case.run, case.problem, LOGIT):
        assert found.bend < 1e-9 and found.curvature < 1e-9 and found.slope > 0
        assert found.log10_bound < -9


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_the_true_error_is_below_the_bounds_and_the_sharp_one_is_sharper(optimizer: str) -> None:
    case, gamma = recorded("mlp", optimizer), queries().mean()
    estimates = stage_effects(case.run, case.problem, gamma)
    truth = aa.final_model(case.run, case.problem).performance(gamma)
    for name, estimate in zip(STAGES, estimates, strict=True):
        found = bounds(case)[name]
        effect = truth - aa.retrain(case.run, case.problem, aa.Counterfactual.skip(name)).performance(gamma)
        error = abs(float(estimate - effect))
        assert 0 < error <= 10**found.log10_sharp < 10**found.log10_bound


def test_the_last_stage_is_bounded_by_the_curvature_of_the_performance_alone() -> None:
    found = bounds(recorded("mlp", "momentum"), samples=1)["c"]
    assert found.lr_after == 0 and found.bend == 0
    assert found.log10_bound == pytest.approx(math.log10(found.displacement**2 / 2 * found.curvature))


def test_the_formula_is_quadratic_in_the_displacement_and_exponential_in_the_learning_rate() -> None:
    one = Remainder("a", 0.1, 0.1, 2.0, 3.0, 1.0, 0.5, 2.0, 0.7, 4)
    twice = one._replace(displacement=0.2)
    assert twice.log10_bound - one.log10_bound == pytest.approx(math.log10(4))
    assert 10**one.log10_bound == pytest.approx(0.1**2 / 2 * math.exp(2 * 3 * 2) * (2 * 0.5 * 2 + 0.7))
    assert 10**one.log10_sharp == pytest.approx(0.1**2 / 2 * math.exp(2 * 1 * 2) * (2 * 0.5 * 2 + 0.7))
    assert one._replace(largest=1e6).log10_bound > 1e6, "no overflow"


def test_a_stage_that_comes_back_is_followed_from_its_first_end() -> None:
    case = recorded("mlp", "sgd")
    run = dataclasses.replace(case.run, stages=(Stage("a", ((0, 4), (9, 12))), Stage("b", ((4, 9),))))
    found = {r.stage: r for r in remainders(run, case.problem, queries())}
    apart = bounds(case)
    assert found["a"].displacement == pytest.approx(apart["a"].displacement + apart["c"].displacement)
    assert found["a"].net == pytest.approx(apart["a"].net + apart["c"].net)
    assert found["a"].lr_after == pytest.approx(8 * 0.05)


# ---- where it is shown, and what is refused --------------------------------------------------------------------------


def test_a_result_carries_its_bounds_on_request_and_writes_them_as_json() -> None:
    case = recorded("mlp", "momentum")
    plain = aa.stage_effects(case.run, case.problem, queries(), stages=["a", "c"], cache=memory_cache())
    found = aa.with_remainders(plain, case.run, case.problem, queries())
    assert plain.reliability.remainders == () and [r.stage for r in found.reliability.remainders] == ["a", "c"]
    assert found.reliability.verdict == plain.reliability.verdict
    assert_close(found.effects, plain.effects)
    written = json.loads(to_json(found.reliability.to_dict()))["remainders"]
    assert written[0]["log10_bound"] == pytest.approx(found.reliability.remainders[0].log10_bound)
    infinite = Remainder("a", 0.1, 0.1, 2.0, 3.0, 1.0, 0.0, 2.0, 0.0, 4).to_dict()
    assert infinite["log10_bound"] is None


def test_every_result_knows_how_far_each_stage_moved_and_how_well_the_run_replayed() -> None:
    case = make_case(zoo.mlp, zoo.OPTIMIZERS["momentum"])
    run = dataclasses.replace(case.run, digest="drift")
    found = aa.stage_effects(run, case.problem, queries(), cache=memory_cache())
    nets = [bounds(case)[name].net for name in STAGES]
    assert found.reliability.displacements == pytest.approx(nets)
    assert found.reliability.replay_drift == 0.0
    off = [s._replace(state=s.state._replace(params=dict(s.state.params))) for s in run.states]
    off[6].state.params["0.bias"] = off[6].state.params["0.bias"] + 1e-12
    drifted = dataclasses.replace(run, states=off, digest="drifted")
    again = aa.stage_effects(drifted, case.problem, queries(), cache=memory_cache()).reliability
    assert 0 < (again.replay_drift or 0.0) < 1e-8


def test_optimizers_without_such_a_bound_are_refused_by_name() -> None:
    matrices = torch.nn.Sequential(torch.nn.Linear(zoo.FEATURES, zoo.CLASSES, bias=False))
    case = make_case(lambda: matrices, lambda p: torch.optim.Muon(p, lr=0.01))
    with pytest.raises(UnsupportedError, match="Muon"):
        bounds(case)


def test_a_new_optimizer_between_stages_is_followed_and_new_parameters_are_refused(tmp_path: Path) -> None:
    first = test_phases.record(tmp_path / "first", test_phases.new_optimizer)
    found = {r.stage: r for r in remainders(first.run, first.problem, test_phases.GAMMA)}
    for stage in first.run.stages:
        start, stop = (vector(first.run.load(k).state.params) for k in (stage.start, stage.stop))
        assert found[stage.name].net == pytest.approx(float((stop - start).norm()), rel=1e-6)
    assert len(first.run.phases) == 2 and all(math.isfinite(r.log10_bound) for r in found.values())
    second = test_phases.record(tmp_path / "second", test_phases.head_replaced)
    with pytest.raises(UnsupportedError, match="added or replaced between stages"):
        remainders(second.run, second.problem, test_phases.GAMMA)


def test_a_run_without_such_a_stage_is_refused() -> None:
    case = recorded("mlp", "sgd")
    run = dataclasses.replace(case.run, stages=(*case.run.stages, Stage("empty", ())))
    with pytest.raises(RequestError, match="nothing to bound"):
        remainders(run, case.problem, queries(), stages=["empty"])


# ---- the other estimators --------------------------------------------------------------------------------------------


def test_a_result_carries_its_agreement_with_every_other_estimator_on_request() -> None:
    case, cache = recorded("mlp", "momentum"), memory_cache()
    plain = aa.stage_effects(case.run, case.problem, queries(), stages=["a", "b"], cache=cache)
    found = aa.with_disagreement(plain, case.run, case.problem, queries(), cache=cache)
    assert len(found.reliability.others) == 27 and not plain.reliability.others
    assert found.reliability.others["boundary, exact, linear"].relative_error == 0
    for method, curvature, readout in (("additive", "ggn", "link"), ("boundary", "none", "displaced")):
        other = stage_effects(
            case.run, case.problem, queries(), stages=["a", "b"], method=method, curvature=curvature, readout=readout
        )
        expected = aa.agreement(other.numpy(), plain.effects.numpy())
        assert found.reliability.others[f"{method}, {curvature}, {readout}"] == expected
    written = json.loads(to_json(found.reliability.to_dict()))["others"]
    assert 0 < written["additive, exact, linear"]["relative_error"] < 1


def test_an_estimator_that_overflows_agrees_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("mlp", "momentum")
    plain = aa.stage_effects(case.run, case.problem, queries(), cache=memory_cache())

    def overflowing(*arguments: Any, method: str, **more: Any) -> aa.Attribution:
        if method == "additive":
            raise NonFiniteError("overflowed")
        return aa.stage_effects(*arguments, method=method, **more)

    monkeypatch.setattr(disagreement, "stage_effects", overflowing)
    others = aa.with_disagreement(plain, case.run, case.problem, queries()).reliability.others
    assert math.isnan(others["additive, ggn, link"].pearson) and others["boundary, ggn, link"].pearson > 0.5
