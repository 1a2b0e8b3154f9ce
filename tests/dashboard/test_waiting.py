"""Nothing makes one wait in silence: a bar moves, or the page says for what it waits."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dashboard import bars, charts
from dashboard.service import Desk, list_runs
from dashboard.service import desk as desks
from dashboard.service.engine import ENGINE, compute
from tests.dashboard.conftest import SAMPLES, Open, said


class Place:
    """A place of a page that remembers what was shown in it."""

    shown: list[str]

    def caption(self, words: str) -> None:
        self.shown.append(words)

    def progress(self, share: float, text: str) -> None:
        self.shown.append(text)

    def empty(self) -> None:
        self.shown.append("")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bars and waiting show from now on, at once."""
    monkeypatch.setattr(Place, "shown", [], raising=False)
    monkeypatch.setattr("dashboard.bars.st.empty", Place)
    monkeypatch.setattr(bars, "PATIENCE", 0)
    monkeypatch.setattr("dashboard.service.engine.WAIT", 0.02)
    return Place.shown


def test_a_page_says_that_it_waits_for_another_question(shown: list[str]) -> None:
    assert ENGINE.acquire(timeout=60)
    threading.Timer(0.2, ENGINE.release).start()
    assert compute("asked while the engine is busy", lambda: 3) == 3
    assert len(shown) > 2 and "Waiting for another question" in shown[0] and shown[-1] == ""
    assert not ENGINE.locked()
    shown.clear()
    assert compute("asked while the engine is busy", lambda: 4) == 3 and shown == []


def test_a_page_that_is_left_while_it_waits_waits_no_more(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Left(Exception): ...

    def leave(self: Place, words: str) -> None:
        raise Left

    monkeypatch.setattr(Place, "caption", leave)
    with ENGINE, pytest.raises(Left):
        compute("asked and left", lambda: 3)
    assert not ENGINE.locked()


def test_running_the_model_over_the_evaluation_set_moves_a_bar(
    shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AA_RUNS_DIRS", str(SAMPLES))
    monkeypatch.setattr(Desk, "key", lambda self, what: ("bar", what))
    monkeypatch.setattr(desks, "PARTS", 16)
    found = Desk(list_runs()["digits-adamw"]).predictions()
    assert len(found) == 1191 and found["places"].eq(1).all()
    assert [words.rpartition(": ")[2] for words in shown if words] == [
        f"example {n} of 1,191" for n in ("256", "512", "768", "1,024", "1,191")
    ]


def test_the_first_chart_does_not_wait_for_the_files(screen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    order, read, draw = [], desks.check_integrity, charts.show

    def reads(run: Any, progress: Any) -> tuple[str, ...]:
        return (
            order.append("files"),
            read(run, lambda done, of: (order.append(f"{done} of {of}"), progress(done, of))),
        )[1]

    monkeypatch.setattr(Desk, "key", lambda self, what: ("order", what))
    monkeypatch.setattr(desks, "check_integrity", reads)
    monkeypatch.setattr(charts, "show", lambda *figure: (order.append("chart"), draw(*figure)))
    assert "files match their digests" in said(screen("overview", run="good"))
    files = order.index("files")
    assert order[:files] == ["chart"] and order[files + 1 : files + 8] == [f"{n} of 7" for n in range(1, 8)]
