"""Who opens, runs and exports is in the access log before they see it done."""

from __future__ import annotations

import pytest

from aa_core.access import os_user
from aa_core.access_log import log_path, read_log
from aa_core.errors import NotAllowedError, RequestError
from aa_core.jobs import all_jobs
from aa_core.runs.trajectory import open_run
from dashboard.selection import Selection
from dashboard.service import About, Desk, acts, exporting, people, report_of, retraining, slices
from dashboard.service.runs import RunEntry
from tests.dashboard.conftest import SAMPLES, Open, said
from tests.dashboard.test_findings_view import pin, press

RUN = SAMPLES / "digits-adamw" / "run"
DIGEST = open_run(RUN).digest


@pytest.fixture(autouse=True)
def own_workspace(jobs_at_once: None) -> None:
    """Every test has a log of its own."""


def logged() -> list[tuple[str, str | None, str]]:
    return [(e.act, e.run, e.what) for e in read_log().entries]


def test_a_run_is_opened_once_a_session(screen: Open) -> None:
    app = screen("overview", run="good")
    app.run()
    assert logged() == [("opened run", DIGEST, "")]
    assert read_log().entries[0].who == os_user()
    screen("explore", run="good")
    assert len(logged()) == 2


def test_a_run_that_is_compared_with_is_opened_too(screen: Open) -> None:
    screen("compare", run="good", other="confounded")
    assert len({run for act, run, _ in logged() if act == "opened run"}) == 2


def test_jobs_are_logged_as_they_are_started_and_tried_again(screen: Open) -> None:
    app = press(screen("whatif", run="good", skip="fine-tune 90°"), "Retrain to verify")
    [job] = all_jobs()
    app.run()
    assert logged()[1:] == [("started job", DIGEST, job.id)]
    acts.cancel(job)
    acts.retry(job)
    acts.start(job.spec)
    assert [act for act, _, what in logged()[2:] if what == job.id] == ["cancelled job", "retried job"]


def test_findings_and_subgroups_are_logged(screen: Open) -> None:
    pin(screen("explore", run="good", examples="3"), "It hurt.")
    app = screen("findings", run="good")
    for label, text in (("Name", "B"), ("Role", "lead"), ("Date", "1 May 2031")):
        next(t for t in app.text_input if t.label == label).set_value(text)
    press(app, "Sign off")
    slices.forget(slices.save("0" * 64, Selection(examples=(1,)), "mine"))
    acted = [act for act, _, _ in logged() if act != "opened run"]
    assert acted == ["entered finding", "signed finding", "saved subgroup", "forgot subgroup"]


def test_an_export_is_logged_when_it_is_made_by_who_may_then(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(RunEntry("good", RUN, "", ""))
    report = report_of(desk, Selection(examples=(3,)), False, About(), "2031-05-01", lambda done, total: None)
    make = exporting(desk, report, "json")
    assert "exported report" not in {act for act, _, _ in logged()}
    assert report.digest in str(make())
    assert logged()[-1] == ("exported report", DIGEST, f"json {report.digest}")
    before = log_path().read_bytes()
    monkeypatch.setattr(people, "who", lambda known=None: None)
    with pytest.raises(NotAllowedError):
        make()
    assert log_path().read_bytes() == before


def test_nothing_is_shown_or_done_that_cannot_be_logged(screen: Open) -> None:
    log_path().mkdir(parents=True)
    app = screen("overview", run="good")
    assert "nothing is shown or done that is not logged" in said(app) and "What each stage did" not in said(app)
    log_path().rmdir()
    desk = Desk(RunEntry("good", RUN, "", ""))
    log_path().unlink(missing_ok=True)
    log_path().mkdir()
    with pytest.raises(RequestError, match="not logged"):
        acts.start(retraining.question(desk, Selection(skip=("pretrain",))))
    assert all_jobs() == ()
