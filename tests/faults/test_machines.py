"""Machines that fail: a full disk, a disk that may only be read, no memory left, a stopped process, many sessions."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aa_core.access import Person
from aa_core.access_log import append as log_append
from aa_core.access_log import read_log
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.errors import RequestError, RunBusyError, RunExistsError
from aa_core.jobs import all_jobs, submit, whatif_spec
from aa_core.lock import PATIENCE
from aa_core.recording import claim
from aa_core.recording.recorder import Recorder
from aa_core.recording.writer import IfExists
from aa_core.runs.archive import export_run
from aa_core.runs.integrity import check_integrity
from aa_core.runs.trajectory import open_run
from tests.core.job_run import make as make_for_jobs
from tests.core.job_run import wait
from tests.core.resume_case import KINDS, Training
from tests.faults.oracle import aa, contents
from tests.faults.victims import PROCESSES, kill, record, start
from tests.recorded import LOSS, make, train
from tests.recorded import record as record_small

KIND = KINDS["AdamW, float64"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 128 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("no disk of its own: mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_on_a_full_disk_the_recording_stops_and_goes_on_when_there_is_room(small: Path, tmp_path: Path) -> None:
    whole, done = Training(KIND, 0).run(tmp_path / "whole", lambda k: None), list[int]()
    with pytest.raises(OSError, match="No space left"):
        Training(KIND, 0).run(small / "r", done.append)
    stopped = open_run(small / "r")
    assert 0 < len(done) <= stopped.steps < 14 and not stopped.sealed
    assert all("torn" in found for found in check_integrity(stopped))
    remount(small, "size=8m")
    if stopped.warnings:
        with pytest.warns(RuntimeWarning, match="torn"):
            Training(KIND, 1).run(small / "r")
    else:
        Training(KIND, 1).run(small / "r")
    ends = open_run(small / "r"), open_run(tmp_path / "whole")
    assert ends[0].sealed and ends[1].digest == whole
    a, b = (end.load(14).state for end in ends)
    assert all(torch.equal(a.params[n], b.params[n]) for n in b.params)


def test_on_a_disk_that_may_only_be_read_runs_are_read_and_nothing_is_begun(small: Path, tmp_path: Path) -> None:
    remount(small, "size=8m")
    run = record_small(small / "r")
    export_run(run, tmp_path / "r.zip")
    remount(small, "ro")
    assert check_integrity(open_run(small / "r")) == ()
    with pytest.raises(OSError, match="Read-only"), Recorder(small / "new", *make(), LOSS):
        pass
    for command in (("import", tmp_path / "r.zip", "-o", small / "in"), ("export", small / "r", "-o", small / "r.zip")):
        ended = aa(*command, folder=tmp_path)
        assert ended.code == 1 and "Read-only" in ended.said and "Traceback" not in ended.said, ended
    assert sorted(p.name for p in small.iterdir()) == ["r"]


def fill(disk: Path) -> Path:
    """Take all room that is left; the file that does."""
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def files(folder: Path) -> dict[str, str]:
    """What is written under a folder; empty folders and locks are not."""
    found = contents(folder)
    return {name: found[name] for name in found if (folder / name).is_file() and not name.endswith(("/lock", ".lock"))}


@pytest.mark.parametrize("why", ["No space left", "Read-only"])
def test_where_the_workspace_cannot_be_written_commands_say_why_and_leave_nothing(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    remount(small, "size=8m")
    run, file = make_for_jobs(tmp_path)
    where = {"AA_WORKSPACE": str(small / "workspace")}
    monkeypatch.setenv("AA_WORKSPACE", where["AA_WORKSPACE"])
    problem = ("--problem", f"{file}:problem")
    finding = ("findings", run.path, "add", "--stage", "first", "--claim", "It helped.", *problem)
    log_append(Person("me", "analyst"), "opened run", run.digest)
    filler = fill(small) if why == "No space left" else None
    if filler is None:
        remount(small, "ro")
    before = files(small), contents(run.path)
    for command in (
        ("effects", run.path, *problem),
        ("calibrate", run.path, *problem),
        ("whatif", run.path, "--skip", "first", *problem),
        ("report", run.path, "-o", small / "report.html", *problem),
        ("export", run.path, "-o", small / "r.zip"),
        finding,
    ):
        ended = aa(*command, folder=tmp_path, environment=where)
        assert ended.code == 1 and why in ended.said and "Traceback" not in ended.said, (command[0], ended)
        assert (files(small), contents(run.path)) == before, command[0]
    with pytest.raises(OSError, match=why):
        submit(whatif_spec(run, Counterfactual.skip("first"), problem=problem[1]))
    with pytest.raises(RequestError, match="cannot be written"):
        for _ in range(100):  # on a full disk those before it find room in the last page
            log_append(Person("me", "analyst"), "opened run", run.digest)
    written = len(read_log().entries)
    if filler is None:
        remount(small, "rw")
    else:
        filler.unlink()
    log_append(Person("me", "analyst"), "opened run", run.digest)
    assert len(read_log().entries) == written + 1 and len(read_log().torn) <= 1
    assert aa(*finding, folder=tmp_path, environment=where).code == 0


def test_a_job_whose_disk_is_full_says_so_and_can_be_done_when_there_is_room(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remount(small, "size=8m")
    run, file = make_for_jobs(tmp_path)
    monkeypatch.setenv("AA_WORKSPACE", str(small))
    before = contents(run.path)
    job = submit(whatif_spec(run, Counterfactual.skip("first"), problem=f"{file}:slow"))
    wait(lambda: job.progress is not None and job.progress.total > 0)
    filler = fill(small)
    wait(lambda: not job.living)
    assert job.status == "failed" and "No space left" in str(job.error), (job.error, job.log)
    assert job.log.count("started") == 1
    filler.unlink()
    job.retry()
    wait(lambda: not job.living)
    assert job.status == "done" and contents(run.path) == before, job.error


def starve(path: Path) -> None:
    """Record until there is no memory left for the loop."""
    model, optimizer = make()
    with Recorder(path, model, optimizer, LOSS, checkpoint_every=5) as recorder, recorder.stage("a"):
        train(recorder, model, optimizer, 8)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        bytearray(1 << 28)


def test_out_of_memory_the_recording_is_there_up_to_its_last_step(tmp_path: Path) -> None:
    process = start(starve, tmp_path / "r")
    process.join()
    run = open_run(tmp_path / "r")
    assert process.exitcode == 1 and (run.steps, run.sealed) == (8, False)
    assert check_integrity(run) == ()


def test_a_stopped_recorder_is_read_keeps_its_run_and_goes_on(tmp_path: Path) -> None:
    path, told = tmp_path / "r", tmp_path / "told"
    process = start(record, path, told)
    wait(lambda: told.exists() and told.stat().st_size > 12)
    seen = []
    for _ in range(5):  # a reader beside the recorder at work
        run = open_run(path)
        assert all("torn" in found for found in check_integrity(run))
        seen.append(run.steps)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.2)
    stopped = open_run(path).steps
    assert sorted(seen) == seen and seen[-1] <= stopped and told.stat().st_size <= stopped <= told.stat().st_size + 1
    with pytest.raises(RunBusyError), Recorder(path, *make(), LOSS, if_exists="resume"):
        pass
    assert open_run(path).steps == stopped
    os.kill(process.pid, signal.SIGCONT)
    wait(lambda: told.stat().st_size > stopped + 3)
    kill(process, 0.0)
    assert open_run(path).steps >= told.stat().st_size


def test_a_terminated_recorder_leaves_what_it_acknowledged_and_another_goes_on(tmp_path: Path) -> None:
    path, told = tmp_path / "r", tmp_path / "told"
    process = start(record, path, told)
    wait(lambda: told.exists() and told.stat().st_size > 12)
    assert kill(process, 0.0, signal.SIGTERM)
    run, acknowledged = open_run(path), told.stat().st_size
    assert acknowledged <= run.steps <= acknowledged + 1 and not run.sealed
    assert check_integrity(run) == run.warnings and all("torn" in w for w in run.warnings)
    model, optimizer = make()
    here = torch.get_num_threads()
    torch.set_num_threads(run.environment.threads)  # its own process has as many as there are cores
    try:
        again = Recorder(path, model, optimizer, LOSS, if_exists="resume")
        with warnings.catch_warnings(action="ignore"), again, again.stage("at last"):
            train(again, model, optimizer, 2)
    finally:
        torch.set_num_threads(here)
    assert (open_run(path).steps, open_run(path).sealed) == (run.steps + 2, True)
    assert check_integrity(open_run(path)) == ()


def compete(path: Path, told: Path, if_exists: IfExists, ready: Any) -> None:
    """Record as soon as all are ready, and tell how that ended."""
    model, optimizer = make()
    ready.wait()
    try:
        with Recorder(path, model, optimizer, LOSS, if_exists=if_exists) as recorder, recorder.stage("a"):
            train(recorder, model, optimizer, 3)
            how = "won"
    except (RunBusyError, RunExistsError) as error:
        how = str(error)
    told.write_text(how)


@pytest.mark.parametrize("modes", [("refuse", "refuse"), ("resume", "resume"), ("refuse", "resume")])
def test_of_recorders_started_at_once_one_records_and_the_others_are_refused(
    tmp_path: Path, modes: tuple[IfExists, ...]
) -> None:
    for number in range(5):
        path, ready = tmp_path / str(number), PROCESSES.Barrier(4)
        told = [tmp_path / f"{number}.{i}" for i in range(4)]
        started = [start(compete, path, t, mode, ready) for t, mode in zip(told, modes * 2, strict=True)]
        for process in started:
            process.join()
        said = sorted(t.read_text() for t in told)
        assert said.count("won") == 1, said
        assert all("another recorder" in s or "exists already" in s or "sealed" in s for s in said if s != "won"), said
        run = open_run(path)
        assert (run.steps, run.sealed, check_integrity(run)) == (3, True, ())


def test_a_recorder_that_asks_for_the_lock_does_not_keep_another_from_it(tmp_path: Path) -> None:
    probing = claim.lock(tmp_path)
    over = threading.Timer(PATIENCE / 4, os.close, [probing])
    over.start()
    os.close(claim.lock(tmp_path))
    over.join()


def ask(run: Path, problem: str, workspace: Path, told: Path) -> None:
    """A session that asks for one what-if."""
    os.environ["AA_WORKSPACE"] = str(workspace)
    job = submit(whatif_spec(open_run(run), Counterfactual.skip("first"), problem=problem))
    (told / str(os.getpid())).write_text(job.id)


def test_twenty_sessions_that_ask_one_question_get_one_job_that_works_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = make_for_jobs(tmp_path)
    told, workspace = tmp_path / "told", tmp_path / "workspace"
    told.mkdir()
    monkeypatch.setenv("AA_WORKSPACE", str(workspace))
    sessions = [start(ask, run.path, f"{file}:problem", workspace, told) for _ in range(20)]
    for session in sessions:
        session.join()
    assert [session.exitcode for session in sessions] == [0] * 20
    assert len(list(told.iterdir())) == 20 and len({p.read_text() for p in told.iterdir()}) == 1
    (job,) = all_jobs()
    wait(lambda: not job.living)
    assert job.status == "done" and job.log.count("started") == 1
