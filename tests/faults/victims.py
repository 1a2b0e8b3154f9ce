"""What is killed, and the processes that it runs in: forks of one that has done all of it before (`warm`)."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from aa_core.counterfactuals import kept
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.kept import KeptState
from aa_core.effects.attribution import stage_effects
from aa_core.effects.cache import EmbeddingCache
from aa_core.files import write_atomic
from aa_core.jobs import perform, whatif_spec
from aa_core.recording.recorder import Recorder
from aa_core.registry import load_problem
from aa_core.reporting.files import write_report
from aa_core.reporting.model import Report
from aa_core.run_performance import run_performance
from aa_core.runs.archive import export_run, import_run
from aa_core.runs.trajectory import open_run
from tests.core.resume_case import KINDS, Training
from tests.recorded import LOSS, make, train

ROOT = str(Path(__file__).resolve().parents[2])
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.warm"])
REPORTS = ("html", "json")
PAUSE = 0.01
"""Seconds between the steps of a training that goes on."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def start(victim: Callable[..., object], *arguments: Any) -> Any:
    process = PROCESSES.Process(target=victim, args=arguments, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ROOT)  # the first one starts the server, which finds `warm` nowhere else
        process.start()
    return process


def kill(process: Any, delay: float, by: signal.Signals = signal.SIGKILL) -> bool:
    """One of SIGNALS after so many seconds; whether that was before the end. To fail by itself it must not."""
    process.join(delay)
    (process.kill if by == signal.SIGKILL else process.terminate)()
    process.join()
    assert process.exitcode in (0, -by), f"the process failed by itself: exit code {process.exitcode}"
    return process.exitcode != 0


def left_alone(victim: Callable[..., object], *arguments: Any) -> float:
    """Let it come to its end; how many seconds that took."""
    began = time.monotonic()
    process = start(victim, *arguments)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def kill_often(
    times: int, rng: random.Random, check: Callable[[], object], victim: Callable[..., object], *arguments: Any
) -> None:
    """Start it again and again, and kill it at random times, from the beginning to its end."""
    left_alone(victim, *arguments)  # the first one waits for torch to be loaded
    check()
    lasts, killed = left_alone(victim, *arguments), 0
    check()
    while killed < times:
        killed += kill(start(victim, *arguments), rng.uniform(0, lasts), rng.choice(SIGNALS))
        check()


# ---- the victims -----------------------------------------------------------------------------------------------------


def record(path: Path, told: Path) -> None:
    """Record without end, and tell each step that was acknowledged as one byte."""
    _record(path, told, 5, ((f"stage {number // 3}", 4) for number in range(100_000)))


def record_three_stages(path: Path, told: Path) -> None:
    """The same, in other stages."""
    _record(path, told, 7, (("a", 40), ("b", 40), ("c", 100_000)))


def _record(path: Path, told: Path, every: int, stages: Iterable[tuple[str, int]]) -> None:
    model, optimizer = make()
    tell = os.open(told, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    with Recorder(path, model, optimizer, LOSS, checkpoint_every=every) as recorder:
        for name, steps in stages:
            with recorder.stage(name):
                for _ in range(steps):
                    train(recorder, model, optimizer, 1)
                    os.write(tell, b".")


def go_on(path: Path, kind: str, told: Path = Path(os.devnull)) -> None:
    """Record a training of which any part may be recorded already; its digest depends on nothing else."""
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    with told.open("ab", buffering=0) as tell:

        def after(step: int) -> None:
            tell.write(b".")
            time.sleep(PAUSE)

        Training(KINDS[kind], seed=0).run(path, after)


def retrain(run: Path, problem: str, folder: Path) -> None:
    """A what-if job that keeps its state after every step."""
    kept.PAUSE = kept.SHARE = 0.0
    spec = whatif_spec(open_run(run), Counterfactual.skip("first"), problem=problem)
    outcome = perform(spec, kept=KeptState(folder / "state"))
    found = {**outcome.result, "seconds": 0, "rows": outcome.tables["examples"].to_dict("list")}
    write_atomic(folder / "result", json.dumps(found, sort_keys=True).encode())


def attribute(run: Path, problem: str, folder: Path) -> None:
    """Stage effects by way of the embeddings on disk."""
    opened = open_run(run)
    found = stage_effects(
        opened,
        load_problem(None, {}, problem),
        run_performance(opened, "log-likelihood"),
        cache=EmbeddingCache(folder / "embeddings"),
    )
    write_atomic(folder / "result", found.to_frame().to_csv().encode())


def export(report: Report, folder: Path) -> None:
    """A report in the formats that can be verified by themselves."""
    for kind in REPORTS:
        write_report(report, folder / f"report.{kind}")


def pack(run: Path, folder: Path) -> None:
    """A run as a zip file, and that unpacked."""
    import_run(export_run(open_run(run), folder / "run.zip"), folder / "again")
