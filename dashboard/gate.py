"""The way in: nothing of any run is on the page before it is known who looks at it."""

from __future__ import annotations

import streamlit as st

from aa_core.errors import AuditError
from dashboard import feedback
from dashboard.light import escape
from dashboard.service import people


def person() -> people.Person | None:
    """Who looks; None for everybody who may not."""
    try:
        return people.who()
    except AuditError:  # names files of the server, so its words are for the operator
        feedback.refusal("The list of people cannot be read. Tell the operator of this dashboard.")
        return None


def way_out(person: people.Person) -> None:
    """Who is signed in, and a button that ends that; nothing where nobody has to."""
    if people.signs_in():
        with st.sidebar:
            st.text(f"{escape.visible(person.name)}\n{person.role}")
            _sign_out()


def sign_in() -> None:
    """In place of every screen, for everybody who may not look."""
    st.title("Accountability audit", anchor=False)
    if not people.signs_in():
        feedback.refusal("It can be reached from other machines, and nobody would have to sign in.")
        return
    if name := people.signed_in():
        feedback.refusal(
            f"{escape.visible(name)} is in no list of this dashboard, or signed in too long ago. Sign in again, or ask "
            "its operator."
        )
        _sign_out()
    st.caption("Recorded trainings are shown to people whom its operator has let in.")
    st.button("Sign in", type="primary", icon=":material/login:", on_click=st.login)


def _sign_out() -> None:
    st.button("Sign out", type="tertiary", icon=":material/logout:", on_click=st.logout)
