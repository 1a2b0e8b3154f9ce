"""What a visitor sees before the engine is there, and what its import leaves behind."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from threading import Event, Timer
from time import monotonic

import pytest
from streamlit import delta_generator
from streamlit.runtime.context import ContextProxy
from streamlit.testing.v1 import AppTest

from aa_core.runs.trajectory import open_run
from dashboard import opening
from dashboard.service import engine
from dashboard.words import literal
from tests.dashboard.conftest import HOSTILE, SAMPLES, record

STARTING = "Starting the engine …"
BRAND = "Accountability audit"


def page() -> None:
    """A page whose import looks at what stands there meanwhile."""
    import streamlit as st

    from dashboard import opening

    with opening.waited_for() as clear:
        if st.session_state.get("stop"):
            st.stop()
    clear()
    st.title("The screen")


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> Event:
    imported = Event()
    monkeypatch.setattr(opening, "_imported", imported)
    monkeypatch.setattr(opening, "_drawn", Event())
    monkeypatch.delenv("AA_RUNS_DIRS", raising=False)
    return imported


def opened(monkeypatch: pytest.MonkeyPatch, path: str = "/", **query: str) -> AppTest:
    """What stands on this page while the engine is imported."""
    monkeypatch.setattr(ContextProxy, "url", f"http://127.0.0.1:8501{path}")
    at = AppTest.from_function(page)
    at.session_state["stop"] = True
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception and [c.value for c in at.caption] == [STARTING] and at.get("plotly_chart")
    return at


def curves(at: AppTest) -> bool:
    """Are the curves of a training shown?"""
    return [s.value for s in at.subheader] == ["The training"]


def test_the_first_page_says_what_it_waits_for_and_then_only_shows_the_screen(nothing_imported: Event) -> None:
    at = AppTest.from_function(page)
    at.session_state["stop"] = True
    assert [c.value for c in at.run().caption] == [STARTING]
    assert at.get("plotly_chart")  # the browser fetches what draws charts
    at.session_state["stop"] = False
    assert [t.value for t in at.run().title] == ["The screen"]
    assert not at.caption and not at.get("plotly_chart") and nothing_imported.is_set()


@pytest.mark.parametrize("path", ["/", "/overview"])
def test_overview_begins_with_the_training(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(monkeypatch, path, run="digits-shift")
    assert [t.value for t in at.title] == ["Digits, shifting rotation"] and curves(at)
    assert opening._drawn.is_set(), "the engine need not wait any more"


def test_without_a_name_it_is_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_run(SAMPLES / min(p.parent.parent.name for p in SAMPLES.glob("*/run/run.json")) / "run")
    at = opened(monkeypatch)
    assert [t.value for t in at.title] == [literal(first.title)] and curves(at)


def test_the_digest_of_the_link_must_be_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = open_run(SAMPLES / "digits-shift" / "run").digest
    assert curves(opened(monkeypatch, run="digits-shift", digest=digest[:12]))
    assert not curves(opened(monkeypatch, run="digits-shift", digest="0" * 12))
    assert not curves(opened(monkeypatch, digest=digest[:12])), "which run that is, is found by opening all of them"


def test_other_pages_and_unknown_runs_only_say_what_they_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, run in (("/explore", "digits-shift"), ("/", "none"), ("/../overview/x", "digits-shift")):
        at = opened(monkeypatch, path, run=run)
        assert [t.value for t in at.title] == [BRAND] and not curves(at)


def test_nothing_of_a_run_is_shown_before_people_have_signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_ACCESS", "access.toml")
    assert not curves(opened(monkeypatch, run="digits-shift"))


def test_a_damaged_run_is_left_to_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record(tmp_path / "bad")
    monkeypatch.setenv("AA_RUNS_DIRS", str(tmp_path))
    at = opened(monkeypatch, run="bad")
    assert curves(at) and [t.value for t in at.title] == [literal(HOSTILE)]
    steps = next((tmp_path / "bad" / "steps").iterdir())
    steps.write_bytes(steps.read_bytes()[:-1])
    assert not curves(opened(monkeypatch, run="bad"))


def test_the_engine_waits_for_the_first_page_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PATIENCE", 0.01)
    opening.before_the_engine()
    assert not opening._drawn.is_set()
    monkeypatch.setattr(opening, "PATIENCE", 60)
    began, later = monotonic(), Timer(0.2, opening._drawn.set)
    later.start()
    opening.before_the_engine()
    assert opening._drawn.is_set() and monotonic() - began < 30


def test_streamlit_still_looks_who_runs_it_as_the_server_expects() -> None:
    assert isinstance(delta_generator._use_warning_has_been_displayed, bool)  # renamed: the first page gets slower


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
opening._first(None)
"""


@pytest.mark.parametrize("name", opening.LOOKED_FOR)
def test_what_another_thread_is_importing_is_waited_for(name: str) -> None:
    ended = subprocess.run([sys.executable, "-c", HALFWAY.format(name=name)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_what_the_engine_imports_later_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_modules", len(sys.modules) - engine.MANY - 1)
    gc.unfreeze()
    try:
        assert engine.compute("later", lambda: 1) == 1 and gc.get_freeze_count()
        gc.unfreeze()
        assert engine.compute("again", lambda: 2) == 2 and not gc.get_freeze_count(), "nothing came since"
    finally:
        gc.unfreeze()
