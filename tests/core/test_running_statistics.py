"""Effects of steps go through running statistics: against finite differences, real retraining, and their own sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.confidence.reliability import DIFFERENTIATED, FOLLOWED
from aa_core.effects import adjoint
from aa_core.effects.adjoint import performance_sweep
from aa_core.effects.splits import STATISTICS, collapse, stage_effects_by_parameter, step_effects_by_cause
from aa_core.effects.splits import step_effects_by_parameter as by_parameter
from aa_core.effects.statistics import Shift, statistics_changes
from aa_core.records import Batch
from aa_core.running_statistics import moving
from aa_core.state import Snapshot
from tests import zoo
from tests.core.cases import Case, make_case, memory_cache, queries
from tests.core.test_statistics import Pictures, truth


class Twice(nn.Module):
    """One normalisation for two layers, one of which has neither weight nor bias."""

    def __init__(self, momentum: float | None = 0.3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(zoo.FEATURES, 5), nn.Linear(5, 5)
        self.norm, self.bare = nn.BatchNorm1d(5, momentum=momentum), nn.BatchNorm1d(5, affine=False)
        self.out = nn.Linear(5, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x)).tanh()
        return self.out(self.bare(self.norm(self.second(h)).tanh()))


class Drifting(nn.Module):
    """Moves a buffer by a rule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(zoo.FEATURES, dtype=torch.float64))
        self.body = zoo.mlp()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.centre += 0.1 * (x.mean(0) - self.centre)
        return self.body(x - self.centre)


def sgd(params: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01)


def gentle(params: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.02)


def redone(case: Case, change: Callable[[int, Any], Any]) -> Case:
    """The same training with other steps."""
    inputs = [change(k, step) for k, step in enumerate(case.run.inputs)]
    states, training = [case.run.states[0]], case.training()
    for step in inputs:
        states.append(training.step(states[-1], step))
    return dataclasses.replace(case, run=dataclasses.replace(case.run, inputs=inputs, states=states))


def partly_in_evaluation(case: Case) -> Case:
    """Two steps in the middle see the running statistics instead of their batch's."""
    return redone(case, lambda k, step: step._replace(training=k not in (6, 7)))


def with_a_batch_passed_over(case: Case) -> Case:
    x, y = zoo.examples(8, seed=77)
    return redone(case, lambda k, step: step._replace(passed=(Batch(x, y),)) if k == 9 else step)


CASES: dict[str, Callable[[], Case]] = {
    "pictures": lambda: make_case(Pictures, sgd),
    "one for two layers": lambda: make_case(Twice, zoo.OPTIMIZERS["adamw"]),
    "averaged over all batches": lambda: make_case(lambda: Twice(momentum=None), sgd),
    "micro-batches": lambda: make_case(Pictures, sgd, micro_batches=2),
    "partly in evaluation mode": lambda: partly_in_evaluation(make_case(Pictures, sgd)),
    "a batch passed over": lambda: with_a_batch_passed_over(make_case(Pictures, sgd)),
}


def trained_on(case: Case, at: Snapshot, gamma: aa.Performance) -> Tensor:
    training = case.training()
    while at.step < case.run.steps:
        at = training.step(at, case.run.inputs[at.step])
    return gamma(case.problem, at.state.judged, at.buffers).detach()


def difference(f: Callable[[float], Tensor], size: float = 1e-6) -> Tensor:
    return (f(size) - f(-size)) / (2 * size)


def moved(named: dict[str, Tensor], name: str, by: Tensor) -> dict[str, Tensor]:
    return {**named, name: named[name] + by}


