"""Who is let in, and as what: only people whom the provider vouches for and the operator names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aa_core.access import HOURS, Access, Person, admit, os_user, read_access
from aa_core.cli import app
from aa_core.commands import launcher
from aa_core.errors import MissingExtraError, RequestError

NOW = 1e9
SECRET = "0123456789abcdef" * 4
AUTH = f"""
[auth]
redirect_uri = "https://audit.example/oauth2callback"
cookie_secret = "{SECRET}"
client_id = "us"
client_secret = "hush"
server_metadata_url = "https://id.example/.well-known/openid-configuration"
client_kwargs = {{ prompt = "login" }}
"""
ROLES = """
[roles]
analyst = ["Ada@example.org", "groups=auditors", "sub=42"]
viewer = ["bob@example.org", "groups=staff"]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "access.toml").write_text(text)
    return folder / "access.toml"


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return read_access(write(tmp_path, AUTH + ROLES + "[database]\nkey = 1\n"))


def claims(**changed: Any) -> dict[str, Any]:
    signed_in = {"is_logged_in": True, "iat": NOW - 60, "sub": "7", "iss": "https://id.example"}
    return signed_in | changed


def verified(email: str) -> dict[str, Any]:
    return claims(email=email, email_verified=True)


@pytest.mark.parametrize(
    ("who", "role"),
    [
        (verified("ada@EXAMPLE.org"), "analyst"),
        (verified("bob@example.org"), "viewer"),
        (claims(groups=["other", "auditors"]), "analyst"),
        (claims(groups="staff"), "viewer"),
        (claims(groups=["staff", "auditors"]), "analyst"),
        (claims(sub="42"), "analyst"),
        (claims(), None),
        (verified("eve@example.org"), None),
        (claims(email="ada@example.org"), None),
        (claims(email="ada@example.org", email_verified="true"), None),
        (claims(email="ada@example.org", email_verified=False), None),
        (claims(groups=[["auditors"]]), None),
        (claims(groups={"auditors": 1}), None),
        (claims(groups="auditors, staff"), None),
        (claims(sub=42), None),
        (verified("ada@example.org") | {"is_logged_in": False}, None),
        (verified("ada@example.org") | {"iat": NOW - 3600 * HOURS - 1}, None),
        (verified("ada@example.org") | {"iat": None}, None),
        ({}, None),
    ],
)
def test_only_the_listed_are_let_in_and_only_by_what_the_provider_vouches_for(
    access: Access, who: dict[str, Any], role: str | None
) -> None:
    person = admit(access, who, NOW)
    assert (person and person.role) == role


def test_people_are_called_by_a_verified_address_or_as_the_provider_knows_them(access: Access) -> None:
    assert admit(access, verified("ada@example.org"), NOW) == Person("ada@example.org", "analyst")
    spoofed = claims(sub="42", email="boss@example.org", email_verified=False)
    assert admit(access, spoofed, NOW) == Person("42 at https://id.example", "analyst")


def test_this_machine_s_user_is_not_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os_user()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert os_user() == before != "somebody-else"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[auth", "TOML"),
        (AUTH, "roles"),
        (ROLES, "auth"),
        (AUTH + '[roles]\nadmin = ["a@b"]', "roles.admin"),
        (AUTH + '[roles]\nviewer = ["everybody"]', "CLAIM=VALUE"),
        (AUTH + '[roles]\nviewer = ["="]', "CLAIM=VALUE"),
        (AUTH.replace("https://audit", "http://audit") + ROLES, "https://"),
        (AUTH.replace("https://id", "http://id") + ROLES, "https://"),
        (AUTH.replace("/oauth2callback", "/else") + ROLES, "/oauth2callback"),
        (AUTH.replace(SECRET, SECRET[:31]) + ROLES, "32 characters"),
        (AUTH.replace('client_id = "us"', "when = 2020-01-01") + ROLES, "TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_words_that_quote_no_secret(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(RequestError, match=r"docs/server\.md") as refused:
        read_access(write(tmp_path, text))
    assert named in str(refused.value)
    assert SECRET[:31] not in str(refused.value) and "hush" not in str(refused.value)


def test_the_documented_file_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    known = read_access(write(tmp_path, example.replace('cookie_secret = "..."', f'cookie_secret = "{SECRET}"')))
    assert known.origin == "https://audit.example.org"
    assert admit(known, verified("ada@example.org"), NOW) == Person("ada@example.org", "analyst")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.toml"):
        read_access(tmp_path / "none.toml")


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "", "example.org", "127.0.0.1.example"])
def test_an_address_that_others_reach_is_refused_without_people_who_sign_in(address: str) -> None:
    with pytest.raises(RequestError, match="--access"):
        launcher.reach(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_s_own_addresses_need_no_sign_in(address: str) -> None:
    assert launcher.reach(address) == launcher.Reach(address)


def test_people_who_sign_in_may_come_from_anywhere_to_the_one_name(tmp_path: Path) -> None:
    path = write(tmp_path, AUTH + ROLES)
    at = launcher.reach("0.0.0.0", path)
    assert at.settings == (f"--secrets.files={path}", "--server.allowedHosts=audit.example")
    assert (at.environment, at.origin) == ({"AA_ACCESS": str(path)}, "https://audit.example")
    assert SECRET not in " ".join(at.settings)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"accountability-audit\[server\]"):
        launcher.reach("127.0.0.1", write(tmp_path, AUTH + ROLES))


def test_the_command_line_refuses_before_anything_starts(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["dashboard", "--address", "0.0.0.0", "--no-browser"])
    assert result.exit_code == 1 and "nobody would have to sign in" in result.output
    wrong = ["dashboard", "--access", str(write(tmp_path, AUTH)), "--no-browser"]
    result = CliRunner().invoke(app, wrong)
    assert result.exit_code == 1 and "roles" in result.output
