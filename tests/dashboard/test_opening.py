"""What a visitor sees before the engine is there, and what its import leaves behind."""

from __future__ import annotations

import gc
import subprocess
import sys
from threading import Event

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import opening

STARTING = "Starting the engine …"


def page() -> None:
    """A page whose import looks at what stands there meanwhile."""
    import streamlit as st

    from dashboard import opening

    with opening.waited_for():
        if st.session_state.get("stop"):
            st.stop()
    st.title("The screen")


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> Event:
    imported = Event()
    monkeypatch.setattr(opening, "_imported", imported)
    return imported


def test_the_first_page_says_what_it_waits_for_and_then_only_shows_the_screen(nothing_imported: Event) -> None:
    at = AppTest.from_function(page)
    at.session_state["stop"] = True
    assert [c.value for c in at.run().caption] == [STARTING]
    assert at.get("plotly_chart")  # the browser fetches what draws charts
    at.session_state["stop"] = False
    assert [t.value for t in at.run().title] == ["The screen"]
    assert not at.caption and not at.get("plotly_chart") and nothing_imported.is_set()


def test_later_pages_do_not(nothing_imported: Event) -> None:
    nothing_imported.set()
    at = AppTest.from_function(page)
    at.session_state["stop"] = True
    assert not at.run().caption and not at.exception


def test_imports_leave_the_collector_at_work(nothing_imported: Event) -> None:
    try:
        with opening.imports():
            assert not gc.isenabled()
        assert gc.isenabled() and nothing_imported.is_set()
    finally:
        gc.unfreeze()


def test_a_failed_import_does_too(nothing_imported: Event) -> None:
    with pytest.raises(ImportError), opening.imports():
        raise ImportError
    assert gc.isenabled() and not nothing_imported.is_set()


HALFWAY = """
import sys, threading
from dashboard import opening

assert {name!r} not in sys.modules
threading.Thread(target=__import__, args=({name!r},)).start()
while {name!r} not in sys.modules:
    pass
opening._nothing()
"""


@pytest.mark.parametrize("name", opening.LOOKED_FOR)
def test_what_another_thread_is_importing_is_waited_for(name: str) -> None:
    ended = subprocess.run([sys.executable, "-c", HALFWAY.format(name=name)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
