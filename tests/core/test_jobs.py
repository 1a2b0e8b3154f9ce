"""A job is one folder and one process, whoever asks how often, and whatever dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch

from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.kept import KeptState
from aa_core.counterfactuals.whatif import what_if
from aa_core.errors import EmptyStageError, IntegrityError, RequestError, UnknownStageError, is_memory
from aa_core.files import unsealed
from aa_core.jobs import (
    Job,
    JobSpec,
    all_jobs,
    asked_counterfactual,
    find,
    perform,
    resume_dead,
    retrainings,
    submit,
    whatif_spec,
    worker,
)
from aa_core.jobs.job import DIED
from aa_core.jobs.spec import FAILURE, RESULT, STATE, TABLE
from aa_core.jobs.worker import INTERVAL, answer
from aa_core.lock import acquire, is_held
from aa_core.processes import child_environment
from aa_core.registry import load_problem
from aa_core.run_performance import run_performance
from aa_core.runs.trajectory import Trajectory
from aa_core.stages import Stage
from tests.core.job_run import STAGES, STEPS, make, wait
from tests.faults.oracle import aa, contents

ROOT = Path(__file__).resolve().parents[2]
Ask = Callable[..., JobSpec]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trajectory, Path]:
    return make(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def run(recorded: tuple[Trajectory, Path]) -> Trajectory:
    return recorded[0]


@pytest.fixture
def ask(recorded: tuple[Trajectory, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Specs of what-if jobs in a workspace of the test's own; what still runs at its end is cancelled."""
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    run, file = recorded

    def spec(*stages: str, function: str = "problem", examples: list[int] | None = None) -> JobSpec:
        what = Counterfactual.skip(*(stages or STAGES[:1]))
        return whatif_spec(run, what, examples=examples, problem=f"{file}:{function}")

    yield spec
    for job in all_jobs():
        job.cancel()
    wait(lambda: not any(job.living for job in all_jobs()))


