"""What stands around every screen: the run picker, and the refusal of links and runs that cannot be shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from dashboard import feedback, gate, session
from dashboard.selection import NOTHING, OPTIONS, Selection, fit, to_query
from dashboard.service import Desk, RunEntry, checking, is_current, list_runs

SHORT = 12
_PAGES = "aa:pages"
ESTIMATOR = ("method", "curvature", "readout")


@dataclass(frozen=True)
class Context:
    """What a screen draws: a run and what is picked of it."""

    desk: Desk
    selection: Selection


def choose() -> Context | None:
    """The picked run, opened; None, with a box that says why and what to do, if that is impossible."""
    entries = list_runs()
    if not entries:
        feedback.empty(
            "No recorded runs here", "Record one with aa_core.Recorder, or name a folder: aa dashboard FOLDER"
        )
        return None
    if not session.current().run:
        session.settle(replace(session.current(), run=_first(entries, session.current().digest).id), [])
    _picker(entries)
    entry = entries.get(session.current().run)
    if entry is None:
        _heading()
        feedback.refusal(
            f"{session.current().run}\n\nPick one of the runs at the left.", "There is no run of this name here"
        )
    elif entry.error:
        _heading()
        feedback.refusal(
            f"{entry.error}\n\nGet an undamaged copy of the run, or pick another one at the left.",
            "This run cannot be opened",
        )
    elif session.current().digest not in ("", entry.digest[:SHORT]):
        _stale(entry)
    else:
        return _opened(entry)
    return None


def _first(entries: dict[str, RunEntry], digest: str) -> RunEntry:
    """The run that a link names by its digest alone, as reports do; else the first that opens."""
    opening = [e for e in entries.values() if not e.error]
    named = [e for e in opening if digest and e.digest.startswith(digest)]
    return next(iter([*named, *opening, *entries.values()]))


def alone(draw: Callable[[Context], None]) -> Callable[[Context], None]:
    """A part of a screen that a click in it draws anew by itself: sooner than the page, and nothing around it moves.

    For a part whose controls pick nothing that the rest of the page shows. Who looks, and at which run, is asked again
    at each such click; where either has changed, the whole page is drawn.
    """

    @st.fragment
    def part(desk: Desk) -> None:
        if gate.person() is None or not is_current(desk.entry):
            st.rerun()
        with feedback.refusals():
            ctx = _fitted(desk, session.current())
            feedback.notes(session.take_notes())
            session.publish()
            draw(ctx)

    return lambda ctx: part(ctx.desk)


def offer(pages: dict[str, Any]) -> None:
    """The screens by their titles, for links from one to another."""
    st.session_state[_PAGES] = pages


def link(screen: str, label: str, selection: Selection, icon: str = ":material/arrow_forward:") -> None:
    """A link to another screen with a selection; nothing where there is no navigation."""
    if page := st.session_state.get(_PAGES, {}).get(screen):
        st.page_link(page, label=label, icon=icon, query_params=to_query(selection))


def _opened(entry: RunEntry) -> Context | None:
    with feedback.refusals():
        desk = Desk(entry)
        return _fitted(desk, _settled(desk, session.current(), entry))
    return None


def _fitted(desk: Desk, asked: Selection) -> Context:
    """What the run has of what is asked, from now on the selection."""
    fitted, ignored = fit(asked, desk.facts())
    session.settle(fitted, ignored)
    return Context(desk, fitted)


def _settled(desk: Desk, asked: Selection, entry: RunEntry) -> Selection:
    """What is asked of the run as it is now. Where no estimator is, the one that retraining bore out best is taken."""
    fresh = not asked.digest and all(getattr(asked, name) == getattr(NOTHING, name) for name in ESTIMATOR)
    chosen: dict[str, Any] = dict(checking.preferred(desk)) if fresh else {}
    return replace(asked, digest=entry.digest[:SHORT], **chosen)


def _picker(entries: dict[str, RunEntry]) -> None:
    def title(name: str) -> str:
        entry = entries[name]
        return f"{entry.title} (cannot be opened)" if entry.error else entry.title

    def picked() -> None:
        kept = {name: getattr(session.current(), name) for name in OPTIONS if name not in ESTIMATOR}
        session.replace_all(replace(NOTHING, run=st.session_state["pick:run"], **kept))

    current = session.current().run
    st.session_state["pick:run"] = current if current in entries else None
    with st.sidebar:
        st.selectbox(
            "Recorded run", list(entries), key="pick:run", format_func=title, on_change=picked, placeholder="Pick a run"
        )
        if (entry := entries.get(current)) and not entry.error:
            st.caption(
                f"digest `{entry.digest[:SHORT]}`", help="Pins every file of the run. It is part of this page's link."
            )


def _heading() -> None:
    st.title("Nothing to show", anchor=False)


def _stale(entry: RunEntry) -> None:
    asked = session.current().digest
    _heading()
    feedback.refusal(
        f"The link was made from a run with digest {asked}.\n"
        f"The run that is here now has digest {entry.digest[:SHORT]}.\n\n"
        "Numbers may differ from those that the link's sender saw, so they are not shown under it.",
        "This link was made for another version of the run",
    )
    st.button("Show the run as it is now", on_click=session.update, kwargs={"digest": entry.digest[:SHORT]})
