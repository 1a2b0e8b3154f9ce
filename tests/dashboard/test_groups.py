"""Subgroups: what defines them, who is in them, and what a stage did to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from aa_core.files import SEAL, sealed
from aa_core.reporting.results import grouping_columns
from aa_core.runs.evaluation import Evaluation
from dashboard.selection import NOTHING, Selection
from dashboard.service import Desk, RunEntry, compare, estimates, groups, list_runs, slices
from dashboard.service.groups import Group
from tests.dashboard.conftest import SAMPLES, Open, checked, said
from tests.faults.test_flips import flips


def silent(done: int, total: int) -> None: ...


@pytest.fixture
def desk(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("AA_RUNS_DIRS", str(runs))
    yield Desk(list_runs()["good"])


@pytest.fixture(autouse=True)
def own_subgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_folder", lambda: tmp_path / "subgroups")


def test_a_subgroup_is_named_by_what_defines_it_not_by_its_name() -> None:
    picks = Selection(run="r", digest="0" * 12, labels=(3,), readout="link")
    first = slices.save("e", picks, "threes")
    assert slices.save("e", replace(picks, run="other", readout="linear"), "other name") == first
    assert slices.save("e", replace(picks, labels=(4,)), "fours") != first
    assert slices.save("another evaluation set", picks, "threes") != first
    assert list(slices.saved("e").values()) == ["fours", "other name"]
    assert slices.definition(first) == replace(NOTHING, labels=(3,))


def test_subgroups_of_one_name_are_told_apart_by_their_digests() -> None:
    first, second = (slices.save("e", Selection(labels=(label,)), "threes") for label in (3, 4))
    slices.save("e", Selection(labels=(5,)), "fives")
    found = slices.saved("e")
    assert found[first] == f"threes ({first[:6]})" and found[second] == f"threes ({second[:6]})"
    assert sorted(found.values())[0] == "fives"


def test_a_subgroup_that_was_tampered_with_is_not_read(tmp_path: Path) -> None:
    digest = slices.save("e", replace(NOTHING, labels=(3,)), "threes")
    path = tmp_path / "subgroups" / f"{digest}.json"
    content = json.loads(path.read_bytes()[SEAL:])
    path.write_bytes(sealed(json.dumps({**content, "query": {"labels": ["4"]}}).encode()))
    assert slices.saved("e") == {}
    assert slices.definition(digest) == NOTHING
    slices.forget("../../outside")
    slices.forget(digest)
    assert not path.exists()


def test_every_flipped_bit_of_a_saved_subgroup_is_detected(tmp_path: Path) -> None:
    digest = slices.save("e", replace(NOTHING, labels=(3,)), "threes")
    for bit in flips(tmp_path / "subgroups" / f"{digest}.json"):
        assert slices.saved("e") == {} and slices.definition(digest) == NOTHING, f"bit {bit}"


def test_a_subgroup_that_was_saved_without_a_seal_is_read(tmp_path: Path) -> None:
    digest = slices.save("e", replace(NOTHING, labels=(3,)), "threes")
    path = tmp_path / "subgroups" / f"{digest}.json"
    path.write_bytes(path.read_bytes()[SEAL:])
    assert slices.saved("e") == {digest: "threes"}


def test_members_are_who_passes_the_filters_and_who_was_picked(desk: Desk) -> None:
    labels = desk.predictions()["label"].to_numpy()
    outsider = int((labels != 3).nonzero()[0][0])
    digest = slices.save(desk.evaluation_digest, replace(NOTHING, labels=(3,), examples=(outsider,)), "x")
    expected = sorted({*(labels == 3).nonzero()[0].tolist(), outsider})
    assert desk.rows(replace(NOTHING, slice=digest)).tolist() == expected
    assert desk.rows(replace(NOTHING, slice=digest, labels=(3,))).tolist() == (labels == 3).nonzero()[0].tolist()


def test_the_groups_of_a_column_part_the_examples(desk: Desk) -> None:
    for by in (groups.LABEL, groups.PREDICTION, "rotation"):
        found = groups.groups_by(desk, by)
        members = np.concatenate([groups.rows_of(desk, g.picks) for g in found])
        assert sorted(members.tolist()) == list(range(1191))
        assert all(g.size == len(groups.rows_of(desk, g.picks)) for g in found)


def test_cells_are_means_over_the_group_and_gaps_their_differences(desk: Desk) -> None:
    s = Selection(run="good")
    one, two = groups.groups_by(desk, "rotation")[:2]
    cells = groups.cells(desk, s, (one, two), silent)
    values = estimates.every_stage(desk, s, silent).effects.numpy()
    rows = groups.rows_of(desk, one.picks)
    mine = cells.frame[cells.frame["group"] == one.name]
    np.testing.assert_allclose(mine["effect"], values[:, rows].mean(1))
    assert ((mine["low"] < mine["effect"]) & (mine["effect"] < mine["high"])).all()
    gap = groups.gap(desk, s, one, two, silent).frame
    other = values[:, groups.rows_of(desk, two.picks)].mean(1)
    np.testing.assert_allclose(gap["effect"], values[:, rows].mean(1) - other)
    assert 0 < cells.apart_corrected <= cells.apart <= cells.counted == 6


def test_a_small_group_has_no_interval(desk: Desk) -> None:
    few = Group("few", {"examples": (1, 2, 3)}, 3)
    found = groups.cells(desk, Selection(run="good"), (few,), silent)
    assert found.frame["low"].isna().all()
    assert found.counted == found.apart == found.apart_corrected == 0


def test_a_stage_pulls_the_same_way_as_itself(desk: Desk) -> None:
    found = compare.cosines(desk, Selection(run="good"), silent)
    np.testing.assert_allclose(np.diag(found), 1.0)
    np.testing.assert_allclose(found, found.T)
    assert (found.abs() <= 1 + 1e-12).all(axis=None)


def test_a_run_against_itself_differs_in_nothing(desk: Desk) -> None:
    pair = compare.runs(desk, desk, Selection(run="good", examples=(3, 4)), silent)
    assert (pair.frame["effect"] == 0).all()
    assert pair.n == 2 and pair.unmatched == ()


def test_a_subgroup_is_built_saved_and_reopened_by_its_link(screen: Open) -> None:
    app = screen("subgroups", run="good", by="rotation")
    assert "1,191 of 1,191" in said(app)
    checked(app.multiselect("pick:labels").select(3).run())
    assert "129 of 1,191" in said(app)
    app.text_input("subgroup:name").input("all threes")
    checked(next(b for b in app.button if b.label == "Save subgroup").click().run())
    digest = app.query_params["slice"]
    assert "all threes" in said(app) and app.query_params.get("labels") is None
    again = screen("explore", run="good", slice=digest)
    assert "the 129 examples of the subgroup “all threes”" in said(again)
    gone = screen("explore", run="good", slice="0" * 12)
    assert "is no saved subgroup of this run" in said(gone)


def test_the_map_states_what_it_shows(screen: Open) -> None:
    words = said(screen("subgroups", run="good", by="rotation", first="rotation 90"))
    assert "positive = the stage helped" in words
    assert "9 intervals are compared here" in words and "Bonferroni" in words
    assert "Positive = the stage helped the first more" in words


@pytest.mark.parametrize("name", ["coloured", "comments", "xray"])
def test_a_column_of_labels_is_not_what_groups_are_told_by_at_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These runs name their metadata "label" as well: grouped by it, classes would be numbers without their names."""
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path))
    shipped = Desk(RunEntry(name, SAMPLES / name / "run", "", ""))
    assert "label" in shipped.facts().columns
    assert groups.chosen(shipped, NOTHING) == "confounder"


def test_a_column_named_label_that_says_something_else_does_not_hide_the_classes() -> None:
    """Its groups stand beside those of the classes."""
    other = pd.DataFrame({"label": ["a", "b", "a"]})
    found = grouping_columns(Evaluation(torch.zeros(3, 2), torch.tensor([0, 1, 1]), other, ("no", "yes")))
    assert {c: v.tolist() for c, v in found.items()} == {
        "label": ["no", "yes", "yes"],
        "label (metadata)": ["a", "b", "a"],
    }
