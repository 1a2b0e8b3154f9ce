"""What retraining said of all examples reaches effects on some of them, steps, and parts, and is never outdone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

import aa_core as aa
from aa_core.confidence.borne_out import with_calibration
from aa_core.confidence.calibration import BROUGHT, Calibration, find_calibration
from aa_core.confidence.reliability import Reliability
from aa_core.confidence.verdict import judge_calibrated, judge_growth
from aa_core.effects.attribution import Attribution
from aa_core.effects.example_effects import example_effects_by_step
from aa_core.registry import load_problem
from aa_core.run_performance import run_performance
from tests.dashboard.conftest import SAMPLES

SOME = [3, 20, 41]
LAST = ["round 7"]


@cache
def opened() -> tuple[aa.Trajectory, aa.Problem]:
    run = aa.open_run(SAMPLES / "digits-mislabelled" / "run")
    return run, load_problem(run.header.problem.name, run.header.problem.config)


@cache
def stored() -> Calibration:
    run, _ = opened()
    found = find_calibration(run, run_performance(run, "log-likelihood").digest)
    assert found is not None
    return found


def told(found: Attribution) -> Reliability:
    return with_calibration(found, opened()[0], "log-likelihood").reliability


@cache
def last_steps() -> Attribution:
    run, problem = opened()
    return aa.step_effects(run, problem, run_performance(run, "log-likelihood", SOME).mean(), stages=LAST)


def perfect() -> Calibration:
    """As if retraining had borne every estimator out."""
    best = {"pearson": 1.0, "sign": 1.0, "relative_error": 0.0}
    figures = [
        e.model_copy(update={kind: getattr(e, kind).model_copy(update=best) for kind in ("pairs", "stages")})
        for e in stored().estimators
    ]
    return stored().model_copy(update={"estimators": tuple(figures)})


def test_steps_are_trusted_no_further_than_their_sums_were_borne_out() -> None:
    alone, known = last_steps().reliability, told(last_steps())
    assert alone.verdict == judge_growth(alone.growth) and alone.verdict.trust == "rank"
    sums = stored().find("additive", "exact", "linear")
    assert sums is not None and known.verdict.trust == judge_calibrated(sums).trust != "size"
    among = f" on all {stored().values:,} examples, of which these are 3: trust"
    assert known.words.startswith(f"Added up over each stage and {BROUGHT},{among}")
    assert known.noise_of_mean is None


def test_wrong_signs_of_means_are_counted() -> None:
    figures = stored().estimators[0]
    said = {1.0: "Over 2,7", 6 / 7: "1 of the 7 stages' means has the", 5 / 7: "2 of the 7 stages' means have the"}
    for sign, words in said.items():
        stages = figures.stages.model_copy(update={"sign": sign, "n": 7})
        assert judge_calibrated(figures.model_copy(update={"stages": stages})).reason.startswith(words)


def test_steps_whose_growth_warns_are_not_vouched_for_by_their_sums() -> None:
    known = replace(told(last_steps()), calibration=perfect())
    assert known.verdict.trust == "rank" and not known.verdict.verified
    exploding = replace(known, growth=1e3)
    assert exploding.verdict == judge_growth(1e3) and exploding.verdict.trust == "nothing"


def test_training_examples_are_trusted_no_further_than_the_steps_they_are_part_of() -> None:
    run, problem = opened()
    gamma = run_performance(run, "log-likelihood", SOME).mean()
    found = example_effects_by_step(run, problem, gamma, steps=[run.steps - 1])
    assert told(found).verdict == told(last_steps()).verdict


def test_stages_on_some_examples_are_judged_by_what_was_said_of_all() -> None:
    run, problem = opened()
    found = aa.stage_effects(run, problem, run_performance(run, "log-likelihood", SOME), stages=LAST)
    assert found.reliability.calibration is None
    known = told(found)
    assert known.calibration == stored()
    assert known.words.startswith(
        f"{BROUGHT.capitalize()}, on all {stored().values:,} examples, of which these are 3: trust"
    )
    assert known.noise_of_mean == stored().noise_of_value
    doubtful = "on these 3 the readouts disagree in sign for 50 % of the stages"
    assert doubtful in replace(known, signs_agree=0.5).words and "disagree" not in replace(known, signs_agree=1.0).words


def test_on_all_examples_it_says_all_and_the_floor_is_that_of_the_mean() -> None:
    run, problem = opened()
    found = aa.stage_effects(run, problem, run_performance(run, "log-likelihood"), stages=LAST)
    known = told(found)
    assert known.words.startswith(f"{BROUGHT.capitalize()}, on all {stored().values:,} examples: trust")
    assert known.noise_of_mean == stored().noise_of_mean


def test_another_performance_has_no_part_in_it() -> None:
    run, problem = opened()
    found = aa.stage_effects(run, problem, run_performance(run, "margin", SOME), stages=LAST)
    assert with_calibration(found, run, "margin").reliability.calibration is None


@pytest.mark.parametrize(("growth", "words"), [(1.0, "did not grow in training"), (1.44, "grew up to 1.4 times")])
def test_growth_is_said_only_where_something_grew(growth: float, words: str) -> None:
    assert words in judge_growth(growth).words
