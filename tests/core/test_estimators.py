"""Every estimator against brute force, closed forms and the others: what is the same by definition must be the same."""

from __future__ import annotations

import dataclasses
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import aa_core as aa
from aa_core.confidence.reliability import ATTENTION
from aa_core.effects import adjoint
from aa_core.errors import Cancelled, NonFiniteError, RequestError, UnsupportedError
from aa_core.stages import Stage
from aa_core.state import Params, State, nbytes
from tests import zoo
from tests.core import oracle
from tests.core.cases import (
    STAGES,
    Case,
    assert_close,
    assert_same_params,
    embeddings,
    log_likelihood,
    make_case,
    memory_cache,
    queries,
    recorded,
    scheduled,
    squares,
    stage_effects,
    two_groups,
    vector,
    warm_and_cosine,
)

SEMANTICS = ("freeze", "zero_gradient")
CURVATURES = ("exact", "ggn", "none")
READOUTS = ("linear", "displaced", "link")
SMOOTH = ("sgd", "momentum", "nesterov", "adam", "adamw")


def retrained(case: Case, *stages: str, semantics: str = "freeze") -> aa.TrainedModel:
    return aa.retrain(case.run, case.problem, aa.Counterfactual.skip(*stages, semantics=semantics))  # type: ignore[arg-type]


def difference(a: Params, b: Params) -> Params:
    return {n: a[n] - b[n] for n in a}


def final(case: Case) -> Params:
    return case.run.states[-1].state.params


def sums(steps: aa.Attribution) -> Tensor:
    """Sum of step effects per stage, [stages, values]."""
    return torch.stack([steps.effects[torch.tensor((steps.units["stage"] == s).to_numpy())].sum(0) for s in STAGES])


# ---- step effects are derivatives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
def test_step_effects_are_the_gradient_in_the_treatments_of_the_unrolled_run(optimizer: str, semantics: str) -> None:
    case = recorded("mlp", optimizer)
    expected = case.oracle.treatment_gradient(case.run.states[0].state, log_likelihood(case), semantics)
    assert_close(aa.step_effects(case.run, case.problem, queries(), semantics=semantics).effects, expected)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("model", ["linear", "attention", "lstm"])
def test_so_they_are_for_every_model(model: str, optimizer: str) -> None:
    case = recorded(model, optimizer, micro_batches=2)
    expected = case.oracle.treatment_gradient(case.run.states[0].state, log_likelihood(case))
    assert_close(aa.step_effects(case.run, case.problem, queries()).effects, expected, 1e-7)


def test_so_they_are_with_groups_and_a_schedule() -> None:
    make = scheduled(two_groups(torch.optim.AdamW, lr=0.01, weight_decay=0.1, eps=1e-4), warm_and_cosine)
    case = make_case(zoo.mlp, make)
    expected = case.oracle.treatment_gradient(case.run.states[0].state, log_likelihood(case))
    assert_close(aa.step_effects(case.run, case.problem, queries()).effects, expected)


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("optimizer", ["momentum", "dampened", "adam-decay"])
def test_additive_embeddings_are_finite_differences_of_the_final_parameters(optimizer: str, semantics: str) -> None:
    case = recorded("mlp", optimizer)
    found = embeddings(case.run, case.problem, method="additive", semantics=semantics)
    for stage in case.run.stages:
        expected = case.oracle.treatment_difference(case.run.states[0].state, stage.steps, semantics)
        assert_same_params(found[stage.name], expected.params, 1e-6)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
@pytest.mark.parametrize("model", ["mlp", "attention", "lstm"])
def test_the_step_effects_of_a_stage_sum_to_its_additive_effect(
    model: str, optimizer: str, semantics: str, curvature: str
) -> None:
    case = recorded(model, optimizer)
    request: dict[str, Any] = {"semantics": semantics, "curvature": curvature}
    forward = stage_effects(case.run, case.problem, queries(), method="additive", **request)
    assert_close(sums(aa.step_effects(case.run, case.problem, queries(), **request)), forward, 1e-8)


