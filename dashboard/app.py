"""The dashboard: page, navigation, run picker. `streamlit run dashboard/app.py`, or `aa dashboard`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import streamlit as st

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # Streamlit puts this file's folder there, not the project's
    sys.path.insert(0, str(HERE.parent))

from dashboard import feedback, gate, session, shell  # noqa: E402
from dashboard.views import (  # noqa: E402
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


def main() -> None:
    """Draw the chosen screen for the chosen run."""
    st.set_page_config("Accountability audit", str(HERE / "assets" / "icon.png"), "wide", initial_sidebar_state=250)
    st.logo(HERE / "assets" / "logo.svg", size="large", icon_image=HERE / "assets" / "icon.png")
    st.html(HERE / "assets" / "style.css")
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
        gate.sign_in()
        return
    shell.offer({title: page for page, (_, title, _) in zip(pages, SCREENS, strict=True)})
    opened = shell.choose()
    gate.way_out(person)
    feedback.notes(session.take_notes())
    session.publish()
    if opened:
        context.append(opened)
        page.run()


def _screen(view: ModuleType, context: list[shell.Context]) -> Callable[[], None]:
    def draw() -> None:
        with feedback.refusals():
            view.render(context[0])

    return draw


if __name__ == "__main__":
    main()
