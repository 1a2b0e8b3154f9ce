"""A run of which only checkpoints are known: every screen draws it, says what it is, and refuses what needs steps."""

from __future__ import annotations

from pathlib import Path

import pytest

import aa_core as aa
from tests.dashboard.conftest import SAMPLES, VIEWS, Open, said

REFUSED = "only checkpoints of this training are known"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the run."""
    root = tmp_path_factory.mktemp("kept")
    aa.forget_steps(aa.open_run(SAMPLES / "digits-adamw" / "run"), root / "kept")
    return root


@pytest.fixture
def kept_screen(kept: Path, screen: Open, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("AA_RUNS_DIRS", str(kept))
    return screen


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_draws_it(kept_screen: Open, view: str) -> None:
    assert kept_screen(view, run="kept").title


def test_overview_says_what_it_is_and_what_each_stage_did(kept_screen: Open) -> None:
    words = said(kept_screen("overview", run="kept"))
    assert "A training of which only checkpoints are known in 3 stages" in words
    assert "files match their digests" in words
    assert "Approximated from checkpoints only" in words and "fine-tune 90°" in words


def test_effects_are_labelled_in_every_readout(kept_screen: Open) -> None:
    for readout in ("linear", "displaced", "link"):
        assert "Approximated from checkpoints only" in said(kept_screen("explore", run="kept", readout=readout))


@pytest.mark.parametrize(
    ("view", "query"),
    [
        ("explore", {"stage": "fine-tune 45°"}),
        ("explore", {"method": "additive"}),
        ("explore", {"semantics": "zero_gradient"}),
        ("whatif", {"skip": "fine-tune 45°"}),
        ("report", {"method": "additive"}),
        ("findings", {}),
    ],
)
def test_what_needs_steps_is_refused_in_words(kept_screen: Open, view: str, query: dict[str, str]) -> None:
    assert REFUSED in said(kept_screen(view, run="kept", **query))


def test_its_report_is_made_and_says_what_is_not_known(kept_screen: Open) -> None:
    app = kept_screen("report", run="kept")
    words = said(app)
    assert "What it says" in words and "Approximated from checkpoints only" in words
    assert "Approximated from checkpoints: Gauss-Newton" in words and "can be checked by retraining" in words
    assert REFUSED not in words and not app.toggle and len(app.get("download_button")) >= 3


def test_its_groups_are_in_the_report(kept_screen: Open) -> None:
    words = said(kept_screen("report", run="kept", by="rotation"))
    assert "From Subgroups" in words and "What it says" in words and REFUSED not in words
