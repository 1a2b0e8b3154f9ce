"""The dashboard as its own process, as `aa dashboard` starts it, for browser tests, pictures and benchmarks."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from aa_core.commands.launcher import HOST, Reach, prepare

SAMPLES = Path(__file__).resolve().parents[2] / "sample_runs"


class Running(NamedTuple):
    """Where it answers, and which process it is."""

    address: str
    pid: int


@contextmanager
def dashboard(
    workspace: Path, log: Path, runs: Path = SAMPLES, at: Reach | None = None, port: int | None = None
) -> Iterator[str]:
    """The address of a dashboard over these runs, in a workspace of its own."""
    with running(workspace, log, runs, at, port) as server:
        yield server.address


@contextmanager
def running(
    workspace: Path, log: Path, runs: Path = SAMPLES, at: Reach | None = None, port: int | None = None
) -> Iterator[Running]:
    """The same, with its process."""
    port = port or free_port()
    server = prepare(port, [runs], None, at or Reach(), "--server.headless=true")
    surroundings = server.environment | {"AA_WORKSPACE": str(workspace)}
    with log.open("w") as out:
        process = subprocess.Popen(server.command, env=surroundings, stdout=out, stderr=out)
        try:
            _wait_until_healthy(port, process, log)
            yield Running(at.origin if at else f"http://{HOST}:{port}", process.pid)
        finally:
            process.terminate()
            process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = monotonic() + 60
    while monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/_stcore/health", timeout=5):
            return
        sleep(0.02)
    raise RuntimeError(f"the dashboard did not start:\n{log.read_text()}")
