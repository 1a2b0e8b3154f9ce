"""Starts the dashboard's server: for this machine only, and with nothing that phones home."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from aa_core.errors import RequestError, RunNotFoundError
from aa_core.jobs.job import child_environment
from aa_core.jobs.spec import anchored

HOST = "127.0.0.1"
PACKAGES = Path(__file__).resolve().parents[1]
APP, SAMPLES = PACKAGES / "dashboard" / "server.py", PACKAGES / "sample_runs"
SETTINGS = {
    "server.address": HOST,
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "1",
    "server.showEmailPrompt": "false",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": "true",
}
"""Streamlit's own defaults bind all interfaces, accept any host name, show tracebacks, and offer their own tools for
installation, on the page too."""


class Server(NamedTuple):
    """A process that is not started yet."""

    command: list[str]
    environment: dict[str, str]


def command(port: int, *settings: str) -> list[str]:
    """The server's command line."""
    safe = [f"--{name}={value}" for name, value in SETTINGS.items()]
    safe += [f"--server.allowedHosts={host}" for host in ("localhost", HOST)]  # a list: the flag once for each
    return [sys.executable, "-m", "streamlit", "run", str(APP), f"--server.port={port}", *safe, *settings]


def environment(folders: Sequence[Path], problem: str | None = None) -> dict[str, str]:
    """Where the dashboard looks for runs (the sample runs by default), and the auditor's problem."""
    for folder in folders:
        if not folder.is_dir():
            raise RunNotFoundError(f"{folder}: no such folder; name folders that hold recorded runs, or a run itself")
    chosen = {} if problem is None else {"AA_PROBLEM": anchored(problem) or ""}
    found = os.pathsep.join(str(f.resolve()) for f in folders or [SAMPLES])
    return {**child_environment(), "AA_RUNS_DIRS": found, **chosen}


def require_free(port: int) -> None:
    """RequestError if another program listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RequestError(
                f"port {port} on {HOST} is not free ({error.strerror}); choose another one: --port {port + 1}"
            ) from None


def prepare(port: int, folders: Sequence[Path], problem: str | None, *settings: str) -> Server:
    """The server, if it can be started: RunNotFoundError or RequestError if not."""
    surroundings = environment(folders, problem)
    require_free(port)
    return Server(command(port, *settings), surroundings)


def become(server: Server) -> NoReturn:
    """Replace this process by the server, so that signals reach it."""
    os.execve(server.command[0], server.command, server.environment)
