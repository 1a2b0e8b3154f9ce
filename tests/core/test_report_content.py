"""What a report says: all that was found, and no more than its evidence shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from aa_core.effects.attribution import Attribution, stage_effects, step_effects
from aa_core.errors import RequestError
from aa_core.performance import log_likelihood
from aa_core.reporting import pdf
from aa_core.reporting.blocks import Figure
from aa_core.reporting.bootstrap import FLOOR, bootstrap_interval
from aa_core.reporting.glossary import power_of_ten
from aa_core.reporting.html import to_html
from aa_core.reporting.model import Report
from aa_core.reporting.pages import pages
from aa_core.reporting.report import Context, build_report, report_from
from aa_core.reporting.tables import to_frames
from tests.core.report_case import HOSTILE, SCRIPT, STEPS, N, ToldRun, make, whatif
from tests.core.test_report_harmless import without_scripts


@pytest.fixture(scope="module")
def report() -> Report:
    run, problem = make()
    return build_report(run, problem, context=Context(whatifs=[whatif(SCRIPT, 0.1)]))


def test_the_table_holds_the_engines_effects(report: Report) -> None:
    run, problem = make()
    gamma = log_likelihood(run.evaluation.x, run.evaluation.y)
    stages, steps = stage_effects(run, problem, gamma), step_effects(run, problem, gamma.mean())
    means = stages.effects.mean(1)
    assert [r.mean for r in report.stages] == pytest.approx(means.tolist(), rel=1e-9)
    assert report.steps.effect == pytest.approx(steps.effects[:, 0].tolist(), rel=1e-9)
    assert to_frames(report)["examples"].shape == (N, 1 + len(HOSTILE))
    assert [r.steps for r in report.stages] == [STEPS] * len(HOSTILE)


def test_the_gradient_norm_of_every_step_is_in_record_table_and_pages(report: Report) -> None:
    norm = [10.0**-k for k in range(STEPS * len(HOSTILE) - 1)]
    assert report.run.log.grad_norm == pytest.approx((*norm, None)), "what is not finite is left out, as of the loss"
    table = to_frames(report)["training"]
    assert table["grad_norm"].tolist()[:-1] == pytest.approx(norm) and table["grad_norm"].isna().tolist()[-1]
    assert "Stages, training loss, learning rate and gradient norm, 12 steps." in to_html(report)
    (curve,) = [c for c in pdf.DRAWN["timeline"](timeline(report))["rows"] if c["words"].startswith("gradient norm")]
    assert curve["words"] == "gradient norm, logarithmic" and curve["ends"] == {"low": "1e−10", "high": "1"}
    assert curve["at"][:-1] == pytest.approx([1 - k / 10 for k in range(11)]) and curve["at"][-1] is None


def timeline(report: Report) -> Mapping[str, Any]:
    return next(b for b in pages(report, []) if isinstance(b, Figure) and b.kind == "timeline").data


def test_every_table_of_effects_says_unit_and_n(report: Report) -> None:
    frames = to_frames(report)
    assert set(frames["stages"]["unit"]) == {"nats"} and set(frames["stages"]["n"]) == {N}
    assert set(frames["steps"]["unit"]) == {"nats"}


def test_bootstrap_interval_holds_the_mean_and_shrinks_with_n() -> None:
    values = torch.randn(2, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    (low, _), (high, _) = bootstrap_interval(values)
    assert low < float(values[0].mean()) < high
    assert high - low == pytest.approx(2 * 1.96 / 4000**0.5, rel=0.1)
    (low100, _), (high100, _) = bootstrap_interval(values[:, :100])
    assert 4 < (high100 - low100) / (high - low) < 9
    assert bootstrap_interval(values) == bootstrap_interval(values), "a fixed seed"


def test_no_interval_from_few_examples() -> None:
    assert bootstrap_interval(torch.ones(2, FLOOR - 1, dtype=torch.float64)) == ([None, None], [None, None])


@pytest.fixture(scope="module")
def both() -> tuple[ToldRun, Attribution]:
    """A run, and effects of which "first" helped most and "last" hurt most."""
    run, problem = make(("first", "middle", "last"))
    effects = stage_effects(run, problem, log_likelihood(run.evaluation.x, run.evaluation.y))
    chosen = torch.tensor([0.2, -0.01, -0.3], dtype=torch.float64)[:, None].expand(3, N).clone()
    return run, dataclasses.replace(effects, effects=chosen)


@pytest.mark.parametrize(
    ("best", "worst", "status"),
    [
        ({}, {}, "confirmed"),
        ({}, None, "partly"),
        (None, None, "estimate"),
        ({"mean_truth": -0.1}, {}, "refuted"),
        ({"n": N - 1}, None, "estimate"),
        ({"semantics": "zero_gradient"}, None, "estimate"),
        ({"performance": "margin"}, None, "estimate"),
        ({"unit": "probability"}, None, "estimate"),
        ({"provenance": {"evaluation": "other examples"}}, None, "estimate"),
        ({"mean_truth": None, "status": "cancelled"}, None, "estimate"),
    ],
)
def test_status_claims_no_more_than_the_retrainings_show(
    both: tuple[ToldRun, Attribution], best: dict | None, worst: dict | None, status: str
) -> None:
    found = [] if best is None else [whatif("first", 0.1, **best)]
    found += [] if worst is None else [whatif("last", -0.1, **worst)]
    report = report_from(*both, context=Context(whatifs=found))
    assert report.answer.lines[0].startswith("“first” helped most: its estimated effect on log-likelihood is +0.200")
    assert report.answer.lines[1].startswith("“last” hurt most: its estimated effect on log-likelihood is −0.300")
    assert report.answer.status == status
    assert len(report.checks) == len(found), "all retrainings are listed, whatever they say"
    assert ("No stage was retrained" in report.answer.lines[2]) == (status == "estimate")


def test_an_interval_that_holds_zero_is_said_to(both: tuple[ToldRun, Attribution]) -> None:
    run, effects = both
    spread = torch.linspace(-1, 1.01, N, dtype=torch.float64)
    report = report_from(run, dataclasses.replace(effects, effects=torch.stack([spread, -spread, -spread])))
    assert all("not distinguishable from no effect" in line for line in report.answer.lines[:2])


def test_all_zero_effects_are_answered_plainly(both: tuple[ToldRun, Attribution]) -> None:
    run, effects = both
    report = report_from(run, dataclasses.replace(effects, effects=torch.zeros(3, N, dtype=torch.float64)))
    assert report.answer.lines[:2] == ("No stage helped on average.", "No stage hurt on average.")
    assert to_html(report)


def test_effects_of_another_run_are_refused(both: tuple[ToldRun, Attribution]) -> None:
    with pytest.raises(RequestError, match="the report is about run"):
        report_from(make(("other",))[0], both[1])


def test_steps_that_contradict_their_stage_are_a_limitation(both: tuple[ToldRun, Attribution]) -> None:
    run, effects = both
    _, problem = make(("first", "middle", "last"))
    steps = step_effects(run, problem, log_likelihood(run.evaluation.x, run.evaluation.y).mean())
    against = torch.tensor([-1.0] * STEPS + [-1.0] * STEPS + [-1.0] * STEPS, dtype=torch.float64)[:, None]
    report = report_from(run, effects, steps=dataclasses.replace(steps, effects=against))
    assert [w for w in report.limitations if w.startswith("The steps of “first”") and "disagree" in w]
    assert not [w for w in report.limitations if w.startswith("The steps of “last”")]


def test_a_retraining_of_another_run_is_refused() -> None:
    run, problem = make(("one",))
    with pytest.raises(RequestError, match="is of run"):
        build_report(
            run, problem, context=Context(whatifs=[whatif("one", 0.1, provenance={"run": "e" * 64})]), with_steps=False
        )


def test_a_report_without_steps_checks_or_intervals_leaves_them_out() -> None:
    run, problem = make(("only",), n=FLOOR - 1)
    page = without_scripts(to_html(build_report(run, problem, with_steps=False)))
    for absent in ("Step by step", "<h3>Calibration", "Whiskers", "95 % interval<"):
        assert absent not in page
    assert "No retraining of this run is stored in this workspace." in page
    assert "the stage “only”" in page


def test_selected_examples_and_stages_are_named() -> None:
    run, problem = make(("one", "two"))
    report = build_report(
        run, problem, examples=[3, 1], stages=["two"], with_steps=False, context=Context(date="1 May 2031")
    )
    assert report.selection.examples == (3, 1) and report.selection.n == 2
    assert [r.stage for r in report.stages] == ["two"]
    assert any("--stage two" in line and "--examples 3,1" in line for line in report.reproduce)
    assert "1 May 2031" in to_html(report)


def test_a_performance_of_your_own_may_be_reported() -> None:
    run, problem = make(("one", "two"))
    gamma = log_likelihood(run.evaluation.x, run.evaluation.y)
    report = build_report(run, problem, performance=gamma[:4].mean("few") - gamma[4:].mean("rest"))
    assert report.stages[0].low is None and report.examples is None
    assert to_html(report)


def test_progress_runs_from_start_to_end_once() -> None:
    run, problem = make(("one", "two"))
    seen: list[float] = []
    build_report(run, problem, progress=lambda done, total: seen.append(done / total))
    assert seen == sorted(seen) and seen[-1] == 1


def spans(drawn: Mapping[str, Any]) -> list[list[tuple[float, float]]]:
    return [[(p["start"], p["stop"]) for p in row["pieces"]] for row in drawn["bars"]]


def test_the_parts_of_a_printed_stage_lie_beside_each_other_and_add_up() -> None:
    effect = [[1.0, 0.0, -2.0, -1.0], [0.5, 0.0, 0.25, None]]
    drawn = pdf.DRAWN["split"]({"stage": ["a", "b"], "part": ["w", "x", "y", "z"], "effect": effect})
    assert [k["name"] for k in drawn["key"]] == ["w", "y", "z"]  # x is zero in all of them
    assert spans(drawn) == [[(0, 1), (0, -2), (-2, -3)], [(0, 0.5), (0.5, 0.75), (0, 0)]]
    assert [row["label"] for row in drawn["bars"]] == ["−2.00", "+0.75"]


def test_a_printed_path_goes_from_its_start_to_its_end() -> None:
    drawn = pdf.DRAWN["path"]({"stage": ["a", "b"], "share": [1.0, -0.5], "start": -2.0})
    assert spans(drawn) == [[(0, -2)], [(-2, -1)], [(-1, -1.5)], [(0, -1.5)]]
    assert [row["name"] for row in drawn["bars"]] == ["At the start", "a", "b", "At the end"]


def test_powers_of_ten_have_a_glyph_in_the_pdf() -> None:
    powers = " ".join(power_of_ten(power) for power in range(-10, 11))
    assert pdf._shown(powers) == powers and "⁻¹⁰" in powers
    assert pdf._shown("中") == "\\u4e2d", "which has none"
