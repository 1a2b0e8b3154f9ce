"""Viewers look and export, analysts also act: refused where it is done, not only left off the screen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from aa_core.access import Person
from aa_core.errors import NotAllowedError
from aa_core.findings import findings, read_ledger
from aa_core.jobs import Job, all_jobs
from aa_core.runs.trajectory import open_run
from dashboard.selection import Selection
from dashboard.service import Desk, acts, ledger, people, retraining, slices, work
from dashboard.service.runs import RunEntry, list_runs
from tests.dashboard.conftest import SAMPLES, Open, said
from tests.dashboard.test_findings_view import press

RUN = SAMPLES / "digits-adamw" / "run"
ASKED = Selection(skip=("fine-tune 90°",), examples=(3,))
Become = Callable[[Person | None], None]


@pytest.fixture(autouse=True)
def own_workspace(jobs_at_once: None) -> None:
    """Every test has jobs, findings and subgroups of its own."""


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Sign in as somebody."""
    monkeypatch.setattr(people, "signs_in", lambda: True)
    return lambda person: monkeypatch.setattr(people, "who", lambda known=None: person)


@pytest.fixture
def viewer(become: Become) -> None:
    become(Person("vera@example.org", "viewer"))


@pytest.fixture
def desk() -> Desk:
    return Desk(RunEntry("digits-adamw", RUN, "", ""))


@pytest.fixture
def done(desk: Desk) -> Job:
    """A retraining that an analyst has asked for."""
    return acts.start(retraining.question(desk, ASKED))


def enter(desk: Desk, by: str = "typed") -> ledger.Finding:
    evidence = ledger.pinned(desk, ASKED, retraining.counterfactual(ASKED), 0.5, "nats", "words")
    return ledger.enter(desk, evidence, "It helped.", "low", "sign", "", by)


@pytest.mark.parametrize("somebody", [None, Person("vera@example.org", "viewer")])
@pytest.mark.parametrize(
    "act",
    [
        lambda desk, job, found: acts.start(retraining.question(desk, Selection(skip=("pretrain",)))),
        lambda desk, job, found: acts.retry(job),
        lambda desk, job, found: acts.cancel(job),
        lambda desk, job, found: enter(desk),
        lambda desk, job, found: ledger.settle(desk, found, "confirmed", "x"),
        lambda desk, job, found: ledger.sign_off(desk, found, ledger.Signature(name="x", role="x", date="x"), "x"),
        lambda desk, job, found: slices.save(desk.evaluation_digest, ASKED, "x"),
        lambda desk, job, found: slices.forget("0" * 12),
    ],
    ids=["start", "retry", "cancel", "enter", "settle", "sign", "save", "forget"],
)
def test_only_analysts_act(desk: Desk, done: Job, become: Become, act: Callable, somebody: Person | None) -> None:
    found, workspace = enter(desk), done.folder.parents[1]
    before = sorted((p.relative_to(workspace), p.read_bytes()) for p in workspace.rglob("*") if p.is_file())
    become(somebody)
    with pytest.raises(NotAllowedError):
        act(desk, done, found)
    assert before == sorted((p.relative_to(workspace), p.read_bytes()) for p in workspace.rglob("*") if p.is_file())


def test_strangers_are_told_no_run(become: Become) -> None:
    become(None)
    with pytest.raises(NotAllowedError, match="sign in"):
        list_runs()


def test_a_server_that_strangers_reach_has_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert people.who() and people.who().role == "analyst"
    monkeypatch.setattr(people, "is_local", lambda: False)
    assert people.who() is None


def test_a_viewer_sees_a_job_that_is_there(desk: Desk, done: Job, viewer: None) -> None:
    assert acts.start(done.spec).id == done.id and done.status == "done"


def test_long_work_waits_for_an_analyst(desk: Desk, viewer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "LIGHT", 0)
    with pytest.raises(NotAllowedError, match=r"takes a job: vera@example\.org is a viewer"):
        work.ask(desk, work.request_for(ASKED, by="stages"), lambda done, total: None)
    assert all_jobs() == ()


def test_who_signed_in_is_the_author_whatever_is_typed(desk: Desk, become: Become) -> None:
    become(Person("ada@example.org", "analyst"))
    assert enter(desk, by="Somebody Else").by == "ada@example.org"


def disabled(app: AppTest) -> dict[str, bool]:
    return {b.label: b.disabled for b in app.button}


def test_screens_offer_a_viewer_no_act(screen: Open, viewer: None) -> None:
    app = screen("whatif", run="good", skip="fine-tune 90°")
    assert disabled(app)["Retrain to verify"] and disabled(app)["Verify all stages"]
    assert "Enter into the ledger" not in disabled(app) and "Predicted" in said(app)
    assert disabled(screen("reliability", run="good"))["Replay the whole run"]
    assert disabled(screen("subgroups", run="good", examples="3-9"))["Save subgroup"]
    assert "Pin as finding" not in said(screen("explore", run="good", examples="3"))


def test_a_viewer_reads_findings_and_exports(screen: Open, become: Become) -> None:
    become(Person("ada@example.org", "analyst"))
    app = screen("explore", run="good", examples="3")
    assert next(t for t in app.text_input if t.label == "Your name").disabled
    next(a for a in app.text_area if a.label == "Claim").set_value("It hurt.")
    press(app, "Enter into the ledger")
    assert findings(read_ledger(open_run(RUN)))[0].by == "ada@example.org"
    assert "Retrain to check" in disabled(screen("findings", run="good"))
    become(Person("vera@example.org", "viewer"))
    app = screen("findings", run="good")
    assert "It hurt" in said(app) and disabled(app) == {}
    report = screen("report", run="good", examples="3")
    assert [b for b in report.get("download_button") if b.proto.label == "HTML report" and not b.proto.disabled]


def test_a_click_that_no_screen_offered_does_nothing(screen: Open, become: Become) -> None:
    become(Person("ada@example.org", "analyst"))
    app = screen("whatif", run="good", skip="fine-tune 90°")
    become(Person("ada@example.org", "viewer"))
    app = next(b for b in app.button if b.label == "Retrain to verify").click().run()
    assert re.search("is a viewer here", app.exception[0].value) and all_jobs() == ()


def test_an_analyst_acts(screen: Open, become: Become) -> None:
    become(Person("ada@example.org", "analyst"))
    app = press(screen("whatif", run="good", skip="fine-tune 90°"), "Retrain to verify")
    assert "Retrained:" in said(app) and Path(all_jobs()[0].folder).is_dir()
