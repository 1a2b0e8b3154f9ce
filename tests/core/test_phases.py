"""Trainings that change on the way: frozen and thawed parameters, new heads, adapters, new optimizers.

Each is recorded, replayed to the bit, differentiated, and compared with the same training in plain torch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import EmptyStageError, ProblemError, RecordingError, UnsupportedError
from aa_core.replay import prepare, snapshot_before
from aa_core.runs.curves import read_curves
from aa_core.runs.trajectory import Trajectory
from aa_core.state import State, as_rays, leaves, map_state, pair, unflatten
from tests import zoo

STEPS = 5
Skip = frozenset[str]
NOTHING: Skip = frozenset()


class Net(nn.Module):
    """A body and a head, so that one can rest while the other learns."""

    def __init__(self, classes: int = zoo.CLASSES) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(zoo.FEATURES, 5), nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


class TwoHeads(Net):
    """Uses one head in training and the other later: torch passes over the one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.use = nn.Linear(5, zoo.CLASSES), "head"

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.use)(torch.tanh(self.body(x)))


class Adapted(nn.Module):
    """Low-rank adapters around a resting model, which gets new names on the way."""

    def __init__(self, inner: Net) -> None:
        super().__init__()
        self.inner = inner
        self.down, self.up = nn.Linear(zoo.FEATURES, 2, bias=False), nn.Linear(2, zoo.CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.up(self.down(x))


class Loop:
    """A training in plain torch, recorded if there is a recorder; a skipped stage takes no optimizer step."""

    def __init__(self, recorder: aa.Recorder | None, skip: Skip) -> None:
        self.recorder, self.skip, self.first = recorder, skip, 0

    def stage(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, /, **options: Any) -> None:
        if self.recorder is None:
            self._steps(name, model, optimizer)
        else:
            with self.recorder.stage(name, **options):
                self._steps(name, model, optimizer)
        self.first += STEPS

    def _steps(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for k in range(self.first, self.first + STEPS):
            x, y = zoo.examples(8, seed=k)
            if self.recorder is not None:
                self.recorder.batch(x, y)
            optimizer.zero_grad()
            zoo.cross_entropy(model(x), y).backward()
            if name not in self.skip:
                optimizer.step()


def seeded(build: Callable[[], nn.Module], seed: int = 3) -> Any:
    torch.manual_seed(seed)
    return build().double()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.8, dampening=0.2)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1, eps=1e-4)


Training = Callable[[Callable[[Any, Any], Loop]], list[nn.Module]]
"""Takes (model, optimizer) -> Loop; gives the architectures that were trained, as they were built."""


def new_optimizer(begin: Callable[[Any, Any], Loop]) -> list[nn.Module]:
    model = seeded(Net)
    built, first = copy.deepcopy(model), sgd(model.parameters())
    loop = begin(model, first)
    loop.stage("a", model, first)
    second = adamw(model.parameters())
    loop.stage("b", model, second, optimizer=second)
    loop.stage("c", model, second)
    return [built, model]


def frozen_then_thawed(
    make: Callable[[Any], torch.optim.Optimizer], begin: Callable[[Any, Any], Loop]
) -> list[nn.Module]:
    model = seeded(Net)
    built, optimizer = copy.deepcopy(model), make(model.parameters())
    loop = begin(model, optimizer)
    loop.stage("a", model, optimizer)
    model.body.requires_grad_(False)
    loop.stage("b", model, optimizer)
    model.body.requires_grad_(True)
    model.head.requires_grad_(False)
    loop.stage("c", model, optimizer)
    return [built, model]


def thawed_by_a_new_group(begin: Callable[[Any, Any], Loop]) -> list[nn.Module]:
    model = seeded(Net)
    built, optimizer = copy.deepcopy(model), adamw(model.head.parameters())
    loop = begin(model, optimizer)
    loop.stage("a", model, optimizer)
    optimizer.add_param_group({"params": list(model.body.parameters()), "lr": 0.01})
    loop.stage("b", model, optimizer)
    loop.stage("c", model, optimizer)
    return [built, model]


