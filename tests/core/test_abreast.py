"""Trainings in two threads are those of one, to the bit, and end together."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core import threads
from aa_core.counterfactuals import abreast, fleet
from aa_core.counterfactuals.abreast import Lane
from aa_core.counterfactuals.fleet import retrain_all, train_lanes
from aa_core.propagator import Training
from aa_core.records import StepInput
from aa_core.replay import prepare
from aa_core.state import Snapshot
from tests import zoo
from tests.core.cases import assert_same_params, equal, make_case, recorded, two_groups
from tests.core.test_features import CASES as FEATURES
from tests.core.test_fleet import QUESTIONS, SKIPS

ASKED = (*QUESTIONS, aa.Counterfactual.change("b", lr="0.5x"))


@pytest.fixture(autouse=True)
def two_processors(one_thread_an_operation: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them free, and every step as long as a large model's."""
    monkeypatch.setattr(threads, "processors", lambda: 2)
    monkeypatch.setattr(fleet, "HEAVY", 0.0)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that took steps of lanes; each step is long enough for both to take some."""
    seen, step = list[str](), Lane.step

    def watched(lane: Lane, *asked: object) -> Snapshot:
        seen.append(threading.current_thread().name)
        time.sleep(0.003)
        return step(lane, *asked)  # type: ignore[arg-type]

    monkeypatch.setattr(Lane, "step", watched)
    return seen


def by_both(workers: list[str]) -> bool:
    return len(set(workers)) == 2 and "MainThread" in workers


@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
def test_every_question_gets_what_it_gets_alone_to_the_bit(optimizer: str, workers: list[str]) -> None:
    case = recorded("mlp", optimizer)
    found = retrain_all(case.run, case.problem, ASKED)
    assert by_both(workers)
    for what, model in zip(ASKED, found, strict=True):
        alone = aa.retrain(case.run, case.problem, what)
        assert equal(model.params, alone.params) and model.steps_replayed == alone.steps_replayed


@pytest.mark.parametrize("model", zoo.MODELS)
def test_so_it_is_for_every_model_with_groups_and_micro_batches(model: str, workers: list[str]) -> None:
    make = two_groups(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    case = make_case(zoo.MODELS[model], make, micro_batches=2, every=5)
    found = retrain_all(case.run, case.problem, SKIPS)
    assert by_both(workers)
    for what, one in zip(SKIPS, found, strict=True):
        assert equal(one.params, aa.retrain(case.run, case.problem, what).params)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_model_that_draws_random_numbers_is_left_to_one_thread(
    feature: str, workers: list[str], tmp_path: Path
) -> None:
    run, model = FEATURES[feature](tmp_path / "run")
    drawn = any(batch.rng is not None for k in range(run.steps) for batch in run.record(k).micro_batches)
    problem, skips = aa.Problem(model, zoo.cross_entropy), [aa.Counterfactual.skip(s) for s in ("a", "b")]
    asked, state = (*skips, aa.Counterfactual.without_examples(2, 11)), torch.get_rng_state()
    found = retrain_all(run, problem, asked)
    assert torch.equal(torch.get_rng_state(), state), "nothing was drawn from the caller's generator"
    assert drawn != by_both(workers)
    for what, one in zip(asked, found, strict=True):
        alone = aa.retrain(run, problem, what)
        assert equal(one.params, alone.params) and equal(one.buffers, alone.buffers)


class Counting(nn.Module):
    """A loss that remembers in between what it was called with."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.kept = float(outputs.detach().sum())
        time.sleep(1e-3)
        return zoo.cross_entropy(outputs, targets) * (1.0 if self.kept == float(outputs.detach().sum()) else 2.0)


