"""The screens: which there are, the way to each, and the run picker beside them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import streamlit as st

from dashboard import feedback, gate, session, shell
from dashboard.views import (
    compare,
    explore,
    findings,
    jobs,
    overview,
    reliability,
    report,
    subgroups,
    whatif,
)

SCREENS = (
    (overview, "Overview", ":material/timeline:"),
    (explore, "Explore", ":material/grid_view:"),
    (subgroups, "Subgroups", ":material/group_work:"),
    (whatif, "What-if", ":material/alt_route:"),
    (compare, "Compare", ":material/compare_arrows:"),
    (reliability, "Reliability", ":material/verified:"),
    (findings, "Findings", ":material/push_pin:"),
    (report, "Report", ":material/description:"),
    (jobs, "Jobs", ":material/list_alt:"),
)


def show(clear: Callable[[], object]) -> None:
    """Draw the chosen screen for the chosen run; `clear` takes away what stood there before, when that is known."""
    person = gate.person()
    if person is not None:
        session.begin()
    context: list[shell.Context] = []
    pages = [
        st.Page(_screen(view, context), title=title, icon=icon, url_path=title.lower(), default=view is overview)
        for view, title, icon in SCREENS
    ]
    page = st.navigation(pages, position="hidden" if person is None else "sidebar")
    if person is None:
        clear()
        gate.sign_in()
        return
    shell.offer({title: page for page, (_, title, _) in zip(pages, SCREENS, strict=True)})
    opened = shell.choose()
    gate.way_out(person)
    feedback.notes(session.take_notes())
    session.publish()
    clear()
    if opened:
        context.append(opened)
        page.run()


def _screen(view: ModuleType, context: list[shell.Context]) -> Callable[[], None]:
    def draw() -> None:
        with feedback.refusals():
            view.render(context[0])

    return draw
