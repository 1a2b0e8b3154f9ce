"""Whatever order things happen to a recording in; `make fuzz` goes on for longer."""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test

from tests.faults.fuzz import explore
from tests.faults.life import LifeOfARun


def test_the_life_of_a_run() -> None:
    explore(
        lambda chosen: run_state_machine_as_test(LifeOfARun, settings=chosen),  # type: ignore[no-untyped-call]
        examples=12,
        stateful_step_count=20,
    )
