"""Averaged weights by which a model is judged: recorded, replayed to the bit, differentiated, retrained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import RecordingError, UnsupportedError
from aa_core.replay import prepare, snapshot_before
from aa_core.runs.trajectory import Trajectory
from aa_core.state import AVERAGE, State, as_rays, map_state, pair
from tests import zoo

KINDS: dict[str, dict[str, Any]] = {
    "every step": {"decay": 0.8},
    "every third step": {"decay": 0.6, "every": 3},
}
STAGES = {"a": range(5), "b": range(5, 11)}
GAMMA = aa.log_likelihood(*zoo.examples(6, seed=99))


def model() -> nn.Module:
    torch.manual_seed(1)
    return zoo.mlp().double()


def averaged(trained: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(decay))


def train(path: Path, decay: float, every: int = 1, said: float | None = None, lose: int = -1) -> AveragedModel:
    """Eleven steps in two stages, recorded; the update after step `lose` is forgotten."""
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.02)
    average = averaged(trained, decay)
    announced = aa.Averaging(average, said or decay, every)
    with aa.Recorder(path, trained, optimizer, zoo.cross_entropy, checkpoint_every=3, averaging=announced) as recorder:
        for name, steps in STAGES.items():
            with recorder.stage(name):
                for k in steps:
                    x, y = zoo.examples(8, seed=k)
                    recorder.batch(x, y)
                    optimizer.zero_grad()
                    zoo.cross_entropy(trained(x), y).backward()
                    optimizer.step()
                    if (k + 1) % every == 0 and k != lose:
                        average.update_parameters(trained)
    return average


def plain(run: Trajectory, skip: str) -> nn.Module:
    """The averaged model of the same training in plain torch, without the steps and updates of a stage."""
    trained = model()
    optimizer, average = torch.optim.AdamW(trained.parameters(), lr=0.02), copy.deepcopy(trained)
    for k in (k for name, steps in STAGES.items() if name != skip for k in steps):
        x, y = zoo.examples(8, seed=k)
        optimizer.zero_grad()
        zoo.cross_entropy(trained(x), y).backward()
        optimizer.step()
        if (weight := run.record(k).averaging) is not None:
            with torch.no_grad():
                for mean, now in zip(average.parameters(), trained.parameters(), strict=True):
                    mean.lerp_(now, weight)
    return average


@pytest.fixture(scope="module", params=KINDS)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trajectory, AveragedModel, dict]:
    path = tmp_path_factory.mktemp("averaged") / "run"
    average = train(path, **KINDS[request.param])
    return aa.open_run(path), average, KINDS[request.param]


def problem() -> aa.Problem:
    return aa.Problem(model(), zoo.cross_entropy, device="cpu")


def gamma_of(trained: nn.Module) -> Tensor:
    x, y = zoo.examples(6, seed=99)
    return trained(x).log_softmax(1)[torch.arange(6), y].detach()


def test_parameters_and_averages_replay_to_the_bit(case: tuple) -> None:
    run, average, _ = case
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, problem()))
    training = prepare(run, problem())
    replayed = training.step(
        snapshot_before(run, training, run.steps - 1), run.step_input(run.steps - 1, torch.device("cpu"))
    )
    for name, value in average.module.named_parameters():
        assert torch.equal(replayed.state.slots[AVERAGE][name], value)


def test_the_model_is_judged_by_its_averages(case: tuple) -> None:
    run, average, _ = case
    assert torch.equal(aa.final_model(run, problem()).performance(GAMMA), gamma_of(average.module))


@pytest.mark.parametrize("stage", ["a", "b"])
def test_retraining_leaves_out_steps_and_updates(case: tuple, stage: str) -> None:
    run, _, _ = case
    found = aa.retrain(run, problem(), aa.Counterfactual.skip(stage)).performance(GAMMA)
    torch.testing.assert_close(found, gamma_of(plain(run, stage)), rtol=1e-9, atol=1e-12)


def test_every_step_is_linearized_as_its_finite_difference(case: tuple) -> None:
    run, _, _ = case
    training = prepare(run, problem())
    for k in range(run.steps):
        at, data = snapshot_before(run, training, k), run.step_input(k, torch.device("cpu"))
        direction = random_like(at.state, k)
        pushed = training.linearize(at, data, "exact")[1] @ as_rays(direction)

        def moved(size: float, at=at, data=data, direction=direction) -> State:
            there = map_state(lambda t, d: t + size * d, at.state, direction)
            return training.step(at._replace(state=there), data).state

        difference = map_state(lambda a, b: ((a - b) / 2e-6)[None], moved(1e-6), moved(-1e-6))
        error = map_state(torch.sub, pushed, difference)
        assert float(pair(error, error)) < 1e-8 * float(pair(difference, difference)), k


def random_like(state: State, seed: int) -> State:
    """A direction that keeps second moments positive, and the count as it is."""
    generator = torch.Generator().manual_seed(seed)
    drawn = map_state(lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64), state)
    return State(drawn.params, map_state(torch.mul, drawn, state).slots, torch.zeros_like(state.count))


def test_effects_agree_with_each_other_and_with_retraining(case: tuple) -> None:
    run, _, _ = case
    cache, recorded = EmbeddingCache(None), aa.final_model(run, problem()).performance(GAMMA)
    additive = aa.stage_effects(run, problem(), GAMMA, method="additive", cache=cache).effects
    steps = aa.step_effects(run, problem(), GAMMA)
    sums = torch.stack([steps.effects[:5].sum(0), steps.effects[5:].sum(0)])
    torch.testing.assert_close(sums, additive, rtol=1e-7, atol=1e-10)
    for stage, expected in zip(("a", "b"), additive, strict=True):
        nearly = aa.retrain(run, problem(), aa.Counterfactual((stage,), scale=1 - 1e-6)).performance(GAMMA)
        torch.testing.assert_close((recorded - nearly) / 1e-6, expected, rtol=2e-3, atol=1e-5)
    displaced = aa.stage_effects(run, problem(), GAMMA, readout="displaced", cache=cache).effects[-1]
    truth = recorded - aa.retrain(run, problem(), aa.Counterfactual.skip("b")).performance(GAMMA)
    torch.testing.assert_close(displaced, truth, rtol=1e-8, atol=1e-11)


def test_an_update_that_does_not_come_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="updated 2 times, expected 3"):
        train(tmp_path / "run", 0.9, lose=2)


def test_another_decay_than_announced_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"not what decay=0\.5 gives"):
        train(tmp_path / "run", 0.9, said=0.5)


@pytest.mark.parametrize("every", [1, 3])
def test_another_decay_is_noticed_in_a_single_stage(
    tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the second stage; the update after the first step only copies."""
    monkeypatch.setattr("tests.core.test_averaging.STAGES", {"a": range(9)})
    with pytest.raises(RecordingError, match=r"not what decay=0\.5 gives"):
        train(tmp_path / "run", 0.9, every, said=0.5)