@pytest.mark.parametrize("curvature", ["ggn", "none"])
def test_step_effects_with_other_curvatures_are_dense_products(curvature: str) -> None:
    case = recorded("mlp", "adam")
    cotangent = torch.zeros(5, len(oracle.flatten(case.run.states[0].state)), dtype=torch.float64)
    at = final(case)
    jacobian = torch.func.jacrev(log_likelihood(case))(at)
    cotangent[:, : len(vector(at))] = torch.cat([jacobian[n].flatten(1) for n in at], 1)
    expected = []
    for k in reversed(range(case.run.steps)):
        before, after = (case.run.states[k + i].state for i in (0, 1))
        expected.append(cotangent @ (oracle.flatten(after) - oracle.flatten(before)))
        cotangent = cotangent @ case.oracle.dense(before, k, curvature)
    found = aa.step_effects(case.run, case.problem, queries(), curvature=curvature).effects  # type: ignore[arg-type]
    assert_close(found, torch.stack(expected[::-1]))


# ---- boundary effects ------------------------------------------------------------------------------------------------


def without_data(case: Case, start: int, stop: int) -> Tensor:
    """xi_stop, had the data of [start, stop) been ignored; flat."""
    state = case.run.states[start].state
    for k in range(start, stop):
        state = case.oracle.step_without_data(state, k)
    return oracle.flatten(state)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_boundary_embedding_is_a_dense_product(optimizer: str, semantics: str, curvature: str) -> None:
    case = recorded("mlp", optimizer)
    request: dict[str, Any] = {"semantics": semantics, "curvature": curvature}
    found = embeddings(case.run, case.problem, **request)
    for stage in case.run.stages:
        before, after = (oracle.flatten(case.run.states[k].state) for k in (stage.start, stage.stop))
        change = after - (before if semantics == "freeze" else without_data(case, stage.start, stage.stop))
        for k in range(stage.stop, case.run.steps):
            change = case.oracle.dense(case.run.states[k].state, k, curvature) @ change
        assert_close(vector(found[stage.name]), change[: len(vector(found[stage.name]))])


@pytest.mark.parametrize("curvature", ["exact", "none"])
@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
def test_the_displaced_boundary_effect_of_the_last_stage_is_exact(
    optimizer: str, semantics: str, curvature: str
) -> None:
    case = recorded("mlp", optimizer)
    truth = aa.final_model(case.run, case.problem).performance(queries())
    truth = truth - retrained(case, "c", semantics=semantics).performance(queries())
    request: dict[str, Any] = {"stages": ["c"], "semantics": semantics, "curvature": curvature}
    assert_close(stage_effects(case.run, case.problem, queries(), readout="displaced", **request)[0], truth, 1e-11)


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "maximize"])
def test_a_linear_model_with_quadratic_loss_has_exact_boundary_embeddings(optimizer: str, semantics: str) -> None:
    case = recorded("linear", optimizer, "squares")  # Phi_k is affine in the state
    found = embeddings(case.run, case.problem, semantics=semantics)
    for stage in STAGES:
        expected = difference(final(case), retrained(case, stage, semantics=semantics).params)
        assert_same_params(found[stage], expected, 1e-12)


def test_so_it_has_with_groups_a_schedule_and_micro_batches() -> None:
    make = scheduled(two_groups(torch.optim.SGD, lr=0.03, momentum=0.9, weight_decay=0.1), warm_and_cosine)
    case = make_case(zoo.linear, make, squares, micro_batches=2)
    for stage, found in embeddings(case.run, case.problem).items():
        assert_same_params(found, difference(final(case), retrained(case, stage).params), 1e-12)


def test_a_curved_loss_has_not() -> None:
    case = recorded("linear", "momentum", "cross-entropy")
    found = vector(embeddings(case.run, case.problem)["a"])
    exact = vector(difference(final(case), retrained(case, "a").params))
    assert 1e-6 < float((found - exact).norm() / exact.norm()) < 0.5


