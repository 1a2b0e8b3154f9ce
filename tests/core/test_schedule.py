"""Walking a trajectory backwards: the schedule as a pure function, and the states that it really keeps."""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aa_core.propagator import Training
from aa_core.records import StepInput
from aa_core.replay import Transition, reverse, segments
from aa_core.schedule import capacity, split
from aa_core.state import Snapshot, leaves, nbytes
from tests.core.cases import Case, recorded

pure = settings(max_examples=150, deadline=None, derandomize=True)
sweeps = settings(max_examples=20, deadline=None, derandomize=True)
STEPS = 30


@cache
def steps_run(length: int, slots: int, where: Any = split) -> int:
    """How many steps are run to reverse a segment that is cut by the schedule."""
    if length <= slots or length == 1:
        return length
    left = where(length, slots)
    return left + steps_run(length - left, slots - 1, where) + steps_run(left, slots, where)


@cache
def most_often(length: int, slots: int) -> int:
    """How often the step that is run most often is run again."""
    if length <= slots or length == 1:
        return 0
    left = split(length, slots)
    return max(most_often(length - left, slots - 1), 1 + most_often(left, slots))


@cache
def fewest_steps(length: int, slots: int) -> int:
    """The least that any cutting needs, by trying all."""
    if length <= slots or length == 1:
        return length
    if slots == 1:
        return length * (length + 1) // 2
    return min(left + fewest_steps(length - left, slots - 1) + fewest_steps(left, slots) for left in range(1, length))


# ---- the pure functions ----------------------------------------------------------------------------------------------


@pure
@given(slots=st.integers(2, 40), repeats=st.integers(1, 8))
def test_capacity_grows_with_slots_and_with_repeats(slots: int, repeats: int) -> None:
    assert capacity(slots, 0) == slots
    assert capacity(slots, repeats) > capacity(slots, repeats - 1)
    assert capacity(slots, repeats) > capacity(slots - 1, repeats)


@pure
@given(length=st.integers(2, 400), slots=st.integers(1, 60))
def test_a_split_leaves_steps_on_both_sides(length: int, slots: int) -> None:
    assert 1 <= split(length, slots) <= length - 1


@pure
@given(slots=st.integers(2, 8), repeats=st.integers(0, 4))
def test_a_segment_within_capacity_runs_no_step_more_often_than_promised(slots: int, repeats: int) -> None:
    for length in {1, capacity(slots, repeats) // 2 or 1, capacity(slots, repeats)}:
        assert most_often(length, slots) <= repeats


@pure
@given(length=st.integers(1, 120), slots=st.integers(1, 60))
def test_more_slots_never_cost_more_steps(length: int, slots: int) -> None:
    assert length <= steps_run(length, slots + 1) <= steps_run(length, slots) <= length * (length + 1) // 2


def test_where_all_states_fit_every_step_is_run_once() -> None:
    assert all(steps_run(length, length) == length for length in range(1, 100))


def test_no_schedule_needs_a_tenth_fewer_steps() -> None:
    wasteful = {
        (n, s): (steps_run(n, s), fewest_steps(n, s))
        for n in range(1, 60)
        for s in range(1, 20)
        if steps_run(n, s) > 1.1 * fewest_steps(n, s)
    }
    assert not wasteful


def test_thousands_of_slots_are_no_problem() -> None:
    assert 1 <= split(6000, 5000) < 6000


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 12, [(0, 5), (5, 10), (10, 12)]),
        (3, 12, [(3, 5), (5, 10), (10, 12)]),
        (5, 10, [(5, 10)]),
        (6, 9, [(6, 9)]),
        (11, 12, [(11, 12)]),
        (12, 12, []),
    ],
)
def test_segments_are_cut_at_the_checkpoints(start: int, stop: int, expected: list[tuple[int, int]]) -> None:
    case = recorded("linear", "momentum")
    assert segments(case.every(5), start, stop) == expected


# ---- the sweep -------------------------------------------------------------------------------------------------------


class Watched(Training):
    """Counts the steps that it takes, and those of the states it made that somebody still holds."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.problem, case.run.phases, case.run.load)
        self.taken, self.alive = 0, 0

    def step(self, at: Snapshot, step: StepInput) -> Snapshot:
        after = super().step(at, step)
        self.taken, self.alive = self.taken + 1, self.alive + 1
        weakref.finalize(after.state.count, self._gone)
        return after

    def _gone(self) -> None:
        self.alive -= 1


def long_case(**options: Any) -> Case:
    return recorded("linear", "adam", stages=(("a", 10), ("b", STEPS - 10)), **options)


def sweep(every: int, slots: int, start: int = 0) -> tuple[list[int], list[int], int]:
    """(steps in the order of the sweep, states alive at each, steps run)."""
    case = long_case()
    watched, order, alive = Watched(case), [], []
    memory = slots * nbytes(case.run.states[0])
    for transition in reverse(case.every(every), watched, start, STEPS, memory):
        order.append(transition.step)
        alive.append(watched.alive)
        assert_is_recorded(case, transition)
    return order, alive, watched.taken


def assert_is_recorded(case: Case, transition: Transition) -> None:
    for snapshot, step in ((transition.before, transition.step), (transition.after, transition.step + 1)):
        expected = case.run.states[step].state
        assert snapshot.step == step
        assert all(torch.equal(a, b) for a, b in zip(leaves(snapshot.state), leaves(expected), strict=True))


@sweeps
@given(every=st.integers(1, STEPS), slots=st.integers(0, STEPS + 2), start=st.integers(0, STEPS - 1))
def test_every_transition_comes_once_backwards_and_bit_equal(every: int, slots: int, start: int) -> None:
    assert sweep(every, slots, start)[0] == list(reversed(range(start, STEPS)))


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 10, 29, 30])
def test_a_sweep_runs_as_many_steps_as_the_schedule_says(slots: int) -> None:
    assert sweep(STEPS, slots)[2] == steps_run(STEPS, slots)
    assert sweep(10, slots)[2] == 3 * steps_run(10, slots)


def test_a_sweep_with_all_checkpoints_runs_every_step_once() -> None:
    assert sweep(1, 1)[2] == STEPS


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 10, 15, 29, 30])
def test_a_sweep_keeps_no_more_states_than_the_budget_and_the_transition_at_hand(slots: int) -> None:
    first = 1  # it was loaded, not made by a step
    assert first + max(sweep(STEPS, slots)[1]) <= slots + 2


def test_a_long_segment_with_room_for_one_state_does_not_break_the_stack() -> None:
    class Instant(Training):
        def step(self, at: Snapshot, step: StepInput) -> Snapshot:
            return at._replace(step=at.step + 1)

    class Long:
        checkpoints, steps = (0,), 1100

        def load(self, step: int) -> Snapshot:
            return case.run.states[step]

        def step_input(self, step: int, device: torch.device) -> StepInput:
            return case.run.inputs[0]

    case = long_case()
    training = Instant(case.problem, case.run.phases, case.run.load)
    assert next(reverse(Long(), training, 0, 1100, memory=1)).step == 1099  # type: ignore[arg-type]
    assert [t.step for t in reverse(Long(), training, 0, 1100, memory=1)] == list(reversed(range(1100)))  # type: ignore[arg-type]