def test_another_kind_of_average_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"averaged model is a Sequential, expected .*AveragedModel"):
        aa.Averaging(nn.Sequential(), 0.9)  # type: ignore[arg-type]


def test_averaged_buffers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="use_buffers"):
        aa.Averaging(AveragedModel(model(), use_buffers=True), 0.9)


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": -0.1}, {"every": 0}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordingError, match="expected 0 <= decay < 1"):
        aa.Averaging(AveragedModel(model()), **({"decay": 0.9} | wrong))


def test_a_new_optimizer_beside_averages_is_refused(tmp_path: Path) -> None:
    trained = model()
    optimizer, average = torch.optim.SGD(trained.parameters(), lr=0.1), averaged(trained, 0.9)
    x, y = zoo.examples(8, seed=0)

    def step(recorder: aa.Recorder, optimizer: torch.optim.Optimizer) -> None:
        recorder.batch(x, y)
        optimizer.zero_grad()
        zoo.cross_entropy(trained(x), y).backward()
        optimizer.step()
        average.update_parameters(trained)

    recorder = aa.Recorder(
        tmp_path / "run", trained, optimizer, zoo.cross_entropy, averaging=aa.Averaging(average, 0.9)
    )
    with pytest.raises(UnsupportedError, match="separate runs"), recorder:
        with recorder.stage("a"):
            step(recorder, optimizer)
        second = copy.copy(torch.optim.Adam(trained.parameters()))
        with recorder.stage("b", optimizer=second):
            step(recorder, second)