def test_one_step_changes_the_same_in_both_methods() -> None:
    case = make_case(zoo.mlp, zoo.OPTIMIZERS["adam"], stages=tuple((f"s{k}", 1) for k in range(12)))
    boundary, additive = (embeddings(case.run, case.problem, method=m) for m in ("boundary", "additive"))
    for name in boundary:
        assert_same_params(boundary[name], additive[name], 1e-12)


@pytest.mark.parametrize("method", ["boundary", "additive"])
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_stage_in_two_blocks_is_the_sum_of_both(method: str, semantics: str) -> None:
    case = recorded("mlp", "nesterov")
    split = (Stage("a1", ((0, 3),)), Stage("b", ((3, 6),)), Stage("a2", ((6, 9),)), Stage("c", ((9, 12),)))
    joined = (Stage("a", ((0, 3), (6, 9))), *split[1::2])
    request: dict[str, Any] = {"method": method, "semantics": semantics}
    parts = embeddings(dataclasses.replace(case.run, stages=split), case.problem, **request)
    whole = embeddings(dataclasses.replace(case.run, stages=joined), case.problem, **request)
    assert_same_params(whole["a"], {n: parts["a1"][n] + parts["a2"][n] for n in parts["a1"]}, 1e-12)
    assert_same_params(whole["b"], parts["b"], 1e-12)
    assert_same_params(whole["c"], parts["c"], 1e-12)
    only = embeddings(dataclasses.replace(case.run, stages=joined), case.problem, ("a",), **request)
    assert_same_params(only["a"], whole["a"], 1e-12)


# ---- fractional and joint treatments ---------------------------------------------------------------------------------


def test_two_stages_are_predicted_by_the_sum_of_their_linear_effects() -> None:
    case = recorded("mlp", "adam")
    both = aa.predict(case.run, case.problem, aa.Counterfactual.skip("a", "c"), queries(), cache=memory_cache())
    assert_close(both, stage_effects(case.run, case.problem, queries())[[0, 2]].sum(0), 1e-12)


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_the_steps_of_a_stage_are_predicted_like_the_stage(semantics: str) -> None:
    case = recorded("mlp", "adam")
    whole = stage_effects(case.run, case.problem, queries(), semantics=semantics)
    for steps, expected in (((4, 5, 6, 7, 8), whole[1]), ((8, 0, 6, 4, 2, 7, 3, 5, 1), None)):
        what = aa.Counterfactual.skip_steps(*steps, semantics=semantics)  # type: ignore[arg-type]
        found = aa.predict(case.run, case.problem, what, queries(), cache=memory_cache())
        if expected is None:
            joined = dataclasses.replace(case.run, stages=(Stage("ab", ((0, 9),)), Stage("c", ((9, 12),))))
            expected = stage_effects(joined, case.problem, queries(), semantics=semantics)[0]
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 0.9])
def test_a_scaled_step_of_an_affine_run_is_predicted_exactly(scale: float, semantics: str) -> None:
    make = zoo.OPTIMIZERS["momentum"]
    case = make_case(zoo.linear, make, squares, stages=(("a", 4), ("one", 1), ("b", 7)))
    what = aa.Counterfactual(("one",), scale, semantics)  # type: ignore[arg-type]
    gamma = aa.performance(*zoo.examples(5, 9), lambda f, y: f.gather(1, y[:, None])[:, 0], name="logit", unit="nats")
    found = aa.predict(case.run, case.problem, what, gamma, cache=memory_cache())
    exact = aa.final_model(case.run, case.problem).performance(gamma)
    assert_close(found, exact - aa.retrain(case.run, case.problem, what).performance(gamma), 1e-11)


