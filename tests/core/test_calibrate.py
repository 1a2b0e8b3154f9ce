"""Calibration: every estimator against really training without each stage, stored and found by digest."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import aa_core as aa
from aa_core.confidence.calibrate import SWEEPS, calibrate
from aa_core.confidence.calibration import BESIDE_A_RUN, Calibration, find_calibration, store_calibration
from aa_core.effects.embedding import READOUTS
from aa_core.errors import RequestError
from aa_core.files import sealed
from tests import zoo
from tests.core.cases import STAGES, Case, log_likelihood, make_case, memory_cache, queries, squares

GAMMA = queries(6)


def named(case: Case, digest: str) -> Case:
    """Under a digest of its own: runs of the zoo share one, and a calibration is found by it."""
    return dataclasses.replace(case, run=dataclasses.replace(case.run, digest=digest))


@cache
def affine() -> Case:
    return named(make_case(zoo.linear, zoo.OPTIMIZERS["momentum"], squares), "affine")


@cache
def curved() -> Case:
    return named(make_case(zoo.mlp, zoo.OPTIMIZERS["momentum"]), "curved")


@cache
def calibrated(curvy: bool) -> Calibration:
    case = curved() if curvy else affine()
    return calibrate(case.run, case.problem, GAMMA, cache=memory_cache())


def test_the_truth_is_what_retraining_gives() -> None:
    case, found = curved(), calibrated(True)
    recorded = aa.final_model(case.run, case.problem).performance(GAMMA)
    for stage, mean in zip(found.stages, found.truth, strict=True):
        without = aa.retrain(case.run, case.problem, aa.Counterfactual.skip(stage)).performance(GAMMA)
        assert mean == pytest.approx(float((recorded - without).mean()), rel=1e-12)
    assert found.stages == STAGES and found.values == 6


def test_every_estimator_has_its_figures_and_the_path_share_stands_apart() -> None:
    found = calibrated(True)
    assert len(found.estimators) == len(SWEEPS) * len(READOUTS) == 21
    assert found.path_share not in found.estimators and found.find("path share", "", "") is None
    frame = found.to_frame()
    assert len(frame) == 22 and frame["method"].iloc[-1] == "path share"
    assert {"pairs_pearson", "pairs_slope", "stages_relative_error", "examples_sign"} <= set(frame.columns)


def test_where_training_is_affine_the_displaced_boundary_is_the_truth() -> None:
    found = calibrated(False)
    for method, curvature in (("boundary", "exact"), ("boundary", "ggn"), ("midpoint", "exact")):  # all the same here
        figures = found.find(method, curvature, "displaced")
        assert figures is not None and figures.pairs.relative_error == pytest.approx(0, abs=1e-9)
        assert figures.pairs.slope == pytest.approx(1) and figures.pairs.sign == 1
        assert figures.means == pytest.approx(found.truth)
    assert found.default is not None and found.default.readout in ("displaced", "link")  # outputs are linear, too


def test_the_last_stage_is_exact_by_the_displaced_readout_in_any_training() -> None:
    found = calibrated(True)
    figures = found.find("boundary", "exact", "displaced")
    assert figures is not None and figures.means[-1] == pytest.approx(found.truth[-1], rel=1e-9)


def test_the_default_has_the_smallest_error_over_all_pairs() -> None:
    found = calibrated(True)
    assert found.default is not None
    errors = [e.pairs.relative_error for e in found.estimators]
    assert found.default.pairs.relative_error == min(e for e in errors if e is not None)


def test_the_sign_of_a_mean_that_is_next_to_nothing_does_not_choose_a_poor_estimator() -> None:
    found = with_errors(calibrated(True), {"boundary, ggn, displaced": 0.2, "additive, exact, link": 0.6})
    signs = {"boundary, ggn, displaced": 5 / 6, "additive, exact, link": 1.0}
    figures = (
        e.model_copy(update={"stages": e.stages.model_copy(update={"sign": signs.get(e.name, 0.5)})})
        for e in found.estimators
    )
    chosen = found.model_copy(update={"estimators": tuple(figures)}).default
    assert chosen is not None and chosen.name == "boundary, ggn, displaced"


def test_path_shares_add_up_to_what_training_gained() -> None:
    case, found = curved(), calibrated(True)
    values = log_likelihood(case, 6)
    first, last = (values(case.run.states[k].state.params).mean() for k in (0, -1))
    assert sum(m for m in found.path_share.means if m is not None) == pytest.approx(float(last - first))


def test_effects_within_the_noise_are_left_out() -> None:
    case = affine()
    blind = aa.performance(GAMMA.inputs, GAMMA.targets, lambda f, y: f[:, 0] * 0.0, name="blind", unit="nats")
    found = calibrate(case.run, case.problem, blind, cache=memory_cache())
    assert found.below_noise == 18 and found.default is None
    assert all(e.pairs.n == 0 and e.pairs.pearson is None for e in found.estimators)


def test_an_estimate_that_overflowed_has_no_figures_and_is_not_chosen() -> None:
    stages = (("a", 300), ("b", 300), ("c", 20))
    chaotic = make_case(
        lambda: zoo.mlp(torch.nn.Tanh),
        lambda p: torch.optim.SGD(p, lr=6.0, momentum=0.9),
        steps=620,
        stages=stages,
        every=310,
        dtype=torch.float32,
    )
    case, gamma = named(chaotic, "exploding"), queries(6, torch.float32)
    found = calibrate(case.run, case.problem, gamma, cache=memory_cache())
    lost = [e for e in found.estimators if any(m is None for m in e.means)]
    assert found.find("additive", "exact", "linear") in lost and found.find("boundary", "none", "linear") not in lost
    assert all(e.pairs.relative_error is None for e in lost)
    assert found.default not in lost


def test_progress_never_goes_back_and_ends_at_the_end() -> None:
    case, seen = affine(), list[tuple[int, int]]()
    calibrate(case.run, case.problem, GAMMA, cache=memory_cache(), progress=lambda *at: seen.append(at))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def test_a_run_without_stages_is_refused() -> None:
    case = affine()
    with pytest.raises(RequestError, match="no stages"):
        calibrate(dataclasses.replace(case.run, stages=()), case.problem, GAMMA)


# ---- storage ---------------------------------------------------------------------------------------------------------


def test_a_calibration_is_found_again_as_it_was() -> None:
    case, found = affine(), calibrated(False)
    store_calibration(found)
    assert find_calibration(case.run, GAMMA.digest) == found
    assert find_calibration(case.run, None) == found
    assert Calibration.model_validate_json(found.model_dump_json()) == found


def test_it_is_plain_values_with_the_rule_of_its_default() -> None:
    found = calibrated(True).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert found["default"] and "smallest error" in found["rule"]


def test_a_calibration_of_another_run_or_question_is_not_used() -> None:
    case, found = affine(), calibrated(False)
    store_calibration(found)
    other = dataclasses.replace(case.run, digest=found.run + " changed")
    assert find_calibration(other, GAMMA.digest) is None and find_calibration(other, None) is None
    assert find_calibration(case.run, queries(4).digest) is None
    assert find_calibration(case.run, GAMMA.digest, "zero_gradient") is None


def test_a_file_that_claims_another_digest_than_its_name_is_not_used() -> None:
    case, found = affine(), calibrated(False)
    path = store_calibration(found)
    path.write_bytes(sealed(found.model_copy(update={"run": "f" * 64}).to_bytes()))
    assert find_calibration(case.run, GAMMA.digest) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10_000, b'{"run": NaN}', b"\xff"])
def test_a_damaged_file_counts_as_none(content: bytes) -> None:
    case, found = affine(), calibrated(False)
    for damaged in (content, sealed(content), found.to_bytes()):
        store_calibration(found).write_bytes(damaged)
        assert find_calibration(case.run, GAMMA.digest) is None
    store_calibration(found)
    assert find_calibration(case.run, GAMMA.digest) == found


def test_a_shipped_run_brings_its_calibration_beside_it(tmp_path: Path) -> None:
    shipped = calibrated(False).model_copy(update={"run": "shipped"})
    (tmp_path / BESIDE_A_RUN).write_bytes(shipped.to_bytes())
    here = SimpleNamespace(digest="shipped", path=tmp_path / "run")
    found = find_calibration(here, GAMMA.digest)  # type: ignore[arg-type]
    assert found is not None and found.to_bytes() == shipped.to_bytes() and not found.here
    changed = SimpleNamespace(digest="shipped, then changed", path=tmp_path / "run")
    assert find_calibration(changed, GAMMA.digest) is None  # type: ignore[arg-type]


def forged(run: str) -> bytes:
    """As if every estimator had been borne out, and that here, which no file can say."""
    best = {"pearson": 1.0, "sign": 1.0, "relative_error": 0.0}
    figures = [
        e.model_copy(update={kind: getattr(e, kind).model_copy(update=best) for kind in ("pairs", "stages")})
        for e in calibrated(False).estimators
    ]
    claimed = calibrated(False).model_copy(update={"run": run, "estimators": tuple(figures)})
    return json.dumps({**claimed.model_dump(mode="json"), "here": True}).encode()


def test_a_forged_calibration_is_told_as_a_claim_until_one_is_measured_here(tmp_path: Path) -> None:
    case = named(affine(), "brought")
    (tmp_path / BESIDE_A_RUN).write_bytes(forged("brought"))
    run: Any = SimpleNamespace(digest="brought", path=tmp_path / "run")
    claim = find_calibration(run, GAMMA.digest)
    assert claim is not None and not claim.here
    judged = aa.stage_effects(case.run, case.problem, GAMMA, cache=memory_cache()).reliability
    brought = dataclasses.replace(judged, calibration=claim, judged=6)
    assert brought.verdict.trust == "size" and not brought.verdict.verified
    assert brought.words.startswith(
        "Calibrated by whoever made or passed on this run, not measured here, on all 6 examples: trust"
    )
    assert brought.words.endswith("Calibrate here to know.")
    store_calibration(calibrated(False).model_copy(update={"run": "brought"}))
    own = find_calibration(run, GAMMA.digest)
    assert own is not None and own.here and own.estimators == calibrated(False).estimators


def test_a_calibration_of_another_problem_is_not_used() -> None:
    case, found = affine(), calibrated(False)
    store_calibration(found)
    assert find_calibration(case.run, GAMMA.digest, problem=found.problem) == found
    assert find_calibration(case.run, GAMMA.digest, problem=curved().problem.fingerprint) is None


def test_it_says_on_which_machine_it_was_measured() -> None:
    assert calibrated(False).where.endswith(f"cpu, torch {torch.__version__}")
    older = calibrated(False).model_dump(mode="json", exclude={"environment"})
    assert Calibration.model_validate(older, strict=False).where == "an unnamed machine"


def test_effects_carry_the_calibration_of_their_question() -> None:
    case, found = affine(), calibrated(False)
    store_calibration(found)
    ask = {"readout": "displaced", "cache": memory_cache()}
    judged = aa.stage_effects(case.run, case.problem, GAMMA, **ask).reliability
    assert judged.calibration == found and judged.verdict.verified and judged.verdict.trust == "size"
    assert (
        judged.words.startswith("Checked by retraining") and judged.to_dict()["calibration"]["readout"] == "displaced"
    )
    assert aa.stage_effects(case.run, case.problem, queries(4), **ask).reliability.calibration is None


def with_errors(found: Calibration, errors: dict[str, float]) -> Calibration:
    """The same with these errors over all pairs by name; every other estimator is worse."""
    figures = (
        e.model_copy(update={"pairs": e.pairs.model_copy(update={"relative_error": errors.get(e.name, 9.0)})})
        for e in found.estimators
    )
    return found.model_copy(update={"estimators": tuple(figures)})


def test_effects_are_estimated_as_the_calibration_prefers_unless_something_is_chosen() -> None:
    case, found = affine(), calibrated(False)
    store_calibration(with_errors(found, {"additive, ggn, link": 0.1}))

    def estimator(semantics: str = "freeze", **chosen: str) -> tuple[str, str, str] | None:
        asked: dict[str, Any] = {"semantics": semantics, **chosen}
        return aa.stage_effects(case.run, case.problem, GAMMA, cache=memory_cache(), **asked).reliability.estimator

    assert estimator() == ("additive", "ggn", "link")
    assert estimator(readout="displaced") == ("boundary", "exact", "displaced")
    assert estimator(curvature="none") == ("boundary", "none", "linear")
    assert estimator(semantics="zero_gradient") == ("boundary", "exact", "linear")
    store_calibration(found)


def test_the_mean_of_all_examples_is_calibrated_as_they_are() -> None:
    case, found = affine(), calibrated(False)
    store_calibration(found.model_copy(update={"noise_of_mean": 1.0, "noise_of_value": 0.0}))
    mean = aa.stage_effects(case.run, case.problem, GAMMA.mean(), cache=memory_cache())
    assert mean.reliability.verdict.verified and mean.reliability.estimator is not None
    assert bool(mean.within_noise().all()), "a mean has the noise of a mean"  # type: ignore[union-attr]
    for other in (GAMMA[:5].mean(), GAMMA.mean() - GAMMA.mean()):
        assert aa.stage_effects(case.run, case.problem, other, cache=memory_cache()).reliability.calibration is None
    store_calibration(found)


@pytest.mark.parametrize("best", ["boundary, ggn, displaced", "midpoint, exact, link"])
def test_counterfactuals_are_estimated_as_the_calibration_prefers(best: str) -> None:
    case, found = affine(), calibrated(False)
    store_calibration(with_errors(found, {"additive, exact, link": 0.0, best: 0.1}))
    what = aa.Counterfactual.skip("a")
    assert aa.estimate(case.run, case.problem, what, GAMMA).reliability.estimator == tuple(best.split(", "))
    chosen = aa.estimate(case.run, case.problem, what, GAMMA, readout="link").reliability.estimator
    assert chosen == ("boundary", "exact", "link")
    store_calibration(found)


def test_effects_know_the_noise_floor_of_their_calibration() -> None:
    case, found = affine(), calibrated(False)
    loud = found.model_copy(update={"noise_of_value": 0.06, "noise_of_mean": 0.06})
    store_calibration(loud)
    effects = aa.stage_effects(case.run, case.problem, GAMMA, cache=memory_cache())
    marked, means = effects.within_noise(), effects.mean_within_noise()
    assert marked is not None and torch.equal(marked, effects.effects.abs() <= 0.06) and bool(marked.any())
    assert means is not None and torch.equal(means, effects.effects.mean(1).abs() <= 0.06)
    store_calibration(found)


def test_a_retrained_effect_within_the_noise_is_said_to_be_so() -> None:
    case = named(curved(), "within noise")
    what, gamma = aa.Counterfactual.skip("b"), queries(6)
    assert aa.what_if(case.run, case.problem, what, gamma).within_noise is None
    found = aa.calibrate(case.run, case.problem, gamma)
    quiet = aa.what_if(case.run, case.problem, what, gamma)
    size = abs(float(quiet.truth.mean()))
    assert quiet.noise == found.noise_of_mean < size and quiet.within_noise is False
    store_calibration(found.model_copy(update={"noise_of_mean": 2 * size, "noise_of_value": 0.0}))
    assert aa.what_if(case.run, case.problem, what, gamma).within_noise is True
    some = aa.what_if(case.run, case.problem, what, gamma[[0, 1]])
    assert some.noise is None, "another question"
