"""Retraining, the ground truth, against torch.optim training from scratch with the same steps left out."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.errors import Cancelled, EmptyStageError, NonFiniteError, RequestError, UnknownStageError
from aa_core.stages import Stage
from aa_core.state import Params
from tests import zoo
from tests.core.cases import (
    STAGES,
    Case,
    MakeOptimizer,
    assert_close,
    assert_same_params,
    equal,
    make_case,
    memory_cache,
    queries,
    recorded,
    scheduled,
    two_groups,
    warm_and_cosine,
)

SEMANTICS = ("freeze", "zero_gradient")


def train_again(case: Case, make: MakeOptimizer, left_out: set[int], *, without_data: bool = False) -> Params:
    """torch.optim from the initial weights; `left_out` steps are not taken, or taken with zero gradients."""
    model = copy.deepcopy(case.model)
    model.load_state_dict({**case.run.states[0].state.params, **case.run.states[0].buffers})
    optimizer = make(list(model.parameters()))
    for data in case.run.inputs:
        if data.step in left_out and not without_data:
            continue
        for group, hyper in zip(optimizer.param_groups, data.hyper, strict=True):
            group["lr"] = hyper["lr"]  # as on the wall clock of the recorded run
        optimizer.zero_grad()
        if data.step in left_out:
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
        else:
            for batch, weight in data.batches:
                loss = case.problem.loss_fn(model(batch.inputs), batch.targets)
                (loss if weight == 1.0 else loss * weight).backward()
        optimizer.step()
    return {n: p.detach() for n, p in model.named_parameters()}


def steps_of(case: Case, *stages: str) -> set[int]:
    return {k for s in case.run.stages if s.name in stages for k in s.steps}


def skip(case: Case, *stages: str, semantics: str = "freeze", run: Any = None) -> aa.TrainedModel:
    what = aa.Counterfactual.skip(*stages, semantics=semantics)  # type: ignore[arg-type]
    return aa.retrain(run or case.run, case.problem, what)


# ---- skipping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("stage", STAGES)
def test_skipping_a_stage_is_training_from_scratch_without_it(optimizer: str, semantics: str, stage: str) -> None:
    case = recorded("mlp", optimizer)
    expected = train_again(
        case, zoo.OPTIMIZERS[optimizer], steps_of(case, stage), without_data=semantics == "zero_gradient"
    )
    found = skip(case, stage, semantics=semantics)
    assert equal(found.params, expected)
    assert not equal(found.params, case.run.states[-1].state.params)


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("model", zoo.MODELS)
def test_so_it_is_in_float32_with_groups_a_schedule_and_micro_batches(model: str, semantics: str) -> None:
    make = scheduled(two_groups(torch.optim.AdamW, lr=0.01, weight_decay=0.1), warm_and_cosine)
    case = make_case(zoo.MODELS[model], make, dtype=torch.float32, micro_batches=2)
    plain = two_groups(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    expected = train_again(case, plain, steps_of(case, "b"), without_data=semantics == "zero_gradient")
    assert equal(skip(case, "b", semantics=semantics).params, expected)


def test_so_it_is_for_several_stages_at_once() -> None:
    case = recorded("mlp", "adam")
    expected = train_again(case, zoo.OPTIMIZERS["adam"], steps_of(case, "a", "c"))
    assert equal(skip(case, "a", "c").params, expected)
    assert equal(skip(case, "c", "a").params, expected)


def test_so_it_is_for_a_stage_in_several_blocks() -> None:
    case = recorded("mlp", "dampened")
    blocks = ((0, 2), (5, 7), (11, 12))
    run = dataclasses.replace(case.run, stages=(Stage("x", blocks), Stage("y", ((2, 5), (7, 11)))))
    expected = train_again(case, zoo.OPTIMIZERS["dampened"], {0, 1, 5, 6, 11})
    assert equal(skip(case, "x", run=run).params, expected)


def test_single_steps_are_skipped_like_stages() -> None:
    case = recorded("mlp", "adam")
    found = aa.retrain(case.run, case.problem, aa.Counterfactual.skip_steps(3, 8))
    assert equal(found.params, train_again(case, zoo.OPTIMIZERS["adam"], {3, 8}))


def test_without_any_update_the_initial_model_remains() -> None:
    case = recorded("mlp", "adam")
    assert equal(skip(case, *STAGES).params, case.run.states[0].state.params)


def test_without_any_data_only_decay_is_left() -> None:
    case = make_case(zoo.mlp, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5))
    found = skip(case, *STAGES, semantics="zero_gradient").params
    expected = {n: p * (1 - 0.1 * 0.5) ** 12 for n, p in case.run.states[0].state.params.items()}
    assert_same_params(found, expected, 1e-14)


@pytest.mark.parametrize("every", [1, 5, 100])
def test_the_checkpoints_do_not_matter(every: int) -> None:
    case = recorded("mlp", "nesterov")
    found = skip(case, "b", run=case.every(every))
    assert equal(found.params, skip(case, "b").params)
    assert found.steps_replayed == 8


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_batch_statistics_stand_still_while_no_data_are_seen_and_move_again_after(semantics: str) -> None:
    model = nn.Sequential(nn.Linear(zoo.FEATURES, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, zoo.CLASSES))
    case = make_case(lambda: model, zoo.OPTIMIZERS["momentum"])
    middle, last = (skip(case, stage, semantics=semantics).buffers for stage in ("b", "c"))
    assert int(middle["1.num_batches_tracked"]) == 12 - 5
    assert int(last["1.num_batches_tracked"]) == 9
    assert torch.equal(last["1.running_mean"], case.run.states[9].buffers["1.running_mean"])
    assert int(case.run.states[-1].buffers["1.num_batches_tracked"]) == 12, "the recorded run itself is untouched"


# ---- scaling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
@pytest.mark.parametrize("scale", [0.5, 0.1, 1.5])
def test_a_scaled_stage_moves_every_state_that_share_of_its_way(optimizer: str, semantics: str, scale: float) -> None:
    case = recorded("mlp", optimizer)
    treatments = torch.ones(12, dtype=torch.float64)
    treatments[list(steps_of(case, "b"))] = scale
    expected = case.oracle.final(case.run.states[0].state, treatments, semantics).params
    what = aa.Counterfactual(("b",), scale, semantics)  # type: ignore[arg-type]
    assert_same_params(aa.retrain(case.run, case.problem, what).params, expected, 1e-12)


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_half_a_step_of_plain_sgd_is_a_step_with_half_the_lr(semantics: str) -> None:
    case = recorded("mlp", "sgd")
    halved = [
        s._replace(hyper=tuple({**h, "lr": h["lr"] / 2} for h in s.hyper)) if s.step in steps_of(case, "b") else s
        for s in case.run.inputs
    ]
    expected = train_again(
        Case(dataclasses.replace(case.run, inputs=halved), case.problem, case.model, case.oracle),
        zoo.OPTIMIZERS["sgd"],
        set(),
    )
    what = aa.Counterfactual(("b",), 0.5, semantics)  # type: ignore[arg-type]
    assert_same_params(aa.retrain(case.run, case.problem, what).params, expected, 1e-14)


@pytest.mark.parametrize("scale", [1.0, -0.1, float("inf"), float("nan")])
def test_a_scale_outside_its_range_is_refused(scale: float) -> None:
    with pytest.raises(RequestError, match="expected 0"):
        aa.Counterfactual(("a",), scale)


# ---- the recorded model, and what is compared with it ----------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 5])
def test_the_final_model_is_the_one_that_torch_trained(every: int) -> None:
    case = recorded("mlp", "adam")
    found = aa.final_model(case.every(every), case.problem)
    assert equal(found.params, {n: p.detach() for n, p in case.model.named_parameters()})
    x, y = zoo.examples(5, 9)
    with torch.no_grad():
        assert_close(
            found.performance(queries()), -nn.functional.cross_entropy(case.model(x), y, reduction="none"), 1e-14
        )


def test_a_what_if_holds_estimate_and_truth() -> None:
    case = recorded("mlp", "adam")
    run, what = dataclasses.replace(case.run, digest="what-if"), aa.Counterfactual.skip("c")
    found = aa.what_if(run, case.problem, what, queries(), readout="displaced")
    truth = aa.final_model(run, case.problem).performance(queries()) - skip(case, "c").performance(queries())
    assert_close(found.truth, truth, 1e-15)
    assert_close(found.estimate, truth, 1e-11)
    assert found.agreement.pearson == pytest.approx(1) and found.agreement.relative_error < 1e-10
    frame = found.to_frame()
    assert_close(torch.tensor((frame["recorded"] - frame["retrained"]).to_numpy()), truth, 1e-12)


# ---- progress, cancelling, divergence --------------------------------------------------------------------------------


def test_progress_counts_the_steps_that_are_trained() -> None:
    case, seen = recorded("mlp", "sgd"), []
    aa.retrain(case.run, case.problem, aa.Counterfactual.skip("b"), lambda done, total: seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]
    assert all(a < b for a, b in pairwise(seen))


def test_cancelling_stops_the_training_at_once() -> None:
    case, seen = recorded("mlp", "sgd"), []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done == 3:
            raise Cancelled("the auditor went home")

    with pytest.raises(Cancelled, match="went home"):
        aa.retrain(case.run, case.problem, aa.Counterfactual.skip("b"), stop)
    assert seen == [1, 2, 3]


class Steep(nn.Module):
    """One number; with the loss below its gradient is cubic, so a far start flies off at a large lr."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([10.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * torch.ones_like(x[:, :1])


