"""Findings on screen: pinned from what is shown, settled by a retraining only, signed by people."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from aa_core.findings import findings, read_ledger
from aa_core.runs.trajectory import open_run
from dashboard.selection import Selection, to_query
from dashboard.service import Desk, ledger, list_runs, retraining, slices
from dashboard.service.estimates import picked
from tests.dashboard.conftest import HOSTILE, SAMPLES, Open, checked, said

RUN = SAMPLES / "digits-adamw" / "run"


@pytest.fixture(autouse=True)
def own_workspace(jobs_at_once: None) -> None:
    """Every test has a ledger of its own, and jobs are done at once."""


def pin(app: AppTest, claim: str, name: str = "A. Uditor") -> AppTest:
    claims = next(a for a in app.text_area if a.label == "Claim")
    claims.set_value(claim)
    next(t for t in app.text_input if t.label == "Your name").set_value(name)
    return checked(next(b for b in app.button if b.label == "Enter into the ledger").click().run())


def press(app: AppTest, label: str) -> AppTest:
    return checked(next(b for b in app.button if b.label.startswith(label)).click().run())


def test_nothing_found_yet_says_what_to_do(screen: Open) -> None:
    assert "Pin one in Explore or What-if" in said(screen("findings", run="good"))


def test_what_is_on_screen_is_pinned_with_all_that_it_rests_on(screen: Open) -> None:
    app = pin(screen("explore", run="good", examples="3-20", readout="displaced"), f"It hurt. {HOSTILE}")
    [found] = findings(read_ledger(open_run(RUN)))
    evidence = found.added.evidence
    assert (found.by, found.standing) == ("A. Uditor", "estimate only")
    assert found.added.claim == f"It hurt. {HOSTILE}".strip()
    assert (evidence.readout, evidence.n, evidence.examples) == ("displaced", 18, tuple(range(3, 21)))
    assert "examples=3-20" in evidence.query and evidence.run == open_run(RUN).digest
    assert not app.exception


def test_a_claim_needs_words_and_a_name(screen: Open) -> None:
    app = pin(screen("explore", run="good", examples="3"), " ", "")
    assert "Write a claim and your name." in said(app)
    assert read_ledger(open_run(RUN)).entries == ()


def test_a_what_if_is_pinned_settled_by_its_retraining_and_signed(screen: Open) -> None:
    stage = "fine-tune 90°"
    pin(screen("what-if".replace("-", ""), run="good", skip=stage), "The last stage helped.")
    app = screen("findings", run="good")
    assert "Estimate only" in said(app) and "Enter as" not in said(app)
    app = press(app, "Retrain to check")
    assert "Enter as confirmed (retrained +" in said(app)
    app = press(app, "Enter as confirmed")
    assert re.search(r"<dt>Confirmed</dt><dd>\d\d \w{3} \d{4}, \d\d:\d\d, ", said(app)), said(app)
    assert "Confirmed by retraining" in said(app) and "Retrain to check" not in said(app)
    for label, text in (("Name", "B"), ("Role", "lead"), ("Date", "1 May 2031")):
        next(t for t in app.text_input if t.label == label).set_value(text)
    app = press(app, "Sign off")
    assert "B, lead, 1 May 2031" in said(app)
    [found] = findings(read_ledger(open_run(RUN)))
    assert found.standing == "confirmed by retraining" and found.signatures[0].date == "1 May 2031"


def test_a_finding_on_a_forgotten_subgroup_reopens_on_its_own_examples(
    screen: Open, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AA_RUNS_DIRS", str(runs))
    desk = Desk(list_runs()["good"])
    digest = slices.save(desk.evaluation_digest, Selection(labels=(3,), where=(("rotation", "0"),)), "upright threes")
    pin(screen("explore", run="good", slice=digest, readout="link"), "It hurt them.")
    [found] = ledger.listed(desk)
    asked = ledger.reopened(desk, found)
    assert asked is not None and asked.slice == digest
    slices.forget(digest)
    again = ledger.reopened(desk, found)
    assert again == replace(asked, slice="", examples=found.added.evidence.examples)
    assert picked(desk, again) == found.added.evidence.examples
    assert "It opens no more" not in said(screen("findings", run="good"))
    monkeypatch.setattr("dashboard.selection.MAX_EXAMPLES", found.added.evidence.n - 1)
    assert ledger.reopened(desk, found) is None
    assert "It opens no more" in said(screen("findings", run="good"))


@pytest.mark.parametrize(
    "query",
    [
        {"leave": "3-8"},
        {"skip": "one plain", "scale": "50"},
        {"without": "3,7"},
        {"skip": "one plain", "change": "lr:2x"},
    ],
    ids=["steps", "scale", "examples", "change"],
)
def test_whatever_what_if_predicts_is_pinned_and_settled_by_its_own_retraining(
    screen: Open, runs: Path, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    monkeypatch.setenv("AA_RUNS_DIRS", str(runs))
    app = pin(screen("whatif", run="confounded", readout="displaced", **query), "It matters.")
    desk = Desk(list_runs()["confounded"])
    [found] = ledger.listed(desk)
    asked = ledger.reopened(desk, found)
    assert asked is not None and {n: v for n, [v] in to_query(asked).items()} == dict(app.query_params)
    assert retraining.counterfactual(asked) == found.added.evidence.counterfactual
    assert ledger._asking(found.added.evidence) == replace(asked, run="")
    app = press(screen("findings", run="confounded"), "Retrain to check")
    assert "positive = training as recorded did better" in said(app)
    app = press(app, "Enter as")
    assert "by retraining" in said(app) and "Retrain to check" not in said(app)


def test_hostile_claims_are_shown_literally(screen: Open) -> None:
    pin(screen("explore", run="good", examples="3"), HOSTILE)
    words = said(screen("findings", run="good"))
    assert "<img" not in words.replace("\\<img", "") and "\u202e" not in words
