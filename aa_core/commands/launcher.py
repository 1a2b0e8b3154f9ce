"""Starts the dashboard's server: for this machine only, or for people who sign in. Nothing phones home."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from aa_core.access import is_loopback, read_access
from aa_core.errors import MissingExtraError, RequestError, RunNotFoundError
from aa_core.processes import anchored, child_environment

HOST = "127.0.0.1"
PACKAGES = Path(__file__).resolve().parents[2]
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


class Reach(NamedTuple):
    """Who can reach the server: this machine, unless people sign in."""

    address: str = HOST
    settings: tuple[str, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})
    origin: str = ""
    """Where people find it; empty for this machine's own address."""


class Server(NamedTuple):
    """A process that is not started yet."""

    command: list[str]
    environment: dict[str, str]
    url: str


def reach(address: str = HOST, access: Path | None = None) -> Reach:
    """The network address to listen on. Other people can be let in only if an identity provider says who they are.

    Raises RequestError, or MissingExtraError without the extra `server`.
    """
    if access is None:
        if not is_loopback(address):
            raise RequestError(
                f"--address {address} can be reached from other machines, and nobody would have to sign in; name an "
                "identity provider and who is let in: --access FILE.toml (docs/server.md), or stay on 127.0.0.1"
            )
        return Reach(address)
    if find_spec("authlib") is None:
        raise MissingExtraError("signing in (--access)", "server")
    known, file = read_access(access), str(access.absolute())
    settings = (f"--secrets.files={file}", f"--server.allowedHosts={known.host}")
    return Reach(address, settings, {"AA_ACCESS": file}, known.origin)


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


def require_free(port: int, address: str = HOST) -> None:
    """RequestError if another program listens on the port, or the address is not this machine's."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise RequestError(
                f"port {port} on {address} is not free ({error.strerror}); choose another one: --port {port + 1}"
            ) from None


def prepare(port: int, folders: Sequence[Path], problem: str | None, at: Reach, *settings: str) -> Server:
    """The server, if it can be started: RunNotFoundError or RequestError if not."""
    surroundings = {**environment(folders, problem), **at.environment}
    require_free(port, at.address)
    listening = command(port, f"--server.address={at.address}", *at.settings, *settings)
    return Server(listening, surroundings, at.origin or f"http://localhost:{port}")


def become(server: Server) -> NoReturn:
    """Replace this process by the server, so that signals reach it."""
    os.execve(server.command[0], server.command, server.environment)
