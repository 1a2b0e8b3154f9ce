"""Who uses this page, and what they may do: asked before anything is shown, and again before anything is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from aa_core.access import Person, Role, admit, name_of, os_user, read_access
from aa_core.errors import NotAllowedError
from dashboard.reach import access_file, is_local

REACH: dict[Role, tuple[Role, ...]] = {"viewer": ("viewer",), "analyst": ("viewer", "analyst")}


def signs_in() -> bool:
    """Do people sign in here?"""
    return access_file() is not None


def claims() -> dict[str, Any]:
    """What the provider says of whoever uses this page; empty where nobody signs in."""
    return dict(st.user.to_dict())


def who(known: Mapping[str, Any] | None = None) -> Person | None:
    """This machine's user; where people sign in, the person in their present role, None for everybody else.

    `known` are claims that were asked for before, for work that is done outside of the page.
    """
    if (file := access_file()) is not None:
        return admit(read_access(Path(file)), claims() if known is None else known, time.time())
    return Person(os_user(), "analyst") if is_local() else None


def signed_in() -> str:
    """How the provider calls whoever signed in, in a list or not; empty if nobody has."""
    known = claims()
    return name_of(known) if known.get("is_logged_in") else ""


def require(role: Role, what: str, known: Mapping[str, Any] | None = None) -> Person:
    """The person, if they have at least this role; NotAllowedError says that they may not do `what`."""
    person = who(known)
    if person is None:
        raise NotAllowedError(f"{what}: sign in first, as somebody whom the operator of this dashboard has let in")
    if role not in REACH[person.role]:
        raise NotAllowedError(
            f"{what}: {person.name} is a {person.role} here, and that takes an {role}; ask the dashboard's operator"
        )
    return person


def may_work() -> bool:
    """May this person start jobs and write findings?"""
    person = who()
    return person is not None and "analyst" in REACH[person.role]
