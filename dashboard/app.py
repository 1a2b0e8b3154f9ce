"""The dashboard's page: `streamlit run dashboard/app.py`, or `aa dashboard`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import streamlit as st

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # Streamlit puts this file's folder there, not the project's
    sys.path.insert(0, str(HERE.parent))

from dashboard import opening  # noqa: E402


def main() -> None:
    """Draw what needs no engine, then the screens."""
    st.set_page_config("Accountability audit", str(HERE / "assets" / "icon.png"), "wide", initial_sidebar_state=250)
    st.logo(HERE / "assets" / "logo.svg", size="large", icon_image=HERE / "assets" / "icon.png")
    st.html(HERE / "assets" / "style.css")
    with opening.waited_for() as clear:
        screens = import_module("dashboard.screens")
    screens.show(clear)


if __name__ == "__main__":
    main()
