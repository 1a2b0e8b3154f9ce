"""The selection of this browser session, kept in step with its URL. The selection is the truth, widgets mirror it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import streamlit as st

from dashboard.selection import FILTERS, NOTHING, Selection, from_query, to_query

_SELECTION, _CHANGED, _PUBLISHED, _NOTES = "aa:selection", "aa:changed", "aa:published", "aa:notes"

_AS_IT_IS = object()


def begin() -> None:
    """Adopt the URL in a new session and after the browser's back button; else what was picked here stands."""
    query = {name: st.query_params.get_all(name) for name in st.query_params}
    picked_here = st.session_state.pop(_CHANGED, False)
    known = _SELECTION in st.session_state
    if known and (picked_here or not query or query == st.session_state.get(_PUBLISHED)):
        return
    st.session_state[_SELECTION], st.session_state[_NOTES] = from_query(query)


def current() -> Selection:
    """What is picked now."""
    return st.session_state.get(_SELECTION, NOTHING)


def settle(selection: Selection, notes: list[str]) -> None:
    """Replace the selection by one that fits the run, and remember why parts of it are left out."""
    st.session_state[_SELECTION] = selection
    st.session_state[_NOTES] = st.session_state.get(_NOTES, []) + notes


def note(text: str) -> None:
    """Say on the next page what was not understood; for callbacks."""
    st.session_state[_NOTES] = [*st.session_state.get(_NOTES, []), text]


def take_notes() -> list[str]:
    """What was ignored of the link; said once."""
    return st.session_state.pop(_NOTES, [])


def update(**changes: Any) -> None:
    """Pick something else; for callbacks, which run before the page is drawn again."""
    if any(name in FILTERS for name in changes):
        changes = {"page": 1, **changes}
    replace_all(replace(current(), **changes))


def replace_all(selection: Selection) -> None:
    """Pick everything anew; for callbacks."""
    st.session_state[_SELECTION] = selection
    st.session_state[_CHANGED] = True


def publish() -> None:
    """Write the selection into the URL; from now on the browser's back button is followed again."""
    st.session_state.pop(_CHANGED, None)
    query = to_query(current())
    if query != {name: st.query_params.get_all(name) for name in st.query_params}:
        st.query_params.from_dict(query)
    st.session_state[_PUBLISHED] = query


def mirror(
    name: str, key: str | None = None, read: Callable[[Any], Any] = lambda v: v, show: Any = _AS_IT_IS
) -> dict[str, Any]:
    """Arguments that make a widget show one field of the selection, and change it.

    `show` is the widget's value for the field as it is now, `read` turns the widget's value back into the field's.
    """
    key = key or f"pick:{name}"
    st.session_state[key] = getattr(current(), name) if show is _AS_IT_IS else show

    def changed() -> None:
        update(**{name: read(st.session_state[key])})

    return {"key": key, "on_change": changed}