def at_once() -> float:
    """A second, for each of the processes that want the same core now."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def finished(job: Job) -> Job:
    wait(lambda: not job.living)
    return job


def running(job: Job) -> Job:
    """Wait until it is at its steps."""
    wait(lambda: job.progress is not None and job.progress.total > 0)
    assert job.status == "running"
    return job


def workers(job: Job) -> list[int]:
    """Process ids of all workers that this job ever had."""
    return [int(pid) for pid in re.findall(r"^worker (\d+) started", job.log, re.MULTILINE)]


# ---- one question, one job -------------------------------------------------------------------------------------------


def test_twenty_clicks_are_one_job_with_the_answer_of_a_direct_call(ask: Ask) -> None:
    jobs: list[Job] = []
    clicks = [threading.Thread(target=lambda: jobs.append(submit(ask()))) for _ in range(20)]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert len({j.id for j in jobs}) == 1 == len(all_jobs())
    job = finished(jobs[0])
    assert (job.status, job.error, len(workers(job))) == ("done", None, 1)
    assert submit(ask()).status == "done" and len(workers(job)) == 1
    assert find(job.id) == job
    answered = contents(job.folder)
    job.cancel()
    assert job.status == "done" and contents(job.folder) == answered, "what is over is not cancelled"

    direct = perform(ask())
    same = set(direct.result) - {"seconds"}
    assert {k: job.result()[k] for k in same} == json.loads(json.dumps({k: direct.result[k] for k in same}))
    pd.testing.assert_frame_equal(job.table("examples"), direct.tables["examples"], check_dtype=False)
    result = job.result()
    assert (result["n"], result["steps_replayed"], result["unit"]) == (12, 3 * STEPS, "nats")
    assert result["mean_recorded"] - result["mean_retrained"] == pytest.approx(result["mean_truth"])
    assert result["agreement"]["pearson"] > 0.5
    with pytest.raises(RequestError, match="has no table"):
        job.table("../nope")


def test_the_order_of_stages_and_examples_is_no_other_question(ask: Ask) -> None:
    assert ask("first", "last").id == ask("last", "first").id
    assert ask(examples=[3, 1, 1]).id == ask(examples=[1, 3]).id != ask().id


def test_the_id_is_a_digest_of_the_whole_spec(ask: Ask) -> None:
    spec = ask()
    changed = [("kind", "k"), ("run", "/r"), ("digest", "d"), ("problem", None), ("request", {}), ("code", "0")]
    assert len({spec.id, *(spec.model_copy(update={k: v}).id for k, v in changed)}) == 7
    assert re.fullmatch("[0-9a-f]{16}", spec.id)
    assert JobSpec.model_validate_json(spec.to_bytes()).id == spec.id


@pytest.mark.parametrize(
    "what",
    [
        Counterfactual.skip("first", "last", semantics="zero_gradient"),
        Counterfactual(("first",), 0.5),
        Counterfactual.skip_steps(3, 4, 11),
        Counterfactual.without_examples(0, 2),
        Counterfactual.change("last", steps=(1,), lr="cosine 0.1 to 0", momentum=1 / 3),
    ],
    ids=lambda what: what.name,
)
def test_every_counterfactual_can_be_a_job_and_is_read_back_from_it(run: Trajectory, what: Counterfactual) -> None:
    spec = whatif_spec(run, what)
    read = asked_counterfactual(JobSpec.model_validate_json(spec.to_bytes()))
    assert read == what
    assert whatif_spec(run, read).id == spec.id


def test_a_job_changes_hyperparameters_and_says_so(run: Trajectory, recorded: tuple[Trajectory, Path]) -> None:
    what = Counterfactual.change("last", lr="0.5x")
    spec = whatif_spec(run, what, problem=str(recorded[1]))
    found = perform(spec).result
    problem = load_problem(None, {}, str(recorded[1]))
    truth = what_if(run, problem, what, run_performance(run, "log-likelihood"))
    assert found["counterfactual"] == "last with lr 0.5x" and found["semantics"] == "change"
    assert found["skip"] == () and "other hyperparameters" in found["meaning"]
    assert found["mean_truth"] == pytest.approx(float(truth.truth.mean()), abs=1e-15) != 0
    assert found["reliability"]["words"] == truth.reliability.words


def test_a_problem_file_is_named_absolutely(run: Trajectory, recorded: tuple[Trajectory, Path], monkeypatch) -> None:
    monkeypatch.chdir(recorded[1].parent)
    spec = whatif_spec(run, Counterfactual.skip("first"), problem="problem.py:slow")
    assert spec.problem == f"{recorded[1]}:slow"
    assert whatif_spec(run, Counterfactual.skip("first"), problem="digits-mlp").problem == "digits-mlp"


def test_figures_that_are_not_defined_are_null(ask: Ask) -> None:
    files = {name: unsealed(data) or b"" for name, data in answer(lambda: perform(ask(examples=[5]))).items()}
    agreed = json.loads(files[RESULT])["agreement"]
    assert agreed["n"] == 1 and agreed["pearson"] is None and agreed["sign"] in (0.0, 1.0)
    assert json.loads(files[f"examples{TABLE}"])["example"] == [5]
    assert b"NaN" not in files[RESULT]


# ---- what is asked wrongly is said before anything starts ------------------------------------------------------------


def test_wrong_questions_start_nothing(run: Trajectory, ask: Ask) -> None:
    skip = Counterfactual.skip("first")
    with pytest.raises(UnknownStageError, match=r"unknown stage 'fisrt'; this run has: 'first', '=1\+1', 'last'"):
        ask("fisrt")
    with pytest.raises(RequestError, match="expected one of log-likelihood"):
        whatif_spec(run, skip, "f1")
    with pytest.raises(RequestError, match="example 12 does not exist; the evaluation set has examples 0 to 11"):
        ask(examples=[12])
    with pytest.raises(RequestError, match="readout='x'"):
        whatif_spec(run, skip, readout="x")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="step 24 is not in the run"):
        whatif_spec(run, Counterfactual.skip_steps(24))
    with pytest.raises(RequestError, match="example 99 was used in no step"):
        whatif_spec(run, Counterfactual.without_examples(99))
    with pytest.raises(RequestError, match="'beta1' is no hyperparameter"):
        whatif_spec(run, Counterfactual.change("first", beta1=0.5))
    with pytest.raises(EmptyStageError):
        Counterfactual.skip("none").resolve([Stage("none", ())])
    assert all_jobs() == ()


@pytest.mark.parametrize("job_id", ["../../etc", "0123456789abcdeF", "", "0" * 16, "0" * 17])
def test_an_id_that_is_no_job_is_refused(ask: Ask, job_id: str) -> None:
    with pytest.raises(RequestError, match="job"):
        find(job_id)


# ---- it fails, and says why ------------------------------------------------------------------------------------------


def test_our_own_errors_are_stored_as_their_message(ask: Ask) -> None:
    job = finished(submit(ask().model_copy(update={"digest": "0" * 64})))
    assert job.status == "failed" and "the run has changed since" in str(job.error)
    assert "Traceback" not in job.log
    with pytest.raises(RequestError, match="has no result: it is failed"):
        job.result()
    with pytest.raises(IntegrityError):
        perform(job.spec)


def test_other_errors_are_one_line_and_a_traceback_in_the_log(ask: Ask, run: Trajectory) -> None:
    job = finished(submit(ask(function="broken")))
    assert job.error == "KeyError: 'no such setting' (more in the log)"
    assert "Traceback" in job.log and "problem.py" in job.log
    assert submit(job.spec).status == "failed" and len(workers(job)) == 1, "only retry() starts it again"
    assert [(c["counterfactual"], c["status"][:16]) for c in retrainings(run)] == [("skip first", "failed: KeyError")]


@pytest.mark.parametrize("function", ["starved", "unmapped", "crowded"])
def test_out_of_memory_is_said_in_words(ask: Ask, recorded: tuple[Trajectory, Path], function: str) -> None:
    """Python says it with a type, the system with a number, torch with words: what it says of an exbibyte."""
    failure = json.loads(answer(lambda: perform(ask(function=function)))[FAILURE])
    assert failure["status"] == "failed" and failure["error"].startswith("MemoryError: out of memory; close other")
    if function != "starved":
        return
    run, file = recorded
    ended = aa("whatif", run.path, "--skip", "first", "--problem", f"{file}:{function}", folder=file.parent)
    assert (ended.code, ended.said.strip()) == (
        1,
        "error: out of memory; close other programs, or use a machine with more of it",
    )


def test_what_torch_says_of_a_full_gpu_is_out_of_memory() -> None:
    assert is_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_result_that_cannot_be_written_is_a_failure_that_says_why(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    job, write = Job.of(ask()), worker.write_atomic

    def full(path: Path, data: bytes) -> None:
        if path.name == RESULT or (path.name == FAILURE and job.progress is not None):
            raise OSError(28, "No space left on device")
        write(path, data)

    lock = job.reopen()
    monkeypatch.setattr(worker, "write_atomic", full)
    worker.work(job.folder)
    assert lock is not None and job.progress is None, "which made room"
    os.close(lock)
    assert (job.status, job.error) == ("failed", "OSError: [Errno 28] No space left on device (more in the log)")


def test_a_killed_worker_is_followed_by_another_three_times_at_most(ask: Ask) -> None:
    job = submit(ask(function="slow"))
    for number, by in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)):
        wait(lambda number=number: len(workers(job)) > number)
        os.kill(workers(job)[number], by)
    assert finished(job).status == "failed" and len(workers(job)) == 3
    assert job.error == (
        "the worker died each time (killed by SIGKILL: out of memory, or by hand; killed by SIGTERM); it is not tried "
        "more than 3 times"
    )
    assert submit(job.spec).status == "failed" and len(workers(job)) == 3
    assert job.retry().living
    assert finished(job).status == "done" and len(workers(job)) == 4
    assert job.retry().status == "done" and len(workers(job)) == 4, "a finished job is left as it is"


def test_a_job_all_of_whose_processes_died_goes_on_when_it_is_asked_again(ask: Ask) -> None:
    job = running(submit(ask(function="slow")))
    os.killpg(os.getpgid(workers(job)[0]), signal.SIGKILL)
    assert wait(lambda: job.status == "failed") < 2 and job.error == DIED
    assert [j.id for j in resume_dead()] == [job.id]
    assert job.living and resume_dead() == ()
    assert finished(job).status == "done" and len(workers(job)) == 2


COUNTED = """
import os, time
from pathlib import Path
from torch import nn
from aa_core.problem import Problem