def test_an_estimate_converges_to_the_truth_as_the_treatment_nears_one() -> None:
    case = recorded("mlp", "adam")
    truth = aa.final_model(case.run, case.problem).performance(queries())
    errors = []
    for scale in (0.0, 0.9, 0.99):
        what = aa.Counterfactual(("c",), scale)
        exact = truth - aa.retrain(case.run, case.problem, what).performance(queries())
        additive = (1 - scale) * stage_effects(case.run, case.problem, queries(), method="additive", stages=["c"])[0]
        errors.append(float((additive - exact).norm() / exact.norm()))
    assert errors[1] < 0.3 * errors[0] and errors[2] < 0.2 * errors[1]


# ---- readouts --------------------------------------------------------------------------------------------------------


def logit(case_outputs: Tensor, targets: Tensor) -> Tensor:
    return case_outputs.gather(1, targets[:, None])[:, 0]


def test_every_readout_is_its_formula() -> None:
    case = recorded("mlp", "adam")
    x, y = zoo.examples(5, 9)
    theta, rows = final(case), torch.arange(5)
    likelihood = lambda f: f.log_softmax(1)[rows, y]  # noqa: E731
    outputs = lambda p: case.oracle.outputs(p, x)  # noqa: E731
    for name, e in embeddings(case.run, case.problem).items():
        jacobian = torch.func.jacrev(outputs)(theta)
        delta = sum(torch.einsum("nc...,...->nc", jacobian[n], e[n]) for n in e)
        gradient = torch.func.jacrev(lambda p: likelihood(outputs(p)))(theta)
        expected = {
            "linear": sum((gradient[n] * e[n]).flatten(1).sum(1) for n in e),
            "displaced": likelihood(outputs(theta)) - likelihood(outputs(difference(theta, e))),
            "link": likelihood(outputs(theta)) - likelihood(outputs(theta) - delta),
        }
        for readout in READOUTS:
            found = stage_effects(case.run, case.problem, queries(), stages=[name], readout=readout)[0]
            assert_close(found, expected[readout], 1e-9)


def test_link_is_linear_where_the_score_is_linear_in_the_outputs() -> None:
    case = recorded("mlp", "momentum")
    gamma = aa.performance(*zoo.examples(5, 9), logit, name="logit", unit="nats")
    linear, link = (stage_effects(case.run, case.problem, gamma, readout=r) for r in ("linear", "link"))
    assert_close(link, linear, 1e-12)
    assert float((stage_effects(case.run, case.problem, gamma, readout="displaced") - linear).abs().max()) > 1e-6


def test_link_is_displaced_where_the_outputs_are_linear_in_the_parameters() -> None:
    case = recorded("linear", "momentum")
    link, displaced, linear = (
        stage_effects(case.run, case.problem, queries(), readout=r) for r in ("link", "displaced", "linear")
    )
    assert_close(link, displaced, 1e-12)
    assert float((linear - displaced).abs().max()) > 1e-6


def test_the_performances_of_affine_runs_are_exact_for_every_stage() -> None:
    case = recorded("linear", "nesterov", "squares")
    recorded_value = aa.final_model(case.run, case.problem).performance(queries())
    truth = torch.stack([recorded_value - retrained(case, s).performance(queries()) for s in STAGES])
    for readout in ("displaced", "link"):
        assert_close(stage_effects(case.run, case.problem, queries(), readout=readout), truth, 1e-11)


@pytest.mark.parametrize("readout", READOUTS)
def test_the_effect_on_a_mean_is_the_mean_of_the_effects(readout: str) -> None:
    case = recorded("mlp", "adam")
    gamma = queries(7)
    each = stage_effects(case.run, case.problem, gamma, readout=readout)
    assert_close(stage_effects(case.run, case.problem, gamma.mean(), readout=readout)[:, 0], each.mean(1), 1e-12)


def test_the_step_effect_on_a_mean_is_the_mean_of_the_step_effects() -> None:
    case = recorded("mlp", "adam")
    each = aa.step_effects(case.run, case.problem, queries(7)).effects
    assert_close(aa.step_effects(case.run, case.problem, queries(7).mean()).effects[:, 0], each.mean(1), 1e-11)


