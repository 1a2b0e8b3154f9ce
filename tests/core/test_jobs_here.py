"""A job that is done by whoever waits for it, in their own process: listed, cancelled and kept like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aa_core.cli import app
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.errors import Cancelled
from aa_core.jobs import JobSpec, all_jobs, find, perform, submit, whatif_spec
from aa_core.jobs.spec import CANCEL, FAILURE, RESULT, STATE
from aa_core.jobs.worker import do_here
from aa_core.lock import is_held
from tests.core.job_run import STAGES, make, wait
from tests.faults.oracle import contents

Ask = Callable[..., JobSpec]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    run, file = make(tmp_path_factory.mktemp("here"))

    def spec(stage: str = STAGES[0], function: str = "problem") -> JobSpec:
        return whatif_spec(run, Counterfactual.skip(stage), problem=f"{file}:{function}")

    return spec


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


def test_it_is_a_job_with_that_very_answer_and_the_progress_was_told(ask: Ask) -> None:
    told: list[tuple[str, int, int]] = []
    found = do_here(ask(), lambda *at: told.append(at))
    (job,) = all_jobs()
    assert job == find(ask().id) and job.status == "done" and not is_held(job.folder / "lock")
    assert job.result()["mean_truth"] == found.result["mean_truth"] == perform(ask()).result["mean_truth"]
    assert job.table("examples").equals(found.tables["examples"])
    assert told[-1][1] == told[-1][2] > 0 and job.progress is not None
    assert submit(ask()).status == "done", "nobody has to do it again"


def test_a_job_that_is_done_is_answered_again_and_stays_as_it_is(ask: Ask) -> None:
    first = do_here(ask())
    before = contents(find(ask().id).folder)
    again = do_here(ask())
    assert again.result["mean_truth"] == first.result["mean_truth"]
    assert contents(find(ask().id).folder) == before


def test_a_job_that_another_process_does_is_left_to_it(ask: Ask) -> None:
    job = submit(ask())
    found = do_here(ask())
    wait(lambda: not job.living)
    assert job.status == "done" and job.result()["mean_truth"] == found.result["mean_truth"]


def test_an_error_is_raised_and_left(ask: Ask) -> None:
    with pytest.raises(KeyError, match="no such setting"):
        do_here(ask(function="broken"))
    (job,) = all_jobs()
    assert (job.status, job.error) == ("failed", "KeyError: 'no such setting' (more in the log)")
    assert "in broken" in job.log and not is_held(job.folder / "lock")


def test_an_interrupt_cancels_it_and_the_next_one_goes_on(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aa_core.counterfactuals.kept.PAUSE", 0.0)
    monkeypatch.setattr("aa_core.counterfactuals.kept.SHARE", 1.0)

    def interrupt(phase: str, done: int, total: int) -> None:
        if total and done > 0.9 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_here(ask(), interrupt)
    job = find(ask().id)
    assert (job.status, job.error) == ("cancelled", "interrupted; nothing was changed")
    assert (job.folder / STATE).exists()
    found = do_here(ask())
    assert job.status == "done" and [a.status for a in job.earlier] == ["cancelled"]
    assert not (job.folder / STATE).exists()
    assert found.result["mean_truth"] == perform(ask()).result["mean_truth"]


def test_whoever_lists_it_can_cancel_it(ask: Ask) -> None:
    job_of = ask()

    def cancel(phase: str, done: int, total: int) -> None:
        (job,) = all_jobs()
        assert job.status == "running"
        job.cancel()

    with pytest.raises(Cancelled):
        do_here(job_of, cancel)
    assert find(job_of.id).status == "cancelled"
    assert (find(job_of.id).folder / CANCEL).exists() and not (find(job_of.id).folder / RESULT).exists()


def test_where_the_workspace_takes_no_job_nothing_is_done(ask: Ask, place: Path) -> None:
    place.mkdir()
    (place / "jobs").touch()
    with pytest.raises(NotADirectoryError):
        do_here(ask(), lambda *_: pytest.fail("begun"))


def test_a_disk_that_is_full_in_the_end_costs_the_job_and_not_the_answer(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, files: dict[str, bytes]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aa_core.jobs.worker._leave", full)
    with pytest.warns(RuntimeWarning, match="No space left on device; no job lists"):
        found = do_here(ask())
    job = find(ask().id)
    assert found.result["n"] == 12 and job.status == "failed" and not (job.folder / FAILURE).exists()
    assert not is_held(job.folder / "lock")


def test_a_calibration_at_the_command_line_is_a_job_and_a_slip_of_the_pen_is_none(ask: Ask) -> None:
    run, problem = ask().run, f"--problem={ask().problem}"

    def said(*arguments: str, code: int) -> Result:
        result = CliRunner().invoke(app, ["calibrate", run, problem, *arguments], prog_name="aa")
        assert result.exit_code == code, (result.output, result.exception)
        return result

    for name in ("likelyhood", "accuracy"):
        assert said("--performance", name, code=1).stderr.startswith("error: ")
    assert all_jobs() == ()
    assert "preferred on this run: " in said(code=0).stderr
    (job,) = all_jobs()
    assert (job.spec.kind, job.status) == ("calibrate", "done") and job.result()["stages"] == list(STAGES)