class Locked(Counting):
    """And one that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize("loss", [Counting, Locked])
def test_a_loss_with_a_memory_is_copied_or_left_to_one_thread(loss: type[Counting], workers: list[str]) -> None:
    case = recorded("mlp", "adam")
    problem = aa.Problem(case.model, loss(), device="cpu")
    found = retrain_all(case.run, problem, SKIPS)
    assert by_both(workers) == (loss is Counting)
    for what, one in zip(SKIPS, found, strict=True):
        assert equal(one.params, aa.retrain(case.run, case.problem, what).params)


def test_both_threads_end_at_about_the_same_time_whatever_the_lengths(workers: list[str]) -> None:
    case = recorded("mlp", "adam")
    training = prepare(case.run, case.problem)
    starts = [0, 0, 0, 8]
    ends = train_lanes(case.run, training, [Lane(case.run.states[k]) for k in starts])
    assert all(equal(end.state.params, case.run.states[-1].state.params) for end in ends)
    taken = [workers.count(name) for name in set(workers)]
    assert len(taken) == 2 and sum(taken) == sum(case.run.steps - k for k in starts)
    assert max(taken) - min(taken) <= 2 * abreast.TURN


def test_progress_counts_the_steps_of_both_and_comes_from_the_caller_s_thread(workers: list[str]) -> None:
    case, seen, callers = recorded("mlp", "adam"), list[tuple[int, int]](), set[str]()

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        callers.add(threading.current_thread().name)

    retrain_all(case.run, case.problem, SKIPS, progress)
    assert by_both(workers) and callers == {"MainThread"}
    counted = [done for done, total in seen if total > 1]
    assert counted == sorted(counted) and seen[-1] == (len(workers), len(workers))


@pytest.mark.parametrize("after", [1, 12])
def test_who_cancels_leaves_no_thread_behind(after: int, workers: list[str]) -> None:
    case, before = recorded("mlp", "adam"), threading.active_count()

    def cancel(done: int, total: int) -> None:
        if total > 1 and done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrain_all(case.run, case.problem, SKIPS, cancel)
    assert threading.active_count() == before
    assert len(workers) <= after + abreast.TURN, "each thread ends after the step that it is in"


@pytest.mark.parametrize("here", [True, False])
def test_an_error_in_either_thread_ends_both(here: bool, workers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    case, before, step = recorded("mlp", "adam"), threading.active_count(), Training.step

    def failing(training: Training, at: Snapshot, data: StepInput) -> Snapshot:
        if len(workers) > 4 and (threading.current_thread() is threading.main_thread()) == here:
            raise MemoryError("no more")
        return step(training, at, data)

    monkeypatch.setattr(Training, "step", failing)
    with pytest.raises(MemoryError, match="no more"):
        retrain_all(case.run, case.problem, QUESTIONS)
    assert threading.active_count() == before
    assert len(workers) < 20


def test_a_dataset_is_read_by_one_thread_at_a_time(workers: list[str], tmp_path: Path) -> None:
    x, y = zoo.examples(40, seed=0, dtype=torch.float32)

    class Jealous:
        """Bears one reader."""

        reading = 0

        def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
            type(self).reading += 1
            time.sleep(1e-4)
            assert self.reading == 1, "two threads at once"
            type(self).reading -= 1
            return x[row], y[row]

    torch.manual_seed(0)
    data, model = Jealous(), zoo.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reference = aa.DatasetReference("jealous", data)
    with aa.Recorder(tmp_path / "run", model, optimizer, zoo.cross_entropy, dataset=reference) as recorder:
        for stage in "abc":
            with recorder.stage(stage):
                for k in range(5):
                    rows = torch.arange(8 * k, 8 * k + 8)
                    recorder.batch(x[rows], y[rows], ids=rows)
                    optimizer.zero_grad()
                    zoo.cross_entropy(model(x[rows]), y[rows]).backward()
                    optimizer.step()
    run, problem = aa.open_run(tmp_path / "run", {"jealous": data}), aa.Problem(model, zoo.cross_entropy, device="cpu")
    skips = [aa.Counterfactual.skip(s) for s in "abc"]
    found = retrain_all(run, problem, skips)
    assert by_both(workers)
    for what, one in zip(skips, found, strict=True):
        assert equal(one.params, aa.retrain(run, problem, what).params)


# ---- the choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "batch", "abreast_"),
    [(2.0, 1.1, 1.2, True), (2.0, 1.3, 1.2, False), (2.0, 2.1, 3.0, False), (2.0, 1.1, None, True)],
)
def test_of_short_steps_the_fastest_way_is_taken(
    one: float, two: float, batch: float | None, abreast_: bool, workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = recorded("mlp", "adam")
    lanes = [Lane(case.run.states[0])] * 4
    monkeypatch.setattr(fleet, "HEAVY", 100.0)
    monkeypatch.setattr(fleet, "LONG", 4 * case.run.steps)
    seconds = iter([one, two * fleet.SOME * 2, *([] if batch is None else [batch * len(lanes)])])

    def timed(task: object) -> float:
        if (found := next(seconds, None)) is None:
            raise RuntimeError("cannot be batched")
        return found

    monkeypatch.setattr(fleet, "_seconds", timed)
    ends = train_lanes(case.run, prepare(case.run, case.problem), lanes)
    assert by_both(workers) == abreast_
    for end in ends:
        assert_same_params(end.state.params, case.run.states[-1].state.params)


@pytest.mark.parametrize("why", ["few steps", "no processor", "one lane"])
def test_it_is_not_tried_where_it_cannot_pay(why: str, workers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("mlp", "adam")
    lanes = [Lane(case.run.states[0])] * (1 if why == "one lane" else 3)
    monkeypatch.setattr(fleet, "pair_of", lambda *_: pytest.fail("tried"))
    if why == "few steps":
        monkeypatch.setattr(fleet, "HEAVY", 100.0)
    if why == "no processor":
        monkeypatch.setattr(threads, "processors", lambda: 1)
    train_lanes(case.run, prepare(case.run, case.problem), lanes)
    assert not workers
