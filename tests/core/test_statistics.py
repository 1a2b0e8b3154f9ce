"""Running statistics follow the parameters: against real retraining, and against forward passes made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.confidence.reliability import EVALUATED
from aa_core.effects import statistics
from aa_core.effects.cache import EmbeddingCache
from aa_core.effects.statistics import Shift, statistics_changes
from tests import zoo
from tests.core.cases import Case, make_case, memory_cache, queries, scheduled, stage_effects

READOUTS = ("linear", "displaced", "link")


class Pictures(nn.Module):
    """A convolution with batch normalisation on 2 x 3 pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)
        self.out = nn.Linear(6, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.gelu(self.norm(self.conv(x.reshape(-1, 1, 2, 3)))).flatten(1))


def case_of(factor: Callable[[int], float] = lambda k: 1.0, **options: object) -> Case:
    """Stages a, b and c; the learning rate is multiplied by factor(k)."""
    return make_case(Pictures, scheduled(lambda p: torch.optim.SGD(p, lr=0.2), factor), **options)


def truth(case: Case, what: aa.Counterfactual, gamma: aa.Performance) -> Tensor:
    recorded = aa.final_model(case.run, case.problem).performance(gamma)
    return recorded - aa.retrain(case.run, case.problem, what).performance(gamma)


def held(case: Case, gamma: aa.Performance, stage: str) -> Tensor:
    """The displaced readout with the recorded statistics."""
    (embedding,) = aa.embed_stages(case.run, case.problem, (stage,), cache=memory_cache())
    final = aa.final_model(case.run, case.problem)
    moved = {n: p - embedding.params[n] for n, p in final.params.items()}
    return final.performance(gamma) - dataclasses.replace(final, params=moved).performance(gamma)


def test_where_later_stages_do_not_learn_the_displaced_effect_is_that_of_retraining() -> None:
    case = case_of()
    last = case.run.stages[-1]
    case = case_of(lambda k: 0.0 if k >= last.start else 1.0)
    gamma = queries(6)
    effects = stage_effects(case.run, case.problem, gamma, readout="displaced")
    for row, stage in list(enumerate(case.run.stages))[-2:]:
        expected = truth(case, aa.Counterfactual.skip(stage.name), gamma)
        assert torch.allclose(effects[row], expected, rtol=1e-9, atol=1e-12)
        assert float(expected.abs().max()) > 1e-4
    assert not torch.allclose(held(case, gamma, "b"), effects[1], rtol=0.05)


def test_estimates_are_nearer_to_retraining_than_with_statistics_held() -> None:
    case, gamma = case_of(lambda k: 0.3), queries(6)
    for readout in READOUTS:
        effects = stage_effects(case.run, case.problem, gamma, readout=readout)
        for row, stage in enumerate(case.run.stages):
            real = truth(case, aa.Counterfactual.skip(stage.name), gamma)
            off, off_held = (float((e - real).abs().mean()) for e in (effects[row], held(case, gamma, stage.name)))
            assert off < 0.5 * off_held, (readout, stage.name)


@pytest.mark.parametrize(
    "what",
    [aa.Counterfactual.skip("b", "c"), aa.Counterfactual.skip_steps(10), aa.Counterfactual(("c",), scale=0.5)],
    ids=lambda what: what.name,
)
def test_so_it_is_with_other_counterfactuals(what: aa.Counterfactual) -> None:
    case, gamma = case_of(lambda k: 0.3 if k < 11 else 0.0), queries(6)
    found = aa.predict(case.run, case.problem, what, gamma, readout="displaced", cache=memory_cache())
    real = truth(case, what, gamma)
    assert float((found - real).abs().mean()) < 0.1 * float(real.abs().mean())


def test_only_the_last_passes_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of()
    monkeypatch.setattr(statistics, "LAST", 4)
    moved = {n: 0.1 * torch.ones_like(p) for n, p in case.run.states[-1].state.params.items()}
    absent = {case.run.steps - 2}
    (change,) = statistics_changes(case.run, case.training(), [Shift(0, absent, moved)])
    last = [k for k in range(case.run.steps) if k not in absent][-4:]
    buffers = {n: b.clone() for n, b in case.run.states[last[0]].buffers.items()}
    for k in last:
        params = {n: p - moved[n] for n, p in case.run.states[k].state.params.items()}
        for batch, _ in case.run.inputs[k].batches:
            case.problem.outputs(params, buffers, batch.inputs, training=True)
    final = case.run.states[-1].buffers
    assert set(change.measured) == set(change.first_order) == {"norm.running_mean", "norm.running_var"}
    for name, found in change.measured.items():
        assert torch.equal(found, final[name] - buffers[name]) and bool(found.abs().max() > 1e-3)


def test_what_comes_in_evaluation_mode_does_not_move_them(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(lambda k: 1.0 if k < 4 else 0.1)
    inputs = [step._replace(training=k < 4) for k, step in enumerate(case.run.inputs)]
    training, states = case.training(), [case.run.states[0]]
    for step in inputs:
        states.append(training.step(states[-1], step))
    case = dataclasses.replace(case, run=dataclasses.replace(case.run, inputs=inputs, states=states))
    monkeypatch.setattr(statistics, "LAST", 6)  # fewer than the steps in evaluation mode
    gamma = queries(4)
    (change,) = statistics_changes(case.run, case.training(), [Shift(0, set(range(4)), {})])
    for name, found in change.measured.items():
        assert torch.equal(found, change.first_order[name])
        assert torch.equal(found, states[-1].buffers[name] - states[0].buffers[name]) and bool(found.any())
    found = aa.stage_effects(case.run, case.problem, gamma, cache=memory_cache())
    assert EVALUATED in found.reliability.assumptions
    real = truth(case, aa.Counterfactual.skip("a"), gamma)
    displaced = found.readings["displaced"][0]
    assert float((displaced - real).abs().mean()) < 0.5 * float((held(case, gamma, "a") - real).abs().mean())


def test_models_without_running_statistics_have_none_and_are_not_replayed_for_them() -> None:
    plain = make_case(zoo.MODELS["mlp"], zoo.OPTIMIZERS["momentum"])
    fixed = zoo.mlp()
    fixed.register_buffer("fixed", torch.ones(3))
    constant = make_case(lambda: fixed, zoo.OPTIMIZERS["momentum"])
    for case in (plain, constant):
        assert all(e.statistics == ({}, {}) for e in aa.embed_stages(case.run, case.problem, cache=memory_cache()))


def test_cached_embeddings_bring_their_statistics(tmp_path: Path) -> None:
    case = case_of()
    first, second = (aa.embed_stages(case.run, case.problem, cache=EmbeddingCache(tmp_path)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        for one, other in zip(a.statistics, b.statistics, strict=True):
            assert one.keys() == other.keys() and len(one) == 2
            assert all(torch.equal(one[n], other[n]) for n in one)
