"""The parts that screens are made of."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from dashboard import browser, catalog, charts, gallery, pictures, session, tables
from dashboard.memo import Memo
from dashboard.words import literal
from tests.dashboard.conftest import Open, said


def test_runs_are_found_by_a_short_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("a/x/run", "a/y", "b/x", ".hidden/z"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").touch()
    monkeypatch.setenv("AA_RUNS_DIRS", f"{tmp_path / 'a'}:{tmp_path / 'b'}:{tmp_path / 'missing'}")
    assert {name: str(path.relative_to(tmp_path)) for name, path in catalog.find_runs().items()} == {
        "x": "a/x/run",
        "y": "a/y",
        "x (2)": "b/x",
    }


def test_a_file_that_goes_while_runs_are_listed_takes_no_page_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").touch()
    monkeypatch.setattr(Path, "exists", lambda self: True)  # as it was a moment ago; the journal is gone since
    assert catalog.stamp(tmp_path) == ((tmp_path / "run.json").stat().st_mtime_ns,)


def test_a_root_may_be_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").touch()
    monkeypatch.setenv("AA_RUNS_DIRS", str(tmp_path))
    assert catalog.find_runs() == {tmp_path.name: tmp_path}


def test_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside" / "run"
    outside.mkdir(parents=True)
    (outside / "run.json").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(outside)
    monkeypatch.setenv("AA_RUNS_DIRS", str(tmp_path / "root"))
    assert catalog.find_runs() == {}


def test_the_least_recently_used_result_goes_first() -> None:
    memo = Memo(2)
    memo.put("a", 1)
    memo.put("b", 2)
    memo.get("a")
    memo.put("c", 3)
    assert ("a" in memo, "b" in memo, "c" in memo) == (True, False, True)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (None, []),
        ({}, []),
        ({"selection": {"points": []}}, []),
        ({"selection": {"points": [{"x": 3, "label": "no"}]}}, []),
        ({"selection": {"points": [{"customdata": "a stage"}, {"customdata": "b"}]}}, ["a stage"]),
        ({"selection": {"points": [{"customdata": [7]}]}}, [7]),
    ],
)
def test_a_click_is_read_by_its_id(state: object, found: list[object]) -> None:
    assert charts.ids(state) == found


@pytest.mark.parametrize("sent", [None, "x", {}, {"ids": 3}, {"ids": ["a", 99]}])
def test_the_browser_cannot_pick_what_is_not_shown(sent: object) -> None:
    assert (gallery._clean(sent, {1, 2}) or ((),))[0] == ()


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (torch.randint(0, 256, (2, 8, 8), dtype=torch.uint8), [8, 8]),
        (torch.randn(2, 64), [8, 8]),
        (torch.randn(2, 3, 8, 8), [3, 8, 8]),
        (torch.zeros(2, 8, 8, 3), [8, 8, 3]),
        (torch.full((2, 400, 300), torch.nan), [400, 300]),
    ],
)
def test_inputs_become_small_pictures(values: torch.Tensor, shape: list[int]) -> None:
    looks = pictures.shown(values, [0, 1], {"kind": "image", "shape": shape})
    assert all(look["src"].startswith("data:image/png;base64,") for look in looks)


def test_other_inputs_become_words() -> None:
    assert pictures.shown(torch.tensor([[1.5, 2.0]]), [0], None) == [{"text": "1.5 2"}]


def test_a_table_of_stages_escapes_names_and_signs_its_bars() -> None:
    frame = pd.DataFrame({"stage": ["<b>", "good"], "note": ["&", ""], "steps": [1, 2], "effect": [-0.5, 1.0]})
    page = tables.stage_table(frame, "nats", "<i>")
    assert "&lt;b&gt;" in page and "<b>" not in page and "&lt;i&gt;" in page
    assert 'class="hurt" style="left:25.0%;width:25.0%"' in page
    assert 'class="helped" style="left:50.0%;width:50.0%"' in page
    assert "\u22120.50" in page and "+1.00" in page


def test_effects_that_are_all_zero_have_no_bar() -> None:
    assert "width:0.0%" in tables.bar(0.0, 0.0)


def test_literal_escapes_every_mark_of_markdown() -> None:
    assert literal("a*b[c](d):e $f 45°") == "a\\*b\\[c\\]\\(d\\)\\:e \\$f 45°"
    assert literal("fine-tune -- a-b -") == "fine-tune \\-\\- a-b \\-"


def test_no_address_becomes_a_link() -> None:
    assert literal("http://a.b") == "http\\:\\/\\/\u2060a\\.b"
    assert literal("www.a.b c@d.e") == "www\\.\u2060a\\.b c\\@\u2060d\\.e"


def test_examples_are_picked_by_numbers_that_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []
    monkeypatch.setattr(session, "note", noted.append)
    assert browser.numbers([4, "17", "#3", " 17 "]) == (3, 4, 17) and noted == []
    assert browser.numbers(["<b>", "-1", "2"]) == (2,) and len(noted) == 2 and "'<b>'" in noted[0]


def test_parts_and_steps_of_the_other_sign_than_their_stage_are_said(
    calibrated: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = {"run": "digits-mislabelled", "stage": "round 7"}
    assert "disagree about the sign" not in said(calibrated("explore", **query))
    monkeypatch.setattr("dashboard.service.estimates.wholes", lambda desk, s: {"round 7": -0.5})
    words = said(calibrated("explore", **query))
    assert "The steps of round 7 add up to +0.0" in words and "estimated at −0.500 nats: **two estimates" in words