@pytest.mark.parametrize("name", CASES)
def test_cotangents_are_those_of_training_on_from_a_state_that_is_moved(name: str) -> None:
    case, gamma = CASES[name](), queries(3)
    generator = torch.Generator().manual_seed(0)
    names = moving(case.run, case.training())
    assert names.followed and not names.held
    for at in performance_sweep(case.run, case.training(), gamma, "exact"):
        after = at.transition.after
        assert set(at.statistics) == set(names.followed)
        if after.step not in (1, 6, 7, 8, 12):
            continue
        for kind, leaves in (("params", at.cotangent.params), ("buffers", at.statistics)):
            for leaf, worth in leaves.items():
                direction = torch.randn(worth.shape[1:], generator=generator, dtype=torch.float64)

                def end(size: float, kind=kind, leaf=leaf, direction=direction, after=after) -> Tensor:
                    if kind == "buffers":
                        return trained_on(
                            case, after._replace(buffers=moved(after.buffers, leaf, size * direction)), gamma
                        )
                    params = moved(after.state.params, leaf, size * direction)
                    return trained_on(case, after._replace(state=after.state._replace(params=params)), gamma)

                found = (worth * direction).flatten(1).sum(1)
                torch.testing.assert_close(found, difference(end), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("change", [lambda case: case, partly_in_evaluation], ids=["training", "partly evaluation"])
def test_effects_of_steps_are_nearer_to_retraining(
    change: Callable[[Case], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, gamma = change(make_case(Pictures, gentle)), queries(6)
    real = torch.stack([truth(case, aa.Counterfactual.skip_steps(k), gamma) for k in range(case.run.steps)])
    found = aa.step_effects(case.run, case.problem, gamma).effects
    monkeypatch.setattr(adjoint, "moving", lambda *_: moving(case.run, case.training())._replace(followed=()))
    held = aa.step_effects(case.run, case.problem, gamma).effects
    assert float((found - real).abs().mean()) < 0.2 * float((held - real).abs().mean())
    assert float(torch.corrcoef(torch.stack([found.flatten(), real.flatten()]))[0, 1]) > 0.99


def test_what_running_statistics_are_worth_fades_and_then_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case, gamma = make_case(Pictures, sgd), queries(3)
    exact = aa.step_effects(case.run, case.problem, gamma).effects
    monkeypatch.setattr(adjoint, "FADED", 0.5)  # .9 to the power of 7 is less
    asked = []
    pull = adjoint.pull_statistics
    monkeypatch.setattr(adjoint, "pull_statistics", lambda *a: asked.append(a[1].step) or pull(*a))
    cut = aa.step_effects(case.run, case.problem, gamma).effects
    assert asked == [11, 10, 9, 8, 7, 6, 5]
    assert torch.equal(cut[7:], exact[7:]) and not torch.allclose(cut[:3], exact[:3])


@pytest.mark.parametrize("name", ["pictures", "one for two layers", "partly in evaluation mode"])
def test_splits_add_up_to_the_effects_of_steps(name: str) -> None:
    case, gamma = CASES[name](), queries(4)
    steps = aa.step_effects(case.run, case.problem, gamma).effects
    layers, causes = by_parameter(case.run, case.problem, gamma), step_effects_by_cause(case.run, case.problem, gamma)
    for found in (layers, causes):
        torch.testing.assert_close(collapse(found, "step").effects, steps)
    norm = layers.units["parameter"].str.contains("running").to_numpy(copy=True)
    left = causes.units["cause"].eq(STATISTICS).to_numpy(copy=True)
    of_norm, of_cause = layers.effects[norm].reshape(12, -1, 4).sum(1), causes.effects[left]
    torch.testing.assert_close(of_norm, of_cause)
    assert set(layers.units["layer"][norm]) <= {"norm", "bare"} and float(of_cause.abs().max()) > 1e-3
    data = causes.effects[causes.units["cause"].eq("data").to_numpy(copy=True)]
    without_data = aa.step_effects(case.run, case.problem, gamma, semantics="zero_gradient").effects
    torch.testing.assert_close(data + of_cause, without_data)


def test_parameters_and_statistics_add_up_to_the_stage() -> None:
    case, gamma = make_case(Pictures, gentle), queries(4)
    split = stage_effects_by_parameter(case.run, case.problem, gamma)
    whole = collapse(split, "stage").effects
    linear = aa.stage_effects(case.run, case.problem, gamma, readout="linear", cache=memory_cache()).effects
    torch.testing.assert_close(whole[-1], linear[-1], rtol=1e-9, atol=1e-12)  # nothing comes after it
    torch.testing.assert_close(whole, linear, rtol=0.2, atol=1e-3)
    real = torch.stack([truth(case, aa.Counterfactual.skip(s.name), gamma) for s in case.run.stages])
    statistics = split.units["parameter"].str.contains("running").to_numpy(copy=True)
    without = split.effects.clone()
    without[statistics] = 0
    held = collapse(dataclasses.replace(split, effects=without), "stage").effects
    assert float((whole - real).abs().mean()) < 0.5 * float((held - real).abs().mean())


def test_the_linear_readout_is_first_order_in_all_that_moves() -> None:
    case = make_case(Pictures, sgd)
    final = case.run.states[-1].state.params
    direction, steps = {n: p * n.startswith("conv") for n, p in final.items()}, range(4, case.run.steps)
    (moved,) = statistics_changes(case.run, case.training(), [Shift(4, (), direction)])
    assert set(moved.first_order) == {"norm.running_mean", "norm.running_var"}
    for name, change in moved.first_order.items():

        def passed(size: float, name: str = name) -> Tensor:
            buffers = {n: b.clone() for n, b in case.run.states[4].buffers.items()}
            for k in steps:
                at = case.run.states[k]
                params = {n: p - size * direction[n] for n, p in at.state.params.items()}
                for batch, _ in case.run.inputs[k].batches:
                    case.problem.outputs(params, buffers, batch.inputs, training=True)
            return -buffers[name]

        torch.testing.assert_close(change, difference(passed), rtol=1e-6, atol=1e-9)
        assert bool(change.abs().max() > 0.1)


def test_it_is_said_what_is_followed_and_what_is_held() -> None:
    case, gamma = make_case(Pictures, gentle), queries(3)
    steps = aa.step_effects(case.run, case.problem, gamma).reliability
    stages = aa.stage_effects(case.run, case.problem, gamma, cache=memory_cache()).reliability
    assert DIFFERENTIATED in steps.assumptions and FOLLOWED in stages.assumptions
    assert steps.blind == "" and steps.verdict.trust != "nothing"

    drifting = make_case(Drifting, sgd)
    assert moving(drifting.run, drifting.training()) == ((), ("centre",))
    found = aa.step_effects(drifting.run, drifting.problem, gamma).reliability
    assert found.verdict.trust == "nothing" and "(centre) are held" in found.verdict.reason
    assert any("buffers are held" in a for a in found.assumptions)


def test_a_layer_with_a_forward_pass_of_its_own_is_not_followed() -> None:
    class Own(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    case = make_case(lambda: nn.Sequential(nn.Linear(zoo.FEATURES, 5), Own(5), nn.Linear(5, zoo.CLASSES)), sgd)
    assert moving(case.run, case.training()) == ((), ("1.running_mean", "1.running_var"))