def only_the_head_goes_on(begin: Callable[[Any, Any], Loop]) -> list[nn.Module]:
    """The body rests under a new optimizer that does not have it, and still hands on what was done to it."""
    model = seeded(Net)
    built, first = copy.deepcopy(model), adamw(model.parameters())
    loop = begin(model, first)
    loop.stage("a", model, first)
    model.body.requires_grad_(False)
    second = sgd(model.head.parameters())
    loop.stage("b", model, second, optimizer=second)
    loop.stage("c", model, second)
    return [built, model]


def another_head_used(begin: Callable[[Any, Any], Loop]) -> list[nn.Module]:
    model = seeded(TwoHeads)
    built, optimizer = copy.deepcopy(model), adamw(model.parameters())
    loop = begin(model, optimizer)
    loop.stage("a", model, optimizer)
    model.use = "other"
    second = copy.deepcopy(built)
    second.use = "other"
    loop.stage("b", model, optimizer, loss_fn=lambda f, y: zoo.cross_entropy(f, y))
    loop.stage("c", model, optimizer)
    return [built, second, model]


def head_replaced(begin: Callable[[Any, Any], Loop]) -> list[nn.Module]:
    model = seeded(functools.partial(Net, 7))
    built, first = copy.deepcopy(model), sgd(model.parameters())
    loop = begin(model, first)
    loop.stage("a", model, first)
    model.head = seeded(lambda: nn.Linear(5, zoo.CLASSES), 4)
    again, second = copy.deepcopy(model), adamw(model.parameters())
    loop.stage("b", model, second, optimizer=second)
    loop.stage("c", model, second)
    return [built, again, model]


def head_begun_anew(begin: Callable[[Any, Any], Loop]) -> list[nn.Module]:
    """The same shape, so that the recorder must be told."""
    model = seeded(Net)
    built, first = copy.deepcopy(model), sgd(model.parameters())
    loop = begin(model, first)
    loop.stage("a", model, first)
    torch.manual_seed(8)
    model.head.reset_parameters()
    second = sgd(model.parameters())
    loop.stage("b", model, second, optimizer=second, reset=["head.weight", "head.bias"])
    loop.stage("c", model, second)
    return [built, model]


def adapters_added(begin: Callable[[Any, Any], Loop]) -> list[nn.Module]:
    model = seeded(Net)
    built, first = copy.deepcopy(model), adamw(model.parameters())
    loop = begin(model, first)
    loop.stage("a", model, first)
    model.requires_grad_(False)
    adapted = seeded(lambda: Adapted(model), 5)
    again = copy.deepcopy(adapted)
    second = adamw([*adapted.down.parameters(), *adapted.up.parameters()])
    loop.stage("b", adapted, second, optimizer=second, model=adapted)
    loop.stage("c", adapted, second)
    return [built, again, adapted]


TRAININGS: dict[str, Training] = {
    "new optimizer": new_optimizer,
    "frozen, then thawed (SGD)": functools.partial(frozen_then_thawed, sgd),
    "frozen, then thawed (AdamW)": functools.partial(frozen_then_thawed, adamw),
    "thawed by a new group": thawed_by_a_new_group,
    "only the head goes on": only_the_head_goes_on,
    "another head used": another_head_used,
    "head replaced": head_replaced,
    "head begun anew": head_begun_anew,
    "adapters added": adapters_added,
}
GAMMA = aa.log_likelihood(*zoo.examples(6, seed=99))


@dataclass(frozen=True, eq=False)
class Case:
    run: Trajectory
    problem: aa.Problem
    training: Training

    def plain(self, *skipped: str) -> Tensor:
        """gamma after the same training in plain torch, without recorder and engine; a skipped stage does not step."""
        *_, trained = self.training(lambda model, optimizer: Loop(None, frozenset(skipped)))
        x, y = zoo.examples(6, seed=99)
        return trained(x).log_softmax(1)[torch.arange(6), y].detach()


