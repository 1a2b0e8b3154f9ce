"""SIGKILL and SIGTERM at random: nothing acknowledged is lost, nothing wrong is left, what goes on ends the same."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from aa_core.counterfactuals.kept import KeptState
from aa_core.registry import load_problem
from aa_core.reporting.report import build_report
from aa_core.reporting.verify import verify_file
from aa_core.runs.archive import import_run
from aa_core.runs.integrity import check_integrity
from aa_core.runs.trajectory import Trajectory, open_run
from tests.core.job_run import make
from tests.faults.oracle import contents
from tests.faults.victims import (
    REPORTS,
    SIGNALS,
    attribute,
    export,
    kill,
    kill_often,
    left_alone,
    pack,
    record,
    retrain,
    start,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trajectory, str]:
    run, file = make(tmp_path_factory.mktemp("kills"))
    return run, f"{file}:problem"


@pytest.fixture
def recorded(made: tuple[Trajectory, str]) -> Iterator[tuple[Trajectory, str]]:
    """(run, problem); whatever is killed beside it, the run is byte by byte as it was."""
    before = contents(made[0].path)
    yield made
    assert contents(made[0].path) == before


@pytest.mark.slow
def test_no_acknowledged_step_is_lost_in_two_hundred_kills_of_a_recorder(tmp_path: Path) -> None:
    rng, found = random.Random(0), []
    until_told = [first_told(tmp_path / f"first{number}") for number in range(2)][1]
    for number in range(200):
        path, told = tmp_path / str(number), tmp_path / f"{number}.told"
        assert kill(start(record, path, told), rng.uniform(0.8, 2.0) * until_told, rng.choice(SIGNALS))
        acknowledged = told.stat().st_size if told.exists() else 0
        if not (path / "run.json").exists():
            assert acknowledged == 0
            continue
        run = open_run(path)
        assert acknowledged <= run.steps <= acknowledged + 1 and not run.sealed
        assert check_integrity(run) == run.warnings and all("torn" in w or "nothing" in w for w in run.warnings)
        found.append(run.steps)
        shutil.rmtree(path)
    assert len(found) > 50 and len(set(found)) > 10, "killed at many different moments"


def first_told(path: Path) -> float:
    """Seconds until a recorder acknowledges its first step; the first one waits for torch to be loaded."""
    process, told, began = start(record, path, path.with_suffix(".told")), path.with_suffix(".told"), time.monotonic()
    while not told.exists() or not told.stat().st_size:
        assert process.is_alive()
        time.sleep(0.005)
    kill(process, 0.0)
    return time.monotonic() - began


@pytest.mark.slow
def test_a_retraining_killed_fifty_times_ends_as_one_that_was_left_alone(
    recorded: tuple[Trajectory, str], tmp_path: Path
) -> None:
    run, problem = recorded
    begun: list[int] = []

    def check() -> None:
        at = KeptState(tmp_path / "state").read()
        begun.append(-1 if at is None else at.step)
        if (tmp_path / "result").exists():
            results.add((tmp_path / "result").read_text())
            (tmp_path / "result").unlink()
            (tmp_path / "state").unlink()

    results: set[str] = set()
    kill_often(50, random.Random(1), check, retrain, run.path, problem, tmp_path)
    left_alone(retrain, run.path, problem, tmp_path)
    check()
    assert len(results) == 1, "the same to the last bit, however often it was killed"
    assert len(set(begun)) > 2, "killed at different steps"


@pytest.mark.slow
def test_attribution_killed_fifty_times_leaves_no_wrong_embedding(
    recorded: tuple[Trajectory, str], tmp_path: Path
) -> None:
    run, problem = recorded
    results: list[pd.DataFrame] = []

    def check() -> None:
        if (tmp_path / "result").exists():
            results.append(pd.read_csv(tmp_path / "result"))
            (tmp_path / "result").unlink()
            shutil.rmtree(tmp_path / "embeddings")

    kill_often(50, random.Random(2), check, attribute, run.path, problem, tmp_path)
    left_alone(attribute, run.path, problem, tmp_path)
    check()
    for found in results:  # what a killed process left in the cache; fewer stages propagated at once round otherwise
        pd.testing.assert_frame_equal(found, results[-1], rtol=1e-9)


@pytest.mark.slow
def test_export_killed_fifty_times_leaves_a_whole_report_or_none(
    recorded: tuple[Trajectory, str], tmp_path: Path
) -> None:
    run, problem = recorded
    report = build_report(run, load_problem(None, {}, problem))

    def check() -> None:
        for path in (tmp_path / f"report.{kind}" for kind in REPORTS):
            if path.exists():
                verify_file(path)
                path.unlink()

    kill_often(50, random.Random(3), check, export, report, tmp_path)


@pytest.mark.slow
def test_packing_and_unpacking_killed_twenty_times_leave_a_whole_run_or_none(
    recorded: tuple[Trajectory, str], tmp_path: Path
) -> None:
    digest, file, folder = recorded[0].digest, tmp_path / "run.zip", tmp_path / "again"

    def check() -> None:
        if folder.exists():
            assert open_run(folder).digest == digest and check_integrity(open_run(folder)) == ()
            shutil.rmtree(folder)
        if file.exists():
            assert import_run(file, folder).digest == digest
            shutil.rmtree(folder)
            file.unlink()

    kill_often(20, random.Random(4), check, pack, recorded[0].path, tmp_path)


def test_a_retraining_goes_on_from_the_state_that_it_kept(recorded: tuple[Trajectory, str], tmp_path: Path) -> None:
    run, problem = recorded
    left_alone(retrain, run.path, problem, tmp_path)
    whole = (tmp_path / "result").read_text()
    (tmp_path / "result").unlink()
    at = KeptState(tmp_path / "state").read()
    assert at is not None and at.step == run.steps
    left_alone(retrain, run.path, problem, tmp_path)
    assert (tmp_path / "result").read_text() == whole
    damaged = bytearray((tmp_path / "state").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "state").write_bytes(damaged)
    assert KeptState(tmp_path / "state").read() is None, "a damaged state is as good as none"
    left_alone(retrain, run.path, problem, tmp_path)
    assert (tmp_path / "result").read_text() == whole
