"""Who may use a dashboard that others can reach: people whom a provider vouches for, in roles that the operator gives.

Whoever is in no list is refused.

The operator's file is Streamlit's own file of secrets, as `st.login` reads it, with one section more:

    [auth]
    redirect_uri = "https://audit.example.org/oauth2callback"
    cookie_secret = "..."                                         # 32 random characters or more
    client_id = "..."
    client_secret = "..."
    server_metadata_url = "https://id.example.org/.well-known/openid-configuration"

    [roles]
    analyst = ["ada@example.org"]                                 # an e-mail address that the provider has verified,
    viewer = ["bob@example.org", "groups=auditors"]               # or CLAIM=VALUE of its token
"""

from __future__ import annotations

import ipaddress
import json
import os
import pwd
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator

from aa_core.errors import RequestError, RunFormatError
from aa_core.runs.header import Model, parse

Role = Literal["viewer", "analyst"]
"""A viewer opens and exports; an analyst also starts jobs and writes findings."""
CALLBACK = "/oauth2callback"
SECRET = 32
"""Characters of a cookie's secret, at least: whoever guesses it is anybody."""
HOURS = 12
"""How long a sign-in lasts; the cookie itself lasts for a month, and nobody asks the provider meanwhile."""
MAX_NAME = 200


class Person(NamedTuple):
    """Who acts, and what they may do."""

    name: str
    role: Role


class Provider(Model):
    """The section that Streamlit reads. It may hold more: `client_kwargs`."""

    model_config = ConfigDict(extra="allow")

    redirect_uri: str
    cookie_secret: str
    client_id: str
    client_secret: str
    server_metadata_url: str

    @field_validator("redirect_uri", "server_metadata_url")
    @classmethod
    def _is_private(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise ValueError("must begin with https://, or passwords and cookies travel in the open")
        return address

    @field_validator("redirect_uri")
    @classmethod
    def _is_the_callback(cls, address: str) -> str:
        if urlsplit(address).path != CALLBACK:
            raise ValueError(f"must end with {CALLBACK}, right after the host")
        return address

    @field_validator("cookie_secret")
    @classmethod
    def _is_long(cls, secret: str) -> str:
        if len(secret) < SECRET:
            raise ValueError(f"must have {SECRET} characters or more, such as `openssl rand -hex 32` prints")
        return secret


class Roles(Model):
    """Who is what. Each entry is an e-mail address, or CLAIM=VALUE."""

    analyst: list[str] = Field(default_factory=list)
    viewer: list[str] = Field(default_factory=list)

    @field_validator("analyst", "viewer")
    @classmethod
    def _are_entries(cls, entries: list[str]) -> list[str]:
        if wrong := [e for e in entries if not e.partition("=")[2] and "@" not in e]:
            raise ValueError(f"{wrong[0]!r} is neither an e-mail address nor CLAIM=VALUE")
        return entries


class Access(Model):
    """The operator's file."""

    model_config = ConfigDict(extra="ignore")  # other secrets are none of ours

    auth: Provider
    roles: Roles

    @property
    def origin(self) -> str:
        """Where people find the dashboard."""
        return self.auth.redirect_uri.removesuffix(CALLBACK)

    @property
    def host(self) -> str:
        return urlsplit(self.auth.redirect_uri).hostname or ""


def read_access(path: Path) -> Access:
    """The operator's file; RequestError says what is wrong with it, and quotes no secret."""
    try:
        return parse(Access, json.dumps(tomllib.loads(path.read_text("utf-8"))).encode(), str(path))
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{path}: cannot be read as TOML ({error}); see docs/server.md") from None
    except RunFormatError as error:
        raise RequestError(f"{error}; see docs/server.md") from None


def admit(access: Access, claims: Mapping[str, Any], now: float) -> Person | None:
    """The person of a checked identity token; None if they are in no list, or signed in too long ago (`now` in s)."""
    signed_in = claims.get("iat")
    if not claims.get("is_logged_in") or not isinstance(signed_in, int | float) or now - signed_in > 3600 * HOURS:
        return None
    ladder: tuple[tuple[Role, list[str]], ...] = (("analyst", access.roles.analyst), ("viewer", access.roles.viewer))
    held = (role for role, entries in ladder if any(_matches(entry, claims) for entry in entries))
    role = next(held, None)
    return None if role is None else Person(name_of(claims), role)


def name_of(claims: Mapping[str, Any]) -> str:
    """How somebody who signed in is called in logs: by the verified e-mail address, else as the provider knows them."""
    return (_email(claims) or f"{claims.get('sub')} at {claims.get('iss')}")[:MAX_NAME]


def os_user() -> str:
    """The user of this machine; the environment has no say in it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container without an entry for it
        return str(os.getuid())


def is_loopback(host: str) -> bool:
    """Can only this machine reach it?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _matches(entry: str, claims: Mapping[str, Any]) -> bool:
    name, _, value = entry.partition("=")
    if not value:
        return _email(claims).casefold() == entry.casefold()
    found = claims.get(name)
    return value in ([x for x in found if isinstance(x, str)] if isinstance(found, list) else [found])


def _email(claims: Mapping[str, Any]) -> str:
    """Empty unless the provider says that it is theirs: others let people type in any."""
    return str(claims.get("email") or "") if claims.get("email_verified") is True else ""
