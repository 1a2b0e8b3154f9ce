"""Many jobs at once on a Ray cluster, which only places the work: specs, worker and folders are as on one machine."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch

from aa_core.errors import MissingExtraError, RequestError
from aa_core.files import write_atomic
from aa_core.jobs.job import Job
from aa_core.jobs.kinds import perform
from aa_core.jobs.spec import CANCEL, FAILURE, PROGRESS, SPEC, Failure, JobProgress, JobSpec
from aa_core.jobs.worker import INTERVAL, answer
from aa_core.processes import child_environment
from aa_core.runs.header import parse

RETRIES = 2
"""How often a job is begun again after its worker or its node was lost."""
LOST = f"its worker or node was lost {RETRIES + 1} times; run it again without --executor ray to see why"
Watch = Callable[[Sequence[Job]], None]
"""Called twice a second with all jobs of the fleet."""


class _Task(NamedTuple):
    """A job under way: its lock is held here, so that everyone sees it live as long as this process does."""

    job: Job
    lock: int


def run_fleet(
    specs: Sequence[JobSpec], address: str | None = None, *, threads: int | None = None, watch: Watch = lambda _: None
) -> tuple[Job, ...]:
    """Do all jobs that are not done yet on a cluster, and wait for them. What they found is in their folders, as ever.

    A lost worker or node costs its own jobs only: each is begun again, RETRIES times. `Job.cancel` stops one, an
    interrupt stops all. Runs and problem files must lie at the same paths on every node, or in object storage.

    Args:
        address: of a cluster ("auto", "ray://..."), with token authentication on; None starts one on this machine.
        threads: of torch in each job, and processors that it occupies; as in this process by default, since results
            are equal to the bit only if computed by as many.

    Raises:
        MissingExtraError: without the extra `ray`. RequestError: for a cluster that asks no token.
    """
    threads = threads or torch.get_num_threads()
    jobs = tuple(Job.of(spec) for spec in specs)
    if all(job.status == "done" for job in jobs):
        return jobs
    with _cluster(address) as ray:
        board = ray.remote(num_cpus=0)(_board()).remote()
        task = ray.remote(num_cpus=threads, max_retries=RETRIES)(_perform)
        under_way = {
            task.remote(job.spec.to_bytes(), threads, job.id, board): _Task(job, lock)
            for job in {job.id: job for job in jobs}.values()
            if (lock := job.reopen()) is not None
        }
        try:
            while under_way:
                over, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=INTERVAL)
                for ref in over:
                    _settle(ray, ref, under_way.pop(ref))
                for ref in [ref for ref, t in under_way.items() if (t.job.folder / CANCEL).exists()]:
                    _stop(ray, ref, under_way.pop(ref))
                _note_progress(under_way.values(), ray.get(board.read.remote()))
                watch(jobs)
        finally:
            while under_way:
                _stop(ray, *under_way.popitem())
    return jobs


def _board() -> type:
    """Of an actor: how far each job is. A class of no module travels by value: its process never loads torch."""

    class Board:
        def __init__(self) -> None:
            self._at: dict[str, tuple[str, int, int, float]] = {}

        def tell(self, job: str, phase: str, done: int, total: int, started: float) -> None:
            self._at[job] = (phase, done, total, started)

        def read(self) -> dict[str, tuple[str, int, int, float]]:
            return self._at

    return Board


def _perform(spec: bytes, threads: int, job: str, board: Any) -> dict[str, bytes]:
    """On a node: do the job as the local worker does, and return the files that it would write."""
    started = time.time()
    last = 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            board.tell.remote(job, phase, done, total, started)

    torch.set_num_threads(threads)
    return answer(lambda: perform(parse(JobSpec, spec, SPEC), report))


def _note_progress(tasks: Iterable[_Task], board: dict[str, tuple[str, int, int, float]]) -> None:
    for t in tasks:
        if (told := board.get(t.job.id)) is not None:
            phase, done, total, started = told
            now = time.time()
            at = JobProgress(phase=phase, done=done, total=total, started=started, updated=now, eta=None)
            write_atomic(t.job.folder / PROGRESS, at.to_bytes())


def _settle(ray: Any, ref: Any, task: _Task) -> None:
    try:
        files = ray.get(ref)
    except ray.exceptions.RayError:
        files = {FAILURE: Failure(status="failed", error=LOST).to_bytes()}
    _finish(task, files)


def _stop(ray: Any, ref: Any, task: _Task) -> None:
    with suppress(ray.exceptions.RayError):
        ray.cancel(ref, force=True)
    _finish(task, {FAILURE: Failure(status="cancelled", error="cancelled; nothing was changed").to_bytes()})


def _finish(task: _Task, files: dict[str, bytes]) -> None:
    """The file that decides comes last."""
    for name, content in files.items():
        write_atomic(task.job.folder / name, content)
    os.close(task.lock)


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected. One that is started here listens to this machine only, asks a token, and ends with the fleet."""
    if (address is not None or "ray" in sys.modules) and os.environ.get("RAY_AUTH_MODE") != "token":
        raise RequestError(
            "a Ray cluster without token authentication runs anybody's code: start it with RAY_AUTH_MODE=token, and "
            "set the same and its RAY_AUTH_TOKEN here, before ray is imported"
        )
    if "ray" not in sys.modules:  # it reads these while it is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise MissingExtraError("a fleet of jobs on a cluster", "ray") from None
    local = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {"address": address}
    environment = {name: value for name, value in child_environment().items() if name in ("PYTHONPATH", "AA_WORKSPACE")}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": environment}, **local)
    try:
        yield ray
    finally:
        ray.shutdown()
