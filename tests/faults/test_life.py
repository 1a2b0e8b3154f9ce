"""Whatever order things happen to a recording in; `make fuzz` goes on for longer."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.life import LifeOfARun

SHORT = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_the_life_of_a_run() -> None:
    run_state_machine_as_test(LifeOfARun, settings=SHORT)  # type: ignore[no-untyped-call]
