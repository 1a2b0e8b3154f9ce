"""Replaying the steps to come in a thread changes no bit, hides no error and leaves no thread behind."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import aa_core as aa
from aa_core import replay
from aa_core import threads as beside
from aa_core.effects import attribution
from aa_core.effects.adjoint import AdjointStep
from aa_core.errors import ReplayDriftError
from aa_core.propagator import Propagator
from tests import zoo
from tests.core.cases import queries, recorded

pytestmark = pytest.mark.usefixtures("one_thread_an_operation")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that each stretch of steps was linearized in, as one processor or two would have it."""
    seen, linearized = [], replay._linearized

    def watched(*asked: object) -> Iterator[replay.Transition]:
        seen.append(threading.current_thread().name)
        yield from linearized(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(replay, "_linearized", watched)
    return seen


def effects(monkeypatch: pytest.MonkeyPatch, processors: int, *asked: object, **how: object) -> torch.Tensor:
    monkeypatch.setattr(beside, "processors", lambda: processors)
    return aa.step_effects(*asked, **how).effects  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["mlp", "attention", "lstm"])
@pytest.mark.parametrize("curvature", ["exact", "ggn"])
def test_effects_are_the_same_to_the_bit(
    model: str, curvature: str, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = recorded(model, "adamw", dtype=torch.float32, every=3)
    asked, how = (case.run, case.problem, queries(dtype=torch.float32)), {"curvature": curvature}
    alone = effects(monkeypatch, 1, *asked, **how)
    assert set(threads) == {"MainThread"}
    threads.clear()
    assert torch.equal(effects(monkeypatch, 2, *asked, **how), alone)
    assert threads[0] == "MainThread" and len(threads) == 4 and "MainThread" not in threads[1:]


def test_random_numbers_are_drawn_as_recorded(
    tmp_path: Path, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(zoo.FEATURES, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, zoo.CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    recorder = aa.Recorder(tmp_path / "run", model, optimizer, zoo.cross_entropy, checkpoint_every=3)
    with recorder, recorder.stage("all"):
        for k in range(12):
            x, y = zoo.examples(8, seed=k, dtype=torch.float32)
            recorder.batch(x, y)
            optimizer.zero_grad()
            zoo.cross_entropy(model(x), y).backward()
            optimizer.step()
    asked = (aa.open_run(tmp_path / "run"), aa.Problem(model, zoo.cross_entropy, device="cpu"))
    gamma, drawn = queries(dtype=torch.float32), torch.get_rng_state()
    alone = effects(monkeypatch, 1, *asked, gamma)
    assert torch.equal(effects(monkeypatch, 2, *asked, gamma), alone)
    assert "MainThread" not in threads[-3:]
    assert torch.equal(torch.get_rng_state(), drawn), "nothing was drawn from the caller's generator"


def test_effects_are_reckoned_and_updates_differentiated_beside_the_sweep_too(monkeypatch: pytest.MonkeyPatch) -> None:
    case, seen = recorded("mlp", "adamw", every=3), dict[str, set[bool]]()

    def watch(where: object, name: str) -> None:
        own = getattr(where, name)

        def watched(*asked: object) -> object:
            seen.setdefault(name, set()).add(threading.current_thread() is threading.main_thread())
            time.sleep(0.002)  # the other thread begins
            return own(*asked)

        monkeypatch.setattr(where, name, watched)

    watch(attribution, "_step_effect")
    watch(Propagator, "prepare")
    watch(Propagator, "pull")
    effects(monkeypatch, 2, case.run, case.problem, queries())
    assert seen == {"_step_effect": {False}, "prepare": {False}, "pull": {True}}
    seen.clear()
    effects(monkeypatch, 1, case.run, case.problem, queries())
    assert seen == {"_step_effect": {True}, "pull": {True}}


def test_an_error_beside_the_sweep_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    case, before, own = recorded("mlp", "adamw", every=3), threading.active_count(), attribution._step_effect

    def fails(run: object, training: object, at: AdjointStep, semantics: str) -> torch.Tensor:
        if at.transition.step == 7:
            raise ArithmeticError("at step 7")
        return own(run, training, at, semantics)  # type: ignore[arg-type]

    monkeypatch.setattr(attribution, "_step_effect", fails)
    with pytest.raises(ArithmeticError, match="at step 7"):
        effects(monkeypatch, 2, case.run, case.problem, queries())
    assert threading.active_count() == before


@pytest.mark.parametrize("how", [{"semantics": "zero_gradient"}, {"memory": 1}])
def test_it_is_left_alone_where_data_are_asked_for_meanwhile_or_two_stretches_do_not_fit(
    how: dict[str, object], threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = recorded("mlp", "adam", every=3)
    asked = (case.run, case.problem, queries())
    found = effects(monkeypatch, 2, *asked, **how)
    assert set(threads) <= {"MainThread"}
    assert torch.equal(found, effects(monkeypatch, 1, *asked, **how))


def test_a_drift_that_the_thread_finds_is_raised_where_its_steps_are_needed(
    threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = recorded("mlp", "adam", every=5)
    batch, weight = case.run.inputs[6].batches[0]
    swapped = case.run.inputs[6]._replace(batches=((batch._replace(targets=batch.targets.flip(0)), weight),))
    run = dataclasses.replace(case.run, inputs=[swapped if s.step == 6 else s for s in case.run.inputs])
    with pytest.raises(ReplayDriftError, match="up to step 10"):
        effects(monkeypatch, 2, run, case.problem, queries())
    assert len(threads) > 1 and threads[1] != "MainThread"


def test_who_cancels_waits_for_no_more_than_a_step(threads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("mlp", "adam", every=3)
    before, taken = threading.active_count(), []

    def cancel(done: int, total: int) -> None:
        taken.append(done)
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        effects(monkeypatch, 2, case.run, case.problem, queries(), progress=cancel)
    assert threading.active_count() == before
    assert max(taken) == 1 and len(threads) == 2