@pytest.fixture(scope="module", params=TRAININGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    path, training = tmp_path_factory.mktemp("phases") / "run", TRAININGS[request.param]
    return record(path, training)


def record(path: Path, training: Training) -> Case:
    opened: list[aa.Recorder] = []

    def begin(model: nn.Module, optimizer: torch.optim.Optimizer) -> Loop:
        opened.append(aa.Recorder(path, model, optimizer, zoo.cross_entropy, checkpoint_every=3).__enter__())
        return Loop(opened[0], NOTHING)

    *built, _ = training(begin)
    opened[0].__exit__(None, None, None)
    problem = None
    for model in built:
        problem = aa.Problem(model, zoo.cross_entropy, previous=problem, device="cpu")
    assert problem is not None
    return Case(aa.open_run(path), problem, training)


def test_the_replay_is_the_recording_to_the_bit(case: Case) -> None:
    drifts = aa.replay_drift(case.run, case.problem)
    assert len(drifts) >= 5 and all(d.absolute == 0.0 for d in drifts)
    assert aa.check_integrity(case.run) == ()


def test_the_final_model_is_the_one_that_was_trained(case: Case) -> None:
    assert torch.equal(aa.final_model(case.run, case.problem).performance(GAMMA), case.plain())


@pytest.mark.parametrize("stage", ["a", "b", "c"])
def test_retraining_without_a_stage_is_training_without_its_steps(case: Case, stage: str) -> None:
    found = aa.retrain(case.run, case.problem, aa.Counterfactual.skip(stage)).performance(GAMMA)
    torch.testing.assert_close(found, case.plain(stage), rtol=1e-9, atol=1e-12)


def test_every_step_is_linearized_as_its_finite_difference(case: Case) -> None:
    """Crossings included: the steps before and after each change are among them."""
    training = prepare(case.run, case.problem)
    for k in range(case.run.steps):
        at = snapshot_before(case.run, training, k)
        data = case.run.step_input(k, torch.device("cpu"))
        direction = random_like(at.state, k)
        pushed = training.linearize(at, data, "exact")[1] @ as_rays(direction)

        def moved(size: float, at=at, data=data, direction=direction) -> State:
            return training.step(
                at._replace(state=map_state(lambda t, d: t + size * d, at.state, direction)), data
            ).state

        difference = map_state(lambda a, b: ((a - b) / 2e-6)[None], moved(1e-6), moved(-1e-6))
        error = map_state(torch.sub, pushed, difference)
        assert float(pair(error, error)) < 1e-8 * float(pair(difference, difference)), k


def test_pushing_and_pulling_are_transposed_in_every_step(case: Case) -> None:
    training = prepare(case.run, case.problem)
    for k in range(case.run.steps):
        at = snapshot_before(case.run, training, k)
        propagator = training.linearize(at, case.run.step_input(k, torch.device("cpu")), "exact")[1]
        tangents = map_state(lambda a, b: torch.stack([a, b]), random_like(at.state, 1), random_like(at.state, 2))
        pushed = propagator @ tangents
        other = unflatten([torch.randn_like(t) for t in leaves(pushed)], pushed)
        torch.testing.assert_close(pair(other, pushed), pair(propagator.T @ other, tangents), rtol=1e-9, atol=1e-11)


def random_like(state: State, seed: int) -> State:
    """A direction that keeps second moments positive, and the count as it is (dampening looks whether it is past 1)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = map_state(lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64), state)
    relative = map_state(torch.mul, drawn, state)
    return State(drawn.params, relative.slots, torch.zeros_like(state.count))


def test_step_effects_add_up_to_the_additive_effects_of_stages(case: Case) -> None:
    steps = aa.step_effects(case.run, case.problem, GAMMA)
    stages = aa.stage_effects(case.run, case.problem, GAMMA, method="additive", cache=EmbeddingCache(None))
    torch.testing.assert_close(steps.effects.reshape(3, STEPS, -1).sum(1), stages.effects, rtol=1e-7, atol=1e-10)


def test_additive_effects_are_those_of_scaling_a_stage_a_little(case: Case) -> None:
    found = aa.stage_effects(case.run, case.problem, GAMMA, method="additive", cache=EmbeddingCache(None)).effects
    recorded, h = aa.final_model(case.run, case.problem).performance(GAMMA), 1e-6
    for stage, expected in zip(("a", "b", "c"), found, strict=True):
        nearly = aa.retrain(case.run, case.problem, aa.Counterfactual((stage,), scale=1 - h)).performance(GAMMA)
        torch.testing.assert_close((recorded - nearly) / h, expected, rtol=1e-3, atol=1e-5)


def test_the_last_stage_is_exact_by_the_displaced_readout(case: Case) -> None:
    found = aa.stage_effects(case.run, case.problem, GAMMA, readout="displaced", cache=EmbeddingCache(None)).effects[-1]
    truth = case.plain() - case.plain("c")
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-11)


def test_splits_by_parameter_and_cause_add_up(case: Case) -> None:
    steps = aa.step_effects(case.run, case.problem, GAMMA.mean()).effects.sum(0)
    for split in (aa.step_effects_by_parameter, aa.step_effects_by_cause):
        torch.testing.assert_close(split(case.run, case.problem, GAMMA.mean()).effects.sum(0), steps)
    whole = aa.stage_effects(case.run, case.problem, GAMMA.mean(), cache=EmbeddingCache(None)).effects.sum(0)
    torch.testing.assert_close(
        aa.stage_effects_by_parameter(case.run, case.problem, GAMMA.mean()).effects.sum(0), whole
    )


def test_the_log_shows_every_step_with_its_own_hyperparameters(case: Case) -> None:
    frame = case.run.log_frame()
    assert len(frame) == 3 * STEPS and frame["lr"].notna().all() and frame["loss"].notna().all()
    curves = read_curves(case.run.path)
    assert curves is not None and curves.stages == case.run.stages
    pd.testing.assert_frame_equal(curves.log, frame)


# ---- what is recorded ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    root = tmp_path_factory.mktemp("recorded")
    return functools.cache(lambda name: record(root / name, TRAININGS[name]))


def test_parameters_that_were_always_updated_together_share_a_clock(recorded: Callable[[str], Case]) -> None:
    body, head = ("body.weight", "body.bias"), ("head.weight", "head.bias")
    assert [p.clocks for p in recorded("new optimizer").run.phases] == [(body + head,)] * 2
    (frozen,) = recorded("frozen, then thawed (AdamW)").run.phases
    assert frozen.clocks == (body, head)
    assert recorded("thawed by a new group").run.phases[1].clocks == (head, body)


def test_counts_are_those_of_torch(recorded: Callable[[str], Case]) -> None:
    assert recorded("frozen, then thawed (AdamW)").run.load(3 * STEPS).state.count.tolist() == [10.0, 10.0]
    assert recorded("frozen, then thawed (AdamW)").run.load(2 * STEPS).state.count.tolist() == [5.0, 10.0]
    assert recorded("thawed by a new group").run.load(3 * STEPS).state.count.tolist() == [15.0, 10.0]
    assert recorded("new optimizer").run.load(3 * STEPS).state.count.tolist() == [10.0]


def test_resting_parameters_stay_in_the_state_without_slots(recorded: Callable[[str], Case]) -> None:
    state = recorded("only the head goes on").run.load(3 * STEPS).state
    assert list(state.params) == ["head.weight", "head.bias", "body.weight", "body.bias"]
    assert {n for slot in state.slots.values() for n in slot} == {"head.weight", "head.bias"}


def test_adapters_know_what_the_model_was_called(recorded: Callable[[str], Case]) -> None:
    run = recorded("adapters added").run
    first, second = run.phases
    assert second.sources["inner.body.weight"] == "body.weight" and second.sources["down.weight"] is None
    assert (first.problem, second.problem) == (0, 1)
    assert run.optimizer == "AdamW, then AdamW"


def test_a_chain_of_problems_must_be_as_long_as_that_of_the_run(recorded: Callable[[str], Case]) -> None:
    case = recorded("adapters added")
    alone = aa.Problem(case.problem.model, zoo.cross_entropy, device="cpu")
    with pytest.raises(ProblemError, match="previous=Problem"):
        aa.stage_effects(case.run, alone, GAMMA)


@pytest.mark.parametrize("make", [sgd, adamw, lambda p: torch.optim.SGD(p, lr=0.1)])
def test_stages_that_change_nothing_are_one_phase(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    model = seeded(Net)
    optimizer = make(model.parameters())
    with aa.Recorder(tmp_path / "run", model, optimizer, zoo.cross_entropy) as recorder:
        loop = Loop(recorder, NOTHING)
        loop.stage("a", model, optimizer)
        loop.stage("b", model, optimizer)
    assert len(aa.open_run(tmp_path / "run").phases) == 1


def test_an_optimizer_whose_state_was_cleared_begins_anew(tmp_path: Path) -> None:
    model = seeded(Net)
    built, optimizer = copy.deepcopy(model), sgd(model.parameters())
    with aa.Recorder(tmp_path / "run", model, optimizer, zoo.cross_entropy) as recorder:
        loop = Loop(recorder, NOTHING)
        loop.stage("a", model, optimizer)
        optimizer.state.clear()
        loop.stage("b", model, optimizer)
    run = aa.open_run(tmp_path / "run")
    assert [phase.fresh for phase in run.phases] == [True, True]
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, aa.Problem(built, zoo.cross_entropy, device="cpu")))


def test_a_run_that_is_still_recorded_shows_its_phases(tmp_path: Path) -> None:
    model = seeded(Net)
    first = sgd(model.parameters())
    with aa.Recorder(tmp_path / "run", model, first, zoo.cross_entropy) as recorder:
        loop = Loop(recorder, NOTHING)
        loop.stage("a", model, first)
        model.body.requires_grad_(False)
        second = adamw(model.parameters())
        with recorder.stage("b", optimizer=second):
            loop._steps("b", model, second)
            live = aa.open_run(tmp_path / "run")
            assert live.steps == 2 * STEPS and [p.optimizer for p in live.phases] == ["SGD", "AdamW"]
            assert live.record(STEPS).idle == ("body.weight", "body.bias")
            assert set(live.record(STEPS).hyper[0]) != set(live.record(0).hyper[0])


# ---- what is refused -------------------------------------------------------------------------------------------------


def begun(path: Path) -> tuple[aa.Recorder, Net, torch.optim.Optimizer, Loop]:
    model = seeded(Net)
    optimizer = sgd(model.parameters())
    recorder = aa.Recorder(path, model, optimizer, zoo.cross_entropy)
    return recorder, model, optimizer, Loop(recorder, NOTHING)


def test_parameters_changed_between_stages_are_refused(tmp_path: Path) -> None:
    recorder, model, optimizer, loop = begun(tmp_path / "run")
    with pytest.raises(RecordingError, match=r"head\.weight.* changed between two stages.*reset="), recorder:
        loop.stage("a", model, optimizer)
        with torch.no_grad():
            model.head.weight.mul_(2)
        loop.stage("b", model, optimizer)


def test_an_optimizer_with_a_state_of_its_own_is_refused(tmp_path: Path) -> None:
    recorder, model, optimizer, loop = begun(tmp_path / "run")
    with pytest.raises(UnsupportedError, match="has a state for it"), recorder:
        loop.stage("a", model, optimizer)
        second = sgd(model.parameters())
        second.load_state_dict(optimizer.state_dict())
        loop.stage("b", model, second, optimizer=second)


def test_an_optimizer_that_nobody_named_is_hinted_at(tmp_path: Path) -> None:
    recorder, model, optimizer, loop = begun(tmp_path / "run")
    with pytest.raises(EmptyStageError, match=r"optimizer=\.\.\."), recorder:
        loop.stage("a", model, optimizer)
        loop.stage("b", model, adamw(model.parameters()))


def test_groups_that_change_within_a_stage_are_refused(tmp_path: Path) -> None:
    recorder, model, optimizer, loop = begun(tmp_path / "run")
    with pytest.raises(RecordingError, match="changed within a stage"), recorder, recorder.stage("a"):
        loop._steps("a", model, optimizer)
        optimizer.param_groups[0]["params"].pop()
        loop._steps("a", model, optimizer)


def test_an_unknown_name_to_reset_is_refused(tmp_path: Path) -> None:
    recorder, model, optimizer, loop = begun(tmp_path / "run")
    with pytest.raises(RecordingError, match="no parameter of that name"), recorder:
        loop.stage("a", model, optimizer, reset=["hed.weight"])


def test_a_model_changed_before_the_first_step_is_refused(tmp_path: Path) -> None:
    recorder, model, _, loop = begun(tmp_path / "run")
    with pytest.raises(RecordingError, match="changed before step 0"), recorder:
        second = adamw(model.parameters())
        loop.stage("a", model, second, optimizer=second)