def cross_entropy(outputs, targets):
    with Path(__file__).with_name("calls").open("a") as calls:
        calls.write(f"{os.getpid()}\\n")
    time.sleep(float(Path(__file__).with_name("pace").read_text()))
    return nn.functional.cross_entropy(outputs, targets)

def problem(config):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Problem(net, cross_entropy, device="cpu")
"""


def test_another_worker_goes_on_from_the_kept_state_to_the_same_end(ask: Ask, run: Trajectory, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    (tmp_path / "pace").write_text("0.1")
    job = submit(whatif_spec(run, Counterfactual(("first",), 0.5), problem=str(tmp_path / "counted.py")))
    wait((job.folder / STATE).exists)
    os.kill(workers(job)[0], signal.SIGKILL)
    at = KeptState(job.folder / STATE).read()
    (tmp_path / "pace").write_text("0")
    assert finished(job).status == "done"
    wait(lambda: not (job.folder / STATE).exists())
    resumed = {**job.result(), "seconds": 0}, job.table("examples")
    (job.folder / RESULT).unlink()
    assert finished(submit(job.spec)).status == "done"
    assert resumed[0] == {**job.result(), "seconds": 0}
    pd.testing.assert_frame_equal(resumed[1], job.table("examples"), check_exact=True)
    calls = Counter(map(int, (tmp_path / "calls").read_text().split()))
    _, second, unbroken = workers(job)
    assert at is not None and 0 < at.step == calls[unbroken] - calls[second]


def test_a_worker_steps_back_from_whoever_waits_for_a_page(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_JOBS_FIRST", "")
    job = running(submit(ask(function="slow")))
    assert os.getpriority(os.PRIO_PROCESS, workers(job)[0]) == min(os.nice(0) + 10, 19)
    job.cancel()


def test_a_suspended_worker_is_cancelled_within_a_second(ask: Ask) -> None:
    job = running(submit(ask(function="very_slow")))
    assert os.getpriority(os.PRIO_PROCESS, workers(job)[0]) == os.nice(0), "AA_JOBS_FIRST is set in all tests"
    os.kill(workers(job)[0], signal.SIGSTOP)
    assert job.living
    job.cancel()
    assert wait(lambda: not job.living) < at_once()
    assert (job.status, job.error) == ("cancelled", "cancelled; nothing was changed")


def test_a_suspended_job_is_still_running_and_goes_on(ask: Ask) -> None:
    """However long: whether it lives is told by the lock that it holds, and by no clock."""
    job = running(submit(ask(function="slow")))
    group = os.getpgid(workers(job)[0])
    os.killpg(group, signal.SIGSTOP)  # the worker and what watches over it
    assert submit(job.spec) == job == job.retry() and resume_dead() == ()
    at = job.progress
    time.sleep(2 * INTERVAL)
    assert (job.status, job.progress) == ("running", at)
    os.killpg(group, signal.SIGCONT)
    assert finished(job).status == "done" and len(workers(job)) == 1


def test_cancel_takes_effect_at_once_and_retry_starts_anew(ask: Ask) -> None:
    job = running(submit(ask(function="slow")))
    assert job.retry().status == "running" and len(workers(job)) == 1
    job.cancel()
    assert wait(lambda: not job.living) < at_once()
    assert job.status == "cancelled" and job.error == "cancelled; nothing was changed"
    assert submit(job.spec).status == "cancelled"
    assert running(job.retry()).status == "running"
    job.cancel()
    assert finished(job).status == "cancelled"
    job.cancel()
    assert not (job.folder / "result.json").exists()


def test_jobs_work_one_at_a_time_and_a_queued_one_can_be_cancelled(ask: Ask) -> None:
    first = running(submit(ask(function="very_slow")))
    second = submit(ask("last"))
    wait(lambda: workers(second))
    time.sleep(0.5)
    assert (first.status, second.status, second.progress) == ("running", "queued", None)
    assert [j.id for j in all_jobs()] == [second.id, first.id], "newest first"
    second.cancel()
    assert wait(lambda: not second.living) < at_once()
    assert second.status == "cancelled" and first.status == "running"


# ---- it outlives, and it reports -------------------------------------------------------------------------------------

SUBMIT_AND_DIE = """
import os, signal, sys
from aa_core.jobs import JobSpec, submit
print(submit(JobSpec.model_validate_json(sys.argv[1])).id, flush=True)
os.killpg(0, signal.SIGKILL)
"""


def test_the_job_outlives_the_dashboard_that_asked(ask: Ask, tmp_path: Path) -> None:
    """...with all of its process group, and imports nothing from the folder that it was started in."""
    for name in ("torch.py", "pandas.py", "aa_core.py"):
        (tmp_path / name).write_text("open('canary', 'w'); raise SystemExit('hostile')")
    spec = ask(function="slow")
    dashboard = subprocess.run(
        [sys.executable, "-c", SUBMIT_AND_DIE, spec.to_bytes().decode()],
        cwd=tmp_path,
        env=child_environment(),
        start_new_session=True,
        capture_output=True,
        text=True,
    )
    assert dashboard.returncode == -signal.SIGKILL, dashboard.stderr
    job = find(dashboard.stdout.strip())
    assert job.living
    assert finished(job).status == "done", job.error
    assert not (tmp_path / "canary").exists()


def test_progress_is_whole_monotone_and_written_at_most_twice_a_second(ask: Ask) -> None:
    job, seen = submit(ask(function="slow")), []
    while job.living:
        if (at := job.progress) is not None and at not in seen:  # half a file would not parse
            seen.append(at)
        time.sleep(0.002)
    steps = [p.done for p in seen]
    assert len(seen) >= 4 and steps == sorted(steps) and {p.total for p in seen[1:]} == {6 * STEPS}
    assert list(dict.fromkeys(p.phase for p in seen)) == ["opening the run", "estimating", "retraining"]
    assert min(b.updated - a.updated for a, b in pairwise(seen)) > 0.45
    assert len({p.started for p in seen}) == 1 and any(p.eta for p in seen)
    assert all(p.eta is None or 0 <= p.eta < 60 for p in seen)
    assert not list(job.folder.glob(".*")), "no temporary file is left"


# ---- the lock --------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_until_its_last_copy_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    held = acquire(path)
    assert held is not None and is_held(path) and acquire(path) is None
    copy = os.dup(held)
    os.close(held)
    assert is_held(path)
    os.close(copy)
    assert not is_held(path)


def test_probing_a_lock_does_not_keep_others_from_it(tmp_path: Path) -> None:
    path, over = tmp_path / "lock", threading.Event()
    path.touch()

    def probe() -> None:
        while not over.is_set():
            is_held(path)

    probes = [threading.Thread(target=probe) for _ in range(4)]
    for thread in probes:
        thread.start()
    try:
        for _ in range(50):
            held = acquire(path)
            assert held is not None
            os.close(held)
    finally:
        over.set()
        for thread in probes:
            thread.join()
