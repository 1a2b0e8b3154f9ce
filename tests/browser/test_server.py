"""The dashboard's server, asked over HTTP: this machine's own pages only, with headers that keep a browser strict."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aa_core.commands.launcher import command, environment
from tests.browser.server import dashboard, free_port

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("dashboard")
    with dashboard(folder / "workspace", folder / "log") as address:
        yield int(address.rpartition(":")[2])


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, what was said)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request("GET", path, headers={"Host": f"localhost:{port}"} | named)
        answer = connection.getresponse()
        said = b"" if answer.status == 101 else answer.read()
        return answer.status, {n.lower(): v for n, v in answer.getheaders()}, said
    finally:
        connection.close()


PATHS = ("/", "/explore", "/_stcore/health", "/static/none.js", "/media/none.csv", "/component/none/x", "/none")


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_keeps_the_browser_strict(port: int, path: str) -> None:
    _, headers, said = ask(port, path)
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy and "script-src 'self' blob: 'sha256-" in policy
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert headers["referrer-policy"] == "no-referrer" and b"Traceback" not in said


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a@localhost", ""]
)
def test_a_host_that_is_not_this_machine_is_refused(port: int, path: str, host: str) -> None:
    status, _, said = ask(port, path, Host=host)
    assert status == 421 and b"<" not in said


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:1"])
def test_this_machine_s_own_names_are_answered(port: int, host: str) -> None:
    assert ask(port, "/", Host=host)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
    ],
)
def test_a_foreign_page_cannot_open_the_session(port: int, headers: dict[str, str]) -> None:
    assert ask(port, "/_stcore/stream", **UPGRADE, **headers)[0] == 403


def test_our_own_page_can_open_the_session(port: int) -> None:
    assert ask(port, "/_stcore/stream", **UPGRADE, Origin=f"http://localhost:{port}")[0] == 101


@pytest.mark.parametrize(
    "path", ["/..%2f..%2f..%2fetc/passwd", "/static/../../../etc/passwd", "/media/%2e%2e/x", "//etc/passwd"]
)
def test_no_path_leads_out_of_the_pages(port: int, path: str) -> None:
    status, _, said = ask(port, path)
    assert b"root:" not in said and b"Traceback" not in said and status in (200, 301, 307, 400, 403, 404)


def test_only_the_loopback_address_is_bound(port: int) -> None:
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    addresses = {
        address for address, _, found in (place.partition(":") for place in listening) if int(found, 16) == port
    }
    assert addresses == {"0100007F"}


@pytest.mark.parametrize("started", [["--server.address=0.0.0.0"], ["--server.address=::"], ["--server.address="]])
def test_no_other_address_is_served_however_it_is_started(started: list[str]) -> None:
    port = free_port()
    plain = [part for part in command(port, "--server.headless=true") if not part.startswith("--server.address")]
    ended = subprocess.run([*plain, *started], env=environment([]), capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0 and "nobody would have to sign in" in ended.stdout + ended.stderr