@pytest.mark.parametrize("readout", READOUTS)
def test_the_effect_on_a_gap_is_the_difference_of_the_effects(readout: str) -> None:
    case = recorded("mlp", "momentum")
    gamma = queries(7)
    gap = gamma[:3].mean("one") - gamma[3:].mean("other")
    each = stage_effects(case.run, case.problem, gamma, readout=readout)
    expected = each[:, :3].mean(1) - each[:, 3:].mean(1)
    assert_close(stage_effects(case.run, case.problem, gap, readout=readout)[:, 0], expected, 1e-12)
    if readout == "linear":
        steps = aa.step_effects(case.run, case.problem, gap).effects[:, 0]
        single = aa.step_effects(case.run, case.problem, gamma).effects
        assert_close(steps, single[:, :3].mean(1) - single[:, 3:].mean(1), 1e-11)


@pytest.mark.parametrize("readout", READOUTS)
def test_more_examples_than_fit_in_a_chunk_change_nothing(readout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("mlp", "adam")
    whole = stage_effects(case.run, case.problem, queries(7), readout=readout)
    gap = queries(7)[:3].mean() - queries(7)[3:].mean()
    whole_gap = stage_effects(case.run, case.problem, gap, readout=readout)
    monkeypatch.setattr(sys.modules["aa_core.performance"], "CHUNK", 3)
    assert_close(stage_effects(case.run, case.problem, queries(7), readout=readout), whole, 1e-13)
    assert_close(stage_effects(case.run, case.problem, gap, readout=readout), whole_gap, 1e-13)
    assert_close(
        aa.step_effects(case.run, case.problem, queries(7)).effects[-3:],
        torch.stack([aa.step_effects(case.run, case.problem, queries(7)[i]).effects[-3:, 0] for i in range(7)], 1),
        1e-12,
    )


# ---- how the run was stored does not matter --------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_any_spacing_of_checkpoints_gives_the_same_effects(optimizer: str, semantics: str) -> None:
    case = recorded("mlp", optimizer, micro_batches=2)

    def effects(every: int) -> list[Tensor]:
        run = case.every(every)
        stages = [stage_effects(run, case.problem, queries(), method=m, semantics=semantics) for m in METHODS]
        return [*stages, aa.step_effects(run, case.problem, queries(), semantics=semantics).effects]  # type: ignore[arg-type]

    dense = effects(1)
    for every in (3, 7):
        for found, expected in zip(effects(every), dense, strict=True):
            assert_close(found, expected, 1e-12)


METHODS = ("boundary", "additive")


def test_any_memory_budget_gives_the_same_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("mlp", "adam")
    one = nbytes(case.run.states[0])
    expected = aa.step_effects(case.run, case.problem, queries()).effects

    def same(memory: int) -> None:
        for every in (5, 100):
            found = aa.step_effects(case.every(every), case.problem, queries(), memory=memory).effects
            assert_close(found, expected, 1e-12)

    for memory in (1, 40 * one, 1 << 40):
        same(memory)
    monkeypatch.setattr(adjoint, "_for_states", lambda memory, cotangent: memory)
    for memory in (1, one, 2 * one, 3 * one + 1, 5 * one):
        same(memory)


def test_a_budget_holds_what_a_sweep_works_with_too() -> None:
    def kept(memory: int, rays: int = 1) -> int:
        zeros = State({"w": torch.zeros(rays, 250)}, {}, torch.zeros(rays, 0))
        return adjoint._for_states(memory, zeros) // 1_000

    assert kept(0) == kept(30_000) == 8  # with fewer, time would grow out of bounds
    assert kept(7_000_000) == 5_980
    assert kept(7_000_000, rays=100) == 5_584


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("every", [1, 5])
def test_some_stages_have_the_same_effects_as_among_all(method: str, every: int) -> None:
    case = recorded("mlp", "nesterov")
    everything = stage_effects(case.every(every), case.problem, queries(), method=method)
    for chosen in (("a",), ("b",), ("c",), ("a", "c"), ("c", "b")):
        found = aa.stage_effects(
            case.every(every), case.problem, queries(), stages=chosen, method=method, cache=memory_cache()  # type: ignore[arg-type]
        )  # fmt: skip
        rows = sorted(STAGES.index(s) for s in chosen)
        assert list(found.units["stage"]) == [STAGES[i] for i in rows], "in the order of training"
        assert_close(found.effects, everything[rows], 1e-12)


def test_some_steps_have_the_same_effects_as_among_all() -> None:
    case = recorded("mlp", "nesterov")
    everything = aa.step_effects(case.run, case.problem, queries())
    assert list(everything.units["step"]) == list(range(12))
    assert list(everything.units["stage"]) == ["a"] * 4 + ["b"] * 5 + ["c"] * 3
    for chosen, steps in {("b",): range(4, 9), ("c", "a"): [*range(4), *range(9, 12)]}.items():
        found = aa.step_effects(case.every(5), case.problem, queries(), stages=chosen)
        assert list(found.units["step"]) == list(steps)
        assert_close(found.effects, everything.effects[list(steps)], 1e-12)


@pytest.mark.parametrize(
    ("model", "optimizer"), [("linear", "adam"), ("mlp", "momentum"), ("attention", "adam"), ("lstm", "momentum")]
)
def test_float32_is_close_to_float64(model: str, optimizer: str) -> None:
    double, single = recorded(model, optimizer), recorded(model, optimizer, dtype=torch.float32, every=5)
    narrow = queries(dtype=torch.float32)
    for request in ({"method": "boundary"}, {"method": "additive", "curvature": "ggn"}, {"readout": "displaced"}):
        found = stage_effects(single.run, single.problem, narrow, **request)
        assert found.dtype == torch.float64
        assert_close(found, stage_effects(double.run, double.problem, queries(), **request), 2e-3)
    steps = aa.step_effects(single.run, single.problem, narrow).effects
    assert_close(steps, aa.step_effects(double.run, double.problem, queries()).effects, 2e-3)


def test_the_frame_says_which_effect_belongs_to_what() -> None:
    case = recorded("mlp", "sgd")
    gamma = queries(6)[[4, 2]]
    found = aa.stage_effects(case.run, case.problem, gamma, cache=memory_cache())
    frame = found.to_frame()
    assert list(frame.columns) == ["stage", "example", "effect", "unit"]
    assert list(frame["example"]) == [4, 2] * 3 and set(frame["unit"]) == {"nats"}
    every = stage_effects(case.run, case.problem, queries(6))
    for row in frame.itertuples():
        assert row.effect == pytest.approx(float(every[STAGES.index(row.stage), row.example]), rel=1e-12)


def test_growth_is_the_norm_of_the_embedding_over_that_of_the_change() -> None:
    case = recorded("mlp", "nesterov")
    for stage, e in zip(case.run.stages, aa.embed_stages(case.run, case.problem, cache=memory_cache()), strict=True):
        change = difference(*(case.run.states[k].state.params for k in (stage.stop, stage.start)))
        assert e.growth == pytest.approx(float(vector(e.params).norm() / vector(change).norm()), rel=1e-9)
    assert e.growth == pytest.approx(1.0)


def test_three_readouts_that_agree_have_no_spread() -> None:
    case = recorded("linear", "momentum")
    gamma = aa.performance(*zoo.examples(5, 9), logit, name="logit", unit="nats")
    found = aa.stage_effects(case.run, case.problem, gamma, cache=memory_cache()).reliability
    assert found.readout_spread == pytest.approx(0, abs=1e-12) and found.signs_agree == 1
    curved = aa.stage_effects(case.run, case.problem, queries(), cache=memory_cache()).reliability
    assert curved.readout_spread is not None and curved.readout_spread > 1e-3


def test_effects_that_are_not_finite_are_an_error_that_names_the_ways_out() -> None:
    case = recorded("mlp", "adam")
    gamma = aa.performance(*zoo.examples(3, 9), lambda f, y: -f[:, 0].abs().log() / 0, name="broken", unit="nats")
    for ask in (
        lambda: stage_effects(case.run, case.problem, gamma),
        lambda: aa.step_effects(case.run, case.problem, gamma),
        lambda: aa.predict(case.run, case.problem, aa.Counterfactual.skip("a"), gamma, cache=memory_cache()),
    ):
        with pytest.raises(NonFiniteError, match=r"not finite.*ggn.*retrain"):
            ask()


# ---- progress and cancelling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["boundary", "additive", "steps"])
def test_progress_rises_to_its_total_and_may_cancel(what: str) -> None:
    case = recorded("mlp", "adam", every=5)
    seen: list[tuple[int, int]] = []

    def ask(progress: Any) -> Any:
        if what == "steps":
            return aa.step_effects(case.run, case.problem, queries(), progress=progress)
        return embeddings(case.run, case.problem, method=what, progress=progress)

    ask(lambda done, total: seen.append((done, total)))
    assert len({total for _, total in seen}) == 1
    assert all(a < b for (a, _), (b, _) in pairwise(seen))
    assert seen[-1] == (seen[-1][1], seen[-1][1])

    def stop(done: int, total: int) -> None:
        if done >= 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        ask(stop)


# ---- operators that not every mode of differentiation knows ----------------------------------------------------------


class OldTanh(torch.autograd.Function):
    """Written the old way, without setup_context: fine in reverse mode, twice; unknown to torch.func."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh() ** 2)


class Old(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return OldTanh.apply(x)


def test_a_custom_function_without_forward_mode_is_read_in_reverse_mode() -> None:
    old, new = (make_case(lambda k=kind: zoo.mlp(k), zoo.OPTIMIZERS["sgd"]) for kind in (Old, nn.Tanh))
    found, expected = (stage_effects(c.run, c.problem, queries()) for c in (old, new))
    assert_close(found, expected, 1e-12)


class OnceTanh(OldTanh):
    """As custom kernels are often written: the backward pass is declared not differentiable."""

    backward = staticmethod(once_differentiable(OldTanh.backward))


class Once(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return OnceTanh.apply(x)


@pytest.mark.parametrize("readout", ["linear", "link", "displaced"])
def test_a_once_differentiable_function_is_read_rightly_or_refused(readout: str) -> None:
    once, new = (make_case(lambda k=kind: zoo.mlp(k), zoo.OPTIMIZERS["sgd"]) for kind in (Once, nn.Tanh))
    try:
        found = stage_effects(once.run, once.problem, queries(), curvature="none", readout=readout)
    except UnsupportedError:
        return
    assert_close(found, stage_effects(new.run, new.problem, queries(), curvature="none", readout=readout), 1e-12)


def test_step_effects_work_for_a_custom_function_without_forward_mode() -> None:
    old, new = (make_case(lambda k=kind: zoo.mlp(k), zoo.OPTIMIZERS["sgd"]) for kind in (Old, nn.Tanh))
    found, expected = (aa.step_effects(c.run, c.problem, queries()).effects for c in (old, new))
    assert_close(found, expected, 1e-12)


# ---- questions that cannot be answered -------------------------------------------------------------------------------


def test_no_stage_at_all_is_a_request_error() -> None:
    case = recorded("mlp", "adam")
    with pytest.raises(RequestError):
        aa.step_effects(case.run, case.problem, queries(), stages=[])


def test_so_it_is_for_stage_effects() -> None:
    case = recorded("mlp", "adam")
    with pytest.raises(RequestError):
        stage_effects(case.run, case.problem, queries(), stages=[])


def test_it_is_said_where_training_attended_by_another_kernel() -> None:
    for model, fused in (("attention", True), ("mlp", False)):
        case = recorded(model, "adamw")
        for found in (
            aa.step_effects(case.run, case.problem, queries().mean()),
            aa.stage_effects(case.run, case.problem, queries(), cache=memory_cache()),
        ):
            assert (ATTENTION in found.reliability.assumptions) == fused