def quartic(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.pow(4).mean()


def test_a_training_that_diverges_without_the_stage_is_an_error_that_names_it() -> None:
    make = scheduled(lambda p: torch.optim.SGD(p, lr=1.0), lambda k: 2e-3 if k < 4 else 0.05)
    case = make_case(Steep, make, quartic)
    assert abs(float(case.run.states[-1].state.params["theta"])) < 2, "the recorded run is sound"
    assert torch.isfinite(skip(case, "b").params["theta"]).all()
    with pytest.raises(NonFiniteError, match="'skip a' diverged"):
        skip(case, "a")


# ---- what cannot be skipped ------------------------------------------------------------------------------------------


def test_a_counterfactual_must_fit_the_run() -> None:
    case = recorded("mlp", "sgd")
    with pytest.raises(UnknownStageError, match=r"'z'.*'a', 'b', 'c'"):
        skip(case, "a", "z")
    run = dataclasses.replace(case.run, stages=(*case.run.stages, Stage("empty", ((12, 12),))))
    with pytest.raises(EmptyStageError, match="'empty'"):
        skip(case, "empty", run=run)
    assert equal(skip(case, "c", run=run).params, skip(case, "c").params)
    with pytest.raises(RequestError, match="at least one"):
        aa.Counterfactual(())
    with pytest.raises(RequestError, match=r"'forget'.*freeze, zero_gradient"):
        aa.Counterfactual(("a",), 0.0, "forget")  # type: ignore[arg-type]
    for step in (12, -1):
        with pytest.raises(RequestError, match=f"step {step} .*0 to 11"):
            aa.retrain(case.run, case.problem, aa.Counterfactual.skip_steps(step))


def test_a_stage_without_blocks_does_not_disturb_the_others() -> None:
    case = recorded("mlp", "sgd")
    run = dataclasses.replace(case.run, stages=(*case.run.stages, Stage("empty", ())))
    assert equal(skip(case, "c", run=run).params, skip(case, "c").params)


def test_single_steps_are_predicted_or_refused() -> None:
    case, what = recorded("mlp", "sgd"), aa.Counterfactual.skip_steps(11)
    try:
        found = aa.predict(case.run, case.problem, what, queries(), readout="displaced", cache=memory_cache())
    except RequestError:
        return
    before, after = (queries()(case.problem, case.run.states[k].state.params, {}).detach() for k in (12, 11))
    assert_close(found, before - after, 1e-11)
