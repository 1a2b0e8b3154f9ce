"""The export holds what the screens show: every screen has its section, made by the call that the screen makes."""

from __future__ import annotations

import html
import re
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pandas as pd
import pytest

from aa_core.reporting.files import write_report
from aa_core.reporting.html import to_html
from aa_core.reporting.model import Report
from aa_core.reporting.pdf import to_pdf
from aa_core.reporting.tables import to_csv, to_frames
from aa_core.reporting.verify import verify_file
from dashboard import screens
from dashboard.light import glossary
from dashboard.selection import CHARTS, MODES, Selection
from dashboard.service import (
    About,
    Desk,
    acts,
    checking,
    compare,
    estimates,
    groups,
    list_runs,
    parts,
    report_of,
    retraining,
    slices,
)
from tests.core.test_report_harmless import without_scripts
from tests.dashboard.conftest import Open, record, said

ONE, TWO = "one odd", "two odd"
SITE = "column odd"
EVERYTHING = Selection(
    stage=TWO, steps=(8, 8), chart="layers", by="true label", mode="stages", skip=(TWO,), scale=50, readout="displaced"
)
SCREENS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "Overview": [({}, "run.log.grad_norm"), ({}, "run.stages"), ({}, "stages")],
    "Explore": [
        ({}, "stages"),
        ({}, "steps"),
        ({"examples": (3,)}, "selection.examples"),
        ({"chart": "layers"}, "shown.parts"),
        ({"chart": "causes"}, "shown.parts"),
        ({"chart": "shares"}, "shown.shares"),
        ({"stage": TWO, "steps": (8, 8)}, "shown.batch"),
    ],
    "Subgroups": [
        ({}, "groups"),
        ({"by": "prediction"}, "shown.grouping"),
        ({"by": "true label"}, "shown.grouping.gap"),
    ],
    "What-if": [({"skip": (TWO,), "scale": 50}, "shown.prediction")],
    "Compare": [
        ({"mode": "runs", "other": "b"}, "comparison"),
        ({"mode": "groups", "by": SITE}, "shown.grouping.gap"),
        ({"mode": "stages"}, "shown.stages"),
    ],
    "Reliability": [({}, "reliability.moved"), ({}, "run.integrity")],
    "Findings": [({}, "ledger.head")],
    "Report": [({}, "answer")],
    "Jobs": [({}, "process")],
}
"""{screen: [(what is picked on it, where the report has it)]}"""
UNLIKE = {"experiments"}
"""Modes of Compare that show no numbers of this run: what ships with the package."""


