"""Verdicts: what is earned, what is said, and that the limits are the ones that were measured."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch

import aa_core as aa
from aa_core.confidence.agreement import Agreement
from aa_core.confidence.calibrate import SWEEPS
from aa_core.confidence.calibration import Scores
from aa_core.confidence.reliability import Reliability
from aa_core.confidence.verdict import (
    GROWTH_LIMITS,
    LADDER,
    MOVED_LIMITS,
    SPREAD_LIMITS,
    STEPS_TRIED,
    TRIED,
    Verdict,
    earned,
    judge_growth,
    judge_readouts,
)
from aa_core.effects.embedding import READOUTS
from aa_core.plain import to_json
from benchmarks import reliability_fit, reliability_page
from tests import zoo
from tests.core.cases import make_case, memory_cache, queries, recorded, vector

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ("boundary", "exact", "linear")


@cache
def measured() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "reliability.json").read_text())


def scores(**figures: float | None) -> Scores:
    known: dict[str, Any] = {"n": 60, "pearson": 1.0, "spearman": 1.0, "sign": 1.0, "slope": 1.0, "relative_error": 0.0}
    return Scores(**{**known, **figures})


# ---- what is earned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "stages", "trust"),
    [
        ({}, {}, "size"),
        ({"pearson": 0.95}, {"relative_error": 0.2}, "size"),
        ({"pearson": 0.94}, {}, "rank"),
        ({}, {"relative_error": 0.21}, "rank"),
        ({}, {"relative_error": None}, "rank"),
        ({"pearson": 0.89}, {}, "sign"),
        ({"sign": 0.89}, {}, "sign"),
        ({"pearson": None}, {}, "sign"),
        ({}, {"sign": 5 / 6}, "nothing"),
        ({}, {"sign": None}, "nothing"),
    ],
)
def test_what_is_earned(pairs: dict[str, float], stages: dict[str, float], trust: str) -> None:
    assert earned(scores(**pairs), scores(**stages)) == trust


def test_undefined_agreement_earns_nothing() -> None:
    undefined = Agreement(0, *[math.nan] * 5)
    assert earned(undefined, undefined) == "nothing"


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_a_growing_spread_never_raises_the_trust() -> None:
    for estimator in SPREAD_LIMITS:
        spreads = (0.0, 0.01, 0.1, 0.3, 1.0, 3.0, math.inf)
        said = [LADDER.index(judge_readouts(estimator, s, 1.0, None).trust) for s in spreads]
        assert said == sorted(said) and said[-1] == LADDER.index("nothing")


@pytest.mark.parametrize("figure", [math.inf, math.nan])
def test_a_figure_that_overflowed_allows_nothing(figure: float) -> None:
    assert judge_readouts(DEFAULT, figure, 1.0, 0.01).trust == "nothing" == judge_growth(figure).trust


def test_a_stage_that_moved_the_model_far_lowers_the_trust() -> None:
    said = [judge_readouts(DEFAULT, 0.01, 1.0, moved) for moved in (0.01, 0.35, 0.9, math.inf, math.nan)]
    assert [v.trust for v in said] == ["size", "sign", "nothing", "nothing", "nothing"]
    assert "moved the model far, by 90 %" in said[2].words and "readouts lie" in said[0].words


def test_how_far_a_stage_moved_the_model_is_measured_from_its_states() -> None:
    case = recorded("mlp", "momentum")
    found = aa.stage_effects(case.run, case.problem, queries(3), cache=memory_cache()).reliability
    states = [vector(case.run.states[k].state.params) for k in range(case.run.steps + 1)]
    longest = max(float((states[s.stop] - states[s.start]).norm()) for s in case.run.stages)
    assert found.moved == pytest.approx(longest / float(states[-1].norm()), rel=1e-9)
    additive = aa.stage_effects(case.run, case.problem, queries(3), method="additive", cache=memory_cache())
    assert additive.reliability.moved is None


def test_readouts_that_disagree_in_sign_allow_nothing() -> None:
    verdict = judge_readouts(DEFAULT, 0.01, 5 / 6, 0.01)
    assert verdict.trust == "nothing" and "17 % of the stages" in verdict.words and "Do not trust" in verdict.words


def test_an_estimator_that_was_never_right_is_never_trusted() -> None:
    assert judge_readouts(("boundary", "unheard of", "linear"), 0.01, 1.0, 0.01).trust == "nothing"


def test_only_trusted_sizes_are_no_warning() -> None:
    openings = {trust: Verdict(trust, "Because").words.partition(":")[0] for trust in LADDER}
    assert [trust for trust, opening in openings.items() if opening == "No warning sign"] == ["size"]


@cache
def exploding() -> aa.Attribution:
    stages = (("a", 40), ("b", 40), ("c", 40))
    case = make_case(
        lambda: zoo.mlp(torch.nn.Tanh),
        lambda p: torch.optim.SGD(p, lr=2.0, momentum=0.9),
        steps=120,
        stages=stages,
        every=60,
    )
    return aa.stage_effects(case.run, case.problem, queries(6), cache=memory_cache())


def test_an_exploding_run_is_not_trusted_in_anything() -> None:
    found = exploding().reliability
    assert found.growth > 1e3
    assert found.verdict.trust == "nothing" and "Do not trust this estimate" in found.words


def test_a_gentle_run_is_trusted_in_size() -> None:
    case = make_case(zoo.mlp, lambda p: torch.optim.SGD(p, lr=0.001))
    found = aa.stage_effects(case.run, case.problem, queries(6), cache=memory_cache()).reliability
    assert found.verdict.trust == "size" and found.words.startswith("No warning sign")


def test_the_verdict_follows_the_figures_of_a_selection() -> None:
    case = make_case(zoo.mlp, lambda p: torch.optim.SGD(p, lr=0.001))
    found = aa.stage_effects(case.run, case.problem, queries(6), cache=memory_cache()).reliability
    assert dataclasses.replace(found, signs_agree=0.5).verdict.trust == "nothing"
    assert dataclasses.replace(found, readout_spread=50.0).verdict.trust == "nothing"


def test_single_steps_are_judged_by_growth() -> None:
    case = recorded("mlp", "sgd")
    found = aa.step_effects(case.run, case.problem, queries(3).mean()).reliability
    assert found.estimator is None and found.verdict == judge_growth(found.growth)


def test_the_verdict_is_part_of_the_plain_values() -> None:
    plain = exploding().reliability.to_dict()
    assert plain["verdict"]["trust"] == "nothing" and plain["words"] == exploding().reliability.words
    assert json.loads(to_json(plain))["estimator"] == list(DEFAULT)


def test_figures_alone_are_enough_for_a_verdict() -> None:
    assert Reliability(1.0, 0.1, 0.0, 0.01, 1.0, (), DEFAULT).verdict.trust == "size"
    assert Reliability(math.nan, 0.1, 0.0, None, None).verdict.trust == "nothing"


# ---- what was measured -----------------------------------------------------------------------------------------------


def test_the_limits_are_those_fitted_on_one_half_of_the_grid() -> None:
    assert reliability_fit.fit_spread(measured()["runs"]) == SPREAD_LIMITS
    assert reliability_fit.fit_moved(measured()["runs"], SPREAD_LIMITS) == MOVED_LIMITS
    assert reliability_fit.fit_growth(measured()["runs"]) == GROWTH_LIMITS


def test_the_trials_are_those_of_the_other_half() -> None:
    runs = measured()["runs"]
    assert reliability_fit.by_sweep(runs, reliability_page.judge) == TRIED
    steps = reliability_fit.steps_said_and_earned(runs, reliability_fit.HELD_OUT, lambda g: judge_growth(g).trust)
    assert reliability_fit.tried(steps) == STEPS_TRIED
    fitted, tried = ({_setting(r) for r in runs if r["seed"] == seed} for seed in (0, 1))
    assert fitted == tried and len(fitted) * 2 == len(runs)


def test_every_estimator_has_limits_that_rise() -> None:
    assert set(SPREAD_LIMITS) == {(*sweep, readout) for sweep, readout in product(SWEEPS, READOUTS)}
    assert all(a <= b for limits in SPREAD_LIMITS.values() for a, b in pairwise(limits))


def test_the_page_is_that_of_the_figures() -> None:
    assert (ROOT / "docs" / "reliability.md").read_text() == reliability_page.page(measured())


def test_the_verdict_is_nothing_where_propagation_explodes() -> None:
    runs = [r for r in measured()["runs"] if r["growth"]["exact"] is None or r["growth"]["exact"] > 1e3]
    assert len(runs) >= 4
    for seed in (reliability_fit.FITTED, reliability_fit.HELD_OUT):
        cases = [c for c in reliability_fit.cases(runs, seed) if c.estimator[1] == "exact"]
        assert cases and all(reliability_page.judge(case) == "nothing" for case in cases)


def test_fitting_finds_the_limit_that_separates() -> None:
    known = [(0.1, "size"), (0.2, "size"), (0.3, "rank"), (0.4, "sign"), (0.5, "nothing")]
    assert reliability_fit.fit(known) == (0.2, 0.3, 0.4)  # type: ignore[arg-type]
    assert reliability_fit.fit([(0.1, "nothing"), (0.2, "nothing")]) == (0.0, 0.0, 0.0)


def test_a_false_trust_costs_more_than_a_false_alarm() -> None:
    assert reliability_fit.fit([(0.1, "nothing"), (0.2, "size")]) == (0.0, 0.0, 0.0)
    assert reliability_fit.fit([(0.1, "nothing"), (0.2, "size"), (0.3, "size"), (0.4, "size")])[0] == 0.4


def test_readouts_that_agree_by_construction_are_no_reason_to_trust() -> None:
    never = next(name for name, limits in SPREAD_LIMITS.items() if limits[0] == 0)
    assert judge_readouts(never, 0.0, 1.0, 0.0).trust != "size"


def _setting(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[name] for name in ("optimizer", "lr", "momentum", "activation", "steps"))
