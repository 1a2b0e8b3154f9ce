"""What people do here goes into the access log, on the disk before they see it done."""

from __future__ import annotations

import streamlit as st

from aa_core.access_log import append
from dashboard.service import people

__all__ = ["append", "opened"]
_OPENED = "aa:opened"


def opened(run: str) -> None:
    """Somebody looks at the run with this digest: one line a session. NotAllowedError to strangers."""
    person = people.require("viewer", "This run is not shown")
    seen = st.session_state.setdefault(_OPENED, set())
    if (person, run) not in seen:
        append(person, "opened run", run)
        seen.add((person, run))