def silent(done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs on the same evaluation set."""
    root = tmp_path_factory.mktemp("pair")
    for name, lr in (("a", 0.01), ("b", 0.05)):
        record(root / name, words="odd", title=f"Run {name}", lr=lr)
    return root


@pytest.fixture
def desk(pair: Path, jobs_at_once: None, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("AA_RUNS_DIRS", str(pair))
    return Desk(list_runs()["a"])


def report(desk: Desk, s: Selection) -> Report:
    return report_of(desk, s, True, About(), "2031-05-01", silent)


def test_every_screen_and_each_of_its_choices_has_a_place() -> None:
    assert set(SCREENS) == {title for _, title, *_ in screens.SCREENS}
    picked = [picks for places in SCREENS.values() for picks, _ in places]
    assert {p["chart"] for p in picked if "chart" in p} == set(CHARTS) - {"effects"}
    assert {p["mode"] for p in picked if "mode" in p} == set(MODES) - UNLIKE


@pytest.mark.parametrize(("picks", "place"), [case for places in SCREENS.values() for case in places])
def test_what_a_screen_shows_is_in_the_report(desk: Desk, picks: dict[str, Any], place: str) -> None:
    made = report(desk, Selection(**picks))
    found = reduce(getattr, place.split("."), made)
    assert found is not None and found != () and found != "all"


def test_nothing_is_there_that_nobody_chose(desk: Desk) -> None:
    made = report(desk, Selection())
    assert set(made.shown.model_dump().values()) == {None} and made.comparison is None
    assert parts(desk, Selection()) == []
    assert {part.screen for part in parts(desk, EVERYTHING)} == {"Explore", "Subgroups", "Compare", "What-if"}
    assert parts(desk, Selection(stage=TWO, steps=(3, 3))) == [], "a step of another stage"
    assert parts(desk, Selection(stage=TWO, steps=(8, 9))) == [], "no single step"
    assert parts(desk, Selection(other="a")) == parts(desk, Selection(other="nowhere")) == []
    assert parts(desk, Selection(skip=(TWO,), without=(3,))) == [], "the screen refuses it"


def test_the_numbers_are_those_of_the_screens(desk: Desk) -> None:
    s = EVERYTHING
    made = report(desk, s).shown
    assert None not in (made.parts, made.batch, made.grouping, made.stages, made.prediction)
    split = estimates.parts(desk, s, "layers", silent).frame
    found = pd.DataFrame(made.parts.effect, made.parts.stage, made.parts.part).stack()
    split = split[split["effect"] != 0].set_index(["stage", "layer"])["effect"]
    assert found.to_dict() == pytest.approx(split.to_dict()), "a part that is zero in all stages is left out"
    ranked = estimates.batch(desk, s, 8, silent).frame.sort_values("effect", ascending=False)
    assert made.batch.effect == pytest.approx(ranked["effect"].tolist()) and made.batch.row == tuple(ranked["row"])
    by = groups.groups_by(desk, "true label")
    wanted = groups.cells(desk, s, by, silent)
    for column in ("effect", "low", "high"):
        found = pd.DataFrame(getattr(made.grouping.table, column), made.grouping.table.stage, [g.name for g in by])
        for row in wanted.frame.to_dict("records"):
            value = found.loc[row["stage"], row["group"]]
            assert (pd.isna(value) and pd.isna(row[column])) or value == pytest.approx(row[column])
    counts = (made.grouping.counted, made.grouping.apart, made.grouping.apart_corrected)
    assert counts == (wanted.counted, wanted.apart, wanted.apart_corrected)
    gap = groups.gap(desk, s, by[0], by[1], silent).frame
    assert made.grouping.gap.effect == pytest.approx(gap["effect"].tolist())
    assert (made.grouping.gap.groups[0].value, made.grouping.gap.groups[0].n) == (by[0].name, by[0].size)
    two = compare.stages(desk, s, (ONE, TWO), by, silent).frame
    assert made.stages.effect_first == pytest.approx(two["first"].tolist())
    assert made.stages.effect_second == pytest.approx(two["second"].tolist())
    assert made.stages.cosine[0] == pytest.approx(compare.cosines(desk, s, silent).iloc[0].tolist())
    predicted = estimates.predicted(desk, s, retraining.counterfactual(s), silent)
    assert (made.prediction.recorded, made.prediction.effect) == pytest.approx((predicted.recorded, predicted.effect))
    assert made.prediction.predicted == pytest.approx(made.prediction.recorded - made.prediction.effect)
    assert made.prediction.query == {"skip": (TWO,), "scale": ("50",)}


def test_the_gap_of_two_groups_with_intervals_and_of_a_column(desk: Desk) -> None:
    s = Selection(mode="groups", by=SITE, first=f"{SITE} plain", second=f"{SITE} odd")
    found = report(desk, s).shown.grouping
    assert found.by == SITE and found.gap.low[0] < found.gap.effect[0] < found.gap.high[0]
    assert found.counted == 4
    assert [g.value for g in found.gap.groups] == [f"{SITE} plain", f"{SITE} odd"]


def test_the_other_run_is_that_of_compare(desk: Desk) -> None:
    s = Selection(other="b", examples=tuple(range(9)))
    pair = compare.runs(desk, Desk(list_runs()["b"]), s, silent)
    made = report(desk, s)
    found = made.comparison
    assert found.evaluation == made.selection.evaluation and "put to “Run b”, on the same examples." in to_html(made)
    assert found.stage == tuple(pair.frame["stage"]) and found.n == 9
    assert found.here == pytest.approx(pair.frame["first"].tolist())
    assert found.there == pytest.approx(pair.frame["second"].tolist())


def test_path_shares_add_up_to_the_end(desk: Desk) -> None:
    made = report(desk, Selection(chart="shares"))
    table, start, _ = estimates.shares(desk, Selection(), silent)
    assert made.shown.shares.share == pytest.approx(
        table["share"].tolist()
    ) and made.shown.shares.start == pytest.approx(start)
    page = without_scripts(to_html(made))
    assert "Path shares" in page and "no effect: what a stage taught" in page


def test_saved_subgroups_are_in_it(desk: Desk) -> None:
    saved = (((3,), "some"), ((4,), "some"), ((3, 4), "both"))
    one, other, _ = (slices.save(desk.evaluation_digest, Selection(labels=labels), name) for labels, name in saved)
    some = sorted(f"some ({digest[:6]})" for digest in (one, other))
    found = report(desk, Selection()).shown.grouping
    assert found.by == "" and [(g.value, g.n) for g in found.table.groups] == [("both", 8), *((n, 4) for n in some)]
    for both, *each in found.table.effect:
        assert sum(each) / 2 == pytest.approx(both)
    assert [g.value for g in found.gap.groups] == ["both", some[0]]
    assert found.table.groups[0].definition == f"true label {' or '.join(desk.class_names()[3:5])}"
    assert len(found.table.unsure) == len(found.table.stage)


def test_a_prediction_that_was_retrained_is_a_check_instead(desk: Desk) -> None:
    s = Selection(skip=(TWO,))
    assert report(desk, s).shown.prediction.what == f"Without {TWO}"
    acts.start(retraining.question(desk, s))
    made = report(desk, s)
    assert made.shown.prediction is None and [c.skip for c in made.checks] == [(TWO,)]


def test_the_largest_move_of_a_stage_is_told(desk: Desk) -> None:
    made = report(desk, Selection())
    assert made.reliability.moved == pytest.approx(checking.known(desk, Selection(), silent).moved)
    share = html.escape(glossary.fmt_percent(made.reliability.moved))
    assert f"Largest move of a stage</dt><dd>{share} of the norm of the final weights" in without_scripts(to_html(made))


def test_all_formats_hold_all_of_it(desk: Desk, tmp_path: Path) -> None:
    made = report(desk, EVERYTHING)
    page, frames = without_scripts(to_html(made)), to_frames(made)
    names = {"parts", "training_examples", "chosen_groups", "gap", "two_stages", "cosines", "prediction"}
    assert names <= set(frames) and {f"{name}.csv" for name in names} <= set(to_csv(made))
    for words in (
        "By layer",
        "Training examples of step 8",
        "Groups by true label",
        "when all have to hold together (Bonferroni)" if made.shown.grouping.counted > 1 else "At most one interval",
        "Mean effect on “is odd 0” (n = 4) minus that on “is odd 1” (n = 4)",
        f"{ONE} beside {TWO}",
        "Did the stages pull the same way?",
        "Predicted, not retrained",
        *(f"{name}.csv" for name in names),
    ):
        assert words in page, words
    for view in (
        "explore?digest={}&chart=layers",
        "explore?digest={}&stage=two+odd&steps=8-8",
        "subgroups?digest={}&by=true+label",
        "compare?digest={}&mode=stages&first=one+odd&second=two+odd",
        "what-if?digest={}&skip=two+odd&scale=50",
    ):
        screen, _, query = view.format(made.run.digest[:12]).partition("?")
        links = [parse_qsl(urlsplit(html.unescape(a)).query) for a in re.findall(f'href="[^"]*/({screen}[^"]*)"', page)]
        assert any(set(parse_qsl(query)) <= set(link) for link in links), view
    cells = 2 * len(made.shown.grouping.table.groups)
    chosen = cells + 2 + 2 * len(made.shown.stages.groups)
    assert f"{chosen:,} on groups that were chosen on the dashboard’s screens)" in made.process.comparisons
    assert all("unit" in frames[name] for name in names - {"cosines"})
    assert to_pdf(made).startswith(b"%PDF")
    for suffix in ("html", "pdf", "json", "zip", "csv"):
        for file in write_report(made, tmp_path / suffix / f"report.{suffix}"):
            verify_file(file)


def test_the_page_says_what_goes_into_it(desk: Desk, screen: Open, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_RUNS_DIRS", str(pair))
    words = said(screen("report", run="a", chart="causes", by="true label", skip=TWO))
    assert "effects by cause" in words and "groups by true label" in words and f"predicted: without {TWO}" in words
