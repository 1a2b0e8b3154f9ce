"""The page on accuracy and cost is that of the stored figures."""

from __future__ import annotations

from benchmarks import accuracy_zoo
from benchmarks.accuracy_candidates import DROPPED, KEPT


def test_the_page_is_that_of_the_figures() -> None:
    assert accuracy_zoo.PAGE.read_text() == accuracy_zoo.page(*accuracy_zoo.stored())


def test_every_candidate_was_measured_on_every_run_of_the_zoo() -> None:
    runs = accuracy_zoo.stored()[0]["runs"]
    assert [tuple(run[n] for n in accuracy_zoo.Config._fields) for run in runs] == list(accuracy_zoo.ZOO)
    assert all({row["candidate"] for row in run["rows"]} == {*KEPT, *DROPPED} for run in runs)
