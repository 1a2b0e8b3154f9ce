"""Who uses this page, and what they may do: asked before anything is shown, and again before anything is done."""

from __future__ import annotations

import time
from pathlib import Path

import streamlit as st

from aa_core.access import Person, Role, admit, name_of, os_user, read_access
from aa_core.errors import NotAllowedError
from dashboard.reach import access_file, is_local

REACH: dict[Role, tuple[Role, ...]] = {"viewer": ("viewer",), "analyst": ("viewer", "analyst")}


def signs_in() -> bool:
    """Do people sign in here?"""
    return access_file() is not None


def who() -> Person | None:
    """This machine's user; where people sign in, the person in their present role, None for everybody else."""
    if (file := access_file()) is not None:
        return admit(read_access(Path(file)), st.user.to_dict(), time.time())
    return Person(os_user(), "analyst") if is_local() else None


def signed_in() -> str:
    """How the provider calls whoever signed in, in a list or not; empty if nobody has."""
    claims = st.user.to_dict()
    return name_of(claims) if claims.get("is_logged_in") else ""


def require(role: Role, what: str) -> Person:
    """The person, if they have at least this role; NotAllowedError says that they may not do `what`."""
    person = who()
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
