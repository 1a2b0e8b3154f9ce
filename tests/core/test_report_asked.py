"""What was asked, in a report: how examples were picked, each retraining by its own words, links to the very view."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import parse_qs

import pytest

from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.jobs.kinds import WhatIfRequest
from aa_core.performance import log_likelihood
from aa_core.problem import Problem
from aa_core.reporting.asked import Picks
from aa_core.reporting.blocks import Commands, Figure
from aa_core.reporting.html import to_html
from aa_core.reporting.links import ranges, view, view_of
from aa_core.reporting.model import Report
from aa_core.reporting.pages import pages
from aa_core.reporting.report import Context, build_report
from aa_core.reporting.tables import to_csv
from tests.core.report_case import N, ToldRun, make, whatif
from tests.core.test_report_harmless import without_scripts

STAGES = ("first", "middle", "last")
LAST = range(6, 9)
"""The steps of the last stage."""


def asked(what: Counterfactual, **changes: Any) -> dict[str, Any]:
    """A stored result, with the request of its job."""
    request = WhatIfRequest(
        skip=what.stages,
        scale=float(what.scale),
        semantics=what.semantics,
        performance="log-likelihood",
        examples=None,
        readout="link",
        curvature="ggn",
        steps=what.steps,
        without=what.examples,
        changes={c.hyper: c.text for c in what.changes},
    ).model_dump(mode="json")
    found = whatif("first", 0.1, counterfactual=what.name, skip=list(what.stages), semantics=what.manner)
    return {**found, "request": {**request, **changes}, "pairs": {c: [0, 1] for c in ("example", "estimate", "truth")}}


@pytest.fixture(scope="module")
def case() -> tuple[ToldRun, Problem]:
    return make(STAGES)


def made(case: tuple[ToldRun, Problem], *found: dict[str, Any], **options: Any) -> Report:
    picks = options.pop("picks", None)
    return build_report(*case, **{"with_steps": False, **options}, context=Context(whatifs=found, picks=picks))


def query_of(report: Report) -> dict[str, list[str]]:
    [(_, address)] = view_of(report, report.checks[0]).places
    screen, _, query = address.partition("?")
    assert screen == "what-if"
    return parse_qs(query)


# ---- links to the very view ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (Counterfactual.skip("first", "last"), {"skip": ["first", "last"]}),
        (Counterfactual(("first",), 0.5), {"skip": ["first"], "scale": ["50"]}),
        (Counterfactual.skip_steps(3), {"leave": ["3-3"]}),
        (Counterfactual.skip_steps(*range(3, 6)), {"leave": ["3-5"]}),
        (Counterfactual.without_examples(3, 7), {"without": ["3,7"]}),
        (
            Counterfactual.change("last", lr="0.5x", momentum=0.8),
            {"skip": ["last"], "change": ["lr:0.5x", "momentum:0.8"]},
        ),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_retraining_links_to_its_own_question(
    case: tuple[ToldRun, Problem], what: Counterfactual, named: dict
) -> None:
    query = query_of(made(case, asked(what)))
    how = {"performance": ["log-likelihood"], "method": ["boundary"], "curvature": ["ggn"], "readout": ["link"]}
    semantics = {} if what.changes or what.examples else {"semantics": ["freeze"]}
    assert query == {"digest": [case[0].digest[:12]], **how, **semantics, **named}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (asked(Counterfactual.skip_steps(3, 5)), "one range of steps"),
        (asked(Counterfactual(("first",), 1 / 3)), "whole percents"),
        (asked(Counterfactual.without_examples(*range(6_000))), "so many numbers"),
        (asked(Counterfactual.skip("first"), performance="accuracy"), "does not know this performance"),
        (whatif("first", 0.1), "not recorded"),
    ],
)
def test_where_no_address_names_the_question_the_report_says_why(
    case: tuple[ToldRun, Problem], found: dict[str, Any], why: str
) -> None:
    report = made(case, {**found, "pairs": {c: [0, 1] for c in ("example", "estimate", "truth")}})
    link = view_of(report, report.checks[0])
    assert link.places == () and why in link.instead
    assert f"no link: {link.instead}" in without_scripts(to_html(report))


def test_steps_and_subgroups_link_to_each_stage_and_each_column(case: tuple[ToldRun, Problem]) -> None:
    linked = {b.kind: b.link for b in pages(made(case, with_steps=True), ()) if isinstance(b, Figure)}
    assert [name for name, _ in linked["steps"].places] == list(STAGES)
    assert all(parse_qs(address.partition("?")[2])["stage"] == [name] for name, address in linked["steps"].places)
    [(name, address)] = linked["heat"].places
    assert name == "label" and parse_qs(address.partition("?")[2])["by"] == ["true label"]
    some = {b.kind: b.link for b in pages(made(case, examples=[1, 2, 3, 4]), ()) if isinstance(b, Figure)}
    assert "groups of all examples" in some["heat"].instead


def test_another_run_is_linked_where_both_were_judged_on_the_same(case: tuple[ToldRun, Problem]) -> None:
    def link(other: ToldRun) -> Any:
        blocks = pages(made(case, against=(other, theirs)), ())
        return next(b.link for b in blocks if isinstance(b, Figure) and b.title == "This run and the other")

    other, theirs = make(("first", "extra"))
    [(_, address)] = link(other).places
    assert parse_qs(address.partition("?")[2])["other"] == [other.digest[:12]]
    assert "on the same examples" in link(make(("first", "extra"), n=N + 1)[0]).instead


def test_a_performance_of_ones_own_is_not_linked(case: tuple[ToldRun, Problem]) -> None:
    run = case[0]
    own = dataclasses.replace(log_likelihood(run.evaluation.x, run.evaluation.y)[:4], name="log-likelihood")
    report = made(case, performance=own)
    assert not report.selection.named and not any(line.startswith("aa report my") for line in report.reproduce)
    assert "does not know this performance" in view(report, "explore").instead
    assert "there is no command for this report" in without_scripts(to_html(report))


# ---- what picked the examples ----------------------------------------------------------------------------------------


def test_every_figure_names_the_filters_or_the_subgroup(case: tuple[ToldRun, Problem]) -> None:
    saved = Picks(query={"slice": ("0123456789ab",)}, subgroup="mine <b>", definition={"labels": ("0", "2")})
    for picks, words in (
        (Picks(query={"labels": ("0", "2"), "wrong": ("1",)}), "picked by labels=0, labels=2, wrong=1"),
        (saved, "picked by slice=0123456789ab"),
        (None, "rows 1-4"),
    ):
        report = made(case, examples=[1, 2, 3, 4], with_steps=True, picks=picks)
        figures = [b for b in pages(report, ()) if isinstance(b, Figure)][1:]
        assert len(figures) >= 3 and all(words in f.evidence for f in figures)
        [(_, address)] = view(report, "explore").places
        picked = {"examples": ["1-4"]} if picks is None else {k: list(v) for k, v in picks.query.items()}
        assert picked.items() <= parse_qs(address.partition("?")[2]).items()
    page = without_scripts(to_html(made(case, examples=[1, 2, 3, 4], picks=saved)))
    assert "saved as “mine &lt;b&gt;”: labels=0, labels=2" in page


# ---- each retraining by its own words --------------------------------------------------------------------------------


def test_a_retraining_says_what_it_was_computed_from_itself(case: tuple[ToldRun, Problem]) -> None:
    source = {
        "method": "midpoint",
        "curvature": "none",
        "readout": "displaced",
        "code": "0.0.7",
        "evaluation": "e" * 64,
    }
    machine = {"dtype": "float32", "device": "cuda", "torch": "9.9"}
    found = {
        **asked(Counterfactual.skip("first"), examples=[1, 2, 5]),
        "provenance": {**source, **machine},
        "performance": "margin",
        "reliability": {"words": "Trust nothing here. Because."},
    }
    report = made(case, found, whatif("last", -0.1, status="cancelled"))
    [scatter] = [b for b in pages(report, ()) if isinstance(b, Figure) and b.kind == "scatter"]
    for part in ("evaluation eeeeeeeeeeee, n = 12 (rows 1-2,5)", "margin, midpoint/none/displaced, freeze",
                 "float32 on cuda, code 0.0.7, torch 9.9"):  # fmt: skip
        assert part in scatter.evidence
    assert report.selection.evaluation[:12] not in scatter.evidence
    assert "Said before it: Trust nothing here." in scatter.words
    page = without_scripts(to_html(report))
    assert "midpoint/none/displaced, evaluation eeeeeeeeeeee, code 0.0.7" in page
    assert "midpoint,none,displaced,0.0.7" in to_csv(report)["checks.csv"]


# ---- the commands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (Counterfactual.skip("first", "last"), "--skip first --skip last --semantics freeze"),
        (Counterfactual(("first",), 0.5), "--skip first --semantics freeze --scale 0.5"),
        (Counterfactual.skip_steps(1, *LAST), "--steps 1 --steps 6:9 --semantics freeze"),
        (Counterfactual.without_examples(3, 7, 8), "--without-example 3,7-8"),
        (Counterfactual.change("last", steps=[1], lr="0.5x"), "--change last:lr=0.5x --steps 1"),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_every_retraining_has_its_command(case: tuple[ToldRun, Problem], what: Counterfactual, line: str) -> None:
    how = "--performance log-likelihood --examples 1-3 --method boundary --curvature ggn --readout link"
    report = made(case, asked(what, examples=[1, 2, 3]))
    assert f"aa whatif 'a run' {line} {how}" in report.reproduce
    assert any(isinstance(b, Commands) and b.lines == report.reproduce for b in pages(report, ()))


def test_numbers_are_written_as_ranges() -> None:
    assert ranges([7, 1, 2, 3, 3]) == "1-3,7" and ranges([]) == ""
