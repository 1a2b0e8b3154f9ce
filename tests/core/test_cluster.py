"""Fleets of jobs on a real Ray of this machine, with two workers."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aa_core.cli import app
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.errors import RequestError
from aa_core.jobs import Job, JobSpec, cluster, perform, submit, whatif_spec
from aa_core.jobs.cluster import run_fleet
from aa_core.jobs.spec import RESULT
from aa_core.jobs.worker import answer
from aa_core.runs.trajectory import Trajectory
from tests.core.job_run import STAGES, make

pytestmark = pytest.mark.slow


# two jobs at once on two processors
pytestmark = pytest.mark.usefixtures("one_thread_an_operation")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Trajectory, str]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra `ray`")
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    run, file = make(tmp_path)
    return run, f"{file}:problem"


@pytest.fixture(scope="module")
def ray_of_our_own() -> Iterator[Any]:
    """As a fleet starts it: once for all fleets that are tested, since it takes longer than they do."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    with cluster._cluster(None) as ray:
        yield ray


@pytest.fixture
def shared(ray_of_our_own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fleets run on that one."""
    monkeypatch.setattr(cluster, "_cluster", lambda address: nullcontext(ray_of_our_own))


def specs(run: Trajectory, problem: str) -> list[JobSpec]:
    return [whatif_spec(run, Counterfactual.skip(name), problem=problem) for name in STAGES]


@pytest.mark.usefixtures("shared")
def test_it_finds_what_one_machine_finds_to_the_bit_and_does_nothing_twice(asked: tuple[Trajectory, str]) -> None:
    run, problem = asked
    line = ["whatif", str(run.path), "--each", "--problem", problem, "--format", "json"]
    there, here = (CliRunner().invoke(app, [*line, "--executor", executor]) for executor in ("ray", "here"))
    assert here.exit_code == there.exit_code == 0, (here.output, there.output)
    rows = [json.loads(result.stdout)["rows"] for result in (here, there)]
    assert rows[0] == rows[1] and len(rows[0]) == len(STAGES)

    questions = specs(*asked)
    written = [(Job.of(spec).folder / RESULT).stat().st_mtime_ns for spec in questions]
    for spec, job in zip(questions, run_fleet(questions, threads=1), strict=True):
        again = perform(spec)
        assert job.status == "done" and job.result()["mean_truth"] == again.result["mean_truth"]
        assert job.table("examples").equals(again.tables["examples"])
    assert [(Job.of(spec).folder / RESULT).stat().st_mtime_ns for spec in questions] == written


DIES_ONCE = """
import os, signal, time
from pathlib import Path

def endless(config):
    time.sleep(600)

def mortal(config):
    if not Path({mark!r}).exists():
        Path({mark!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return problem(config)
"""


@pytest.mark.usefixtures("shared")
def test_one_is_killed_one_cancelled_one_fails_and_an_interrupt_stops_the_rest(
    asked: tuple[Trajectory, str], tmp_path: Path
) -> None:
    run, problem = asked
    file = Path(problem.partition(":")[0])
    file.write_text(file.read_text() + DIES_ONCE.format(mark=str(tmp_path / "died")))
    names = ("mortal", "very_slow", "broken", "problem", "endless")
    questions = [
        whatif_spec(run, Counterfactual.skip(stage), problem=f"{file}:{name}")
        for name, stage in zip(names, ("first", "first", "first", "first", "last"), strict=True)
    ]

    def cancel_one_and_interrupt_the_last(jobs: Sequence[Job]) -> None:
        if jobs[1].progress is not None:
            jobs[1].cancel()
        if not any(job.living for job in jobs[:4]) and jobs[4].progress is not None:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            run_fleet(questions, threads=1, watch=cancel_one_and_interrupt_the_last)
    finally:
        signal.signal(signal.SIGINT, before)
    killed, slow, broken, done, interrupted = (Job.of(spec) for spec in questions)
    assert (tmp_path / "died").exists() and killed.status == done.status == "done", "a killed one is begun again"
    assert killed.result()["mean_truth"] == done.result()["mean_truth"]
    assert slow.status == interrupted.status == "cancelled" and broken.status == "failed"
    assert broken.error is not None and "no such setting" in broken.error
    assert submit(questions[2]).status == "failed", "a fleet's job is a job like any other"


def test_a_cluster_that_asks_no_token_is_refused(
    asked: tuple[Trajectory, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(RequestError, match="token"):
        run_fleet(specs(*asked), "ray://elsewhere:10001")


FAKE = """
import os
def init(**settings):
    raise RuntimeError(repr((settings, os.environ["RAY_USAGE_STATS_ENABLED"], len(os.environ["RAY_AUTH_TOKEN"]))))
"""


def test_a_cluster_of_our_own_tells_nobody_and_listens_to_nobody_else(
    asked: tuple[Trajectory, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "ray.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError) as told:
        run_fleet(specs(*asked))
    monkeypatch.delitem(sys.modules, "ray", raising=False)  # the fake one
    settings, usage, token = ast.literal_eval(str(told.value).replace("<", "'<").replace(">", ">'"))
    assert settings["include_dashboard"] is False and settings["_node_ip_address"] == "127.0.0.1"
    assert usage == "0" and token >= 32


def test_a_fleet_of_which_one_fails_gives_the_others_and_exit_code_1(
    asked: tuple[Trajectory, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, problem = asked

    def fleet(specs: Sequence[JobSpec], address: str | None, watch: object) -> tuple[Job, ...]:
        jobs = tuple(Job.of(spec) for spec in specs)
        for job, name in zip(jobs, ("problem", "broken", "problem"), strict=True):
            lock = job.reopen()
            assert lock is not None
            asked_of = job.spec.model_copy(update={"problem": problem.replace(":problem", f":{name}")})
            for file, content in answer(lambda spec=asked_of: perform(spec)).items():
                (job.folder / file).write_bytes(content)
            os.close(lock)
        return jobs

    monkeypatch.setattr("aa_core.commands.whatif.run_fleet", fleet)
    line = ["whatif", str(run.path), "--each", "--executor", "ray", "--problem", problem, "--format", "json"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 1 and "no such setting" in result.stderr
    assert len(json.loads(result.stdout)["rows"]) == len(STAGES) - 1


@pytest.mark.parametrize(
    "options", [["--each", "--scale", "0.5"], ["--each", "--address", "auto"], ["--skip", "first", "--address", "auto"]]
)
def test_options_that_do_not_go_together(asked: tuple[Trajectory, str], options: list[str]) -> None:
    run, problem = asked
    result = CliRunner().invoke(app, ["whatif", str(run.path), "--problem", problem, *options])
    assert result.exit_code == 2 and "goes with" in result.output
