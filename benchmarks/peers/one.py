"""`python -m benchmarks.peers.one RUN MODULE FILE`: a library's methods on one run, in a process of their own."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.job import Job, Method, read_job, train

ROUNDS = 3


def main(run: str, module: str, file: str) -> None:
    """What each method finds, its CPU seconds, and those of the plain training in this process."""
    torch.set_num_threads(1)
    methods: tuple[Method, ...] = import_module(f"benchmarks.peers.{module}").METHODS
    job = read_job(run)
    plain = statistics.median(_seconds(lambda: train(job))[1] for _ in range(ROUNDS))
    found = []
    for method in methods:
        found.append({"name": method.name, "scaled": method.scaled, "lacks": method.lacks} | _of(method, job, plain))
        Path(file).write_text(json.dumps(found))


def _of(method: Method, job: Job, plain: float) -> dict[str, Any]:
    try:
        scores, seconds = _seconds(lambda: method.compute(job))
    except Exception as error:  # of another library: kept as what it said
        return {"error": f"{type(error).__name__}: {error}"}
    return {"effects": scores.effects.tolist(), "columns": list(scores.columns), "cost": seconds / plain}


def _seconds(task: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    done = task()
    return done, time.process_time() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
