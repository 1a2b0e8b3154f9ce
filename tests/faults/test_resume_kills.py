"""kill -9 at random times while a recording goes on, again and again: it ends as one that was left alone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from aa_core.errors import RunNotFoundError
from aa_core.runs.trajectory import open_run
from tests.faults.victims import PAUSE, go_on, kill, left_alone, start

KINDS = ("SGD with momentum, float32", "SGD with momentum, float64", "AdamW, float32", "AdamW, float64")
KILLS = 8


def steps_in(path: Path) -> int:
    try:
        return open_run(path).steps
    except RunNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_killed_again_and_again_ends_as_one_left_alone(tmp_path: Path, kind: str) -> None:
    """By turns at any time, and after some more steps, which on a slow machine is all that brings it further."""
    left_alone(go_on, tmp_path / "first", kind)  # waits for torch to be loaded
    lasts, rng = left_alone(go_on, tmp_path / "whole", kind), random.Random(kind)
    whole, path, told = open_run(tmp_path / "whole"), tmp_path / "killed", tmp_path / "told"
    stops, before, by_step = list[int](), 0, False
    while len(stops) < KILLS or len(set(stops)) < 3:
        told.write_bytes(b"")
        process, by_step, more = start(go_on, path, kind, told), not by_step, rng.randint(1, 4)
        while by_step and process.is_alive() and told.stat().st_size < more:
            process.join(0.002)
        if kill(process, rng.uniform(0, PAUSE if by_step else lasts)):
            stops.append(steps_in(path))
            assert stops[-1] >= before, "what is recorded stays"
            before = stops[-1]
        if steps_in(path) == whole.steps and open_run(path).sealed:
            assert open_run(path).digest == whole.digest
            shutil.rmtree(path)
            before = 0
    left_alone(go_on, path, kind)
    assert open_run(path).digest == whole.digest
