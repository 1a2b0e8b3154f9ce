"""The noise floor: small where training contracts, large where it is chaotic, and the same each time it is asked."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import aa_core as aa
from aa_core.confidence.noise import noise_floor
from aa_core.counterfactuals.reordered import reordered, shuffled
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import RequestError
from tests import zoo
from tests.core.cases import Case, equal, make_case, queries, squares

GAMMA = queries(6)


@cache
def contracting() -> Case:
    return make_case(zoo.linear, lambda p: torch.optim.SGD(p, lr=0.3), squares)


@cache
def chaotic() -> Case:
    stages = (("a", 60), ("b", 60), ("c", 60))
    optimizer = lambda p: torch.optim.SGD(p, lr=2.0, momentum=0.9)  # noqa: E731
    return make_case(lambda: zoo.mlp(torch.nn.Tanh), optimizer, steps=180, stages=stages, every=60)


def test_a_contracting_training_forgets_where_it_began() -> None:
    found = noise_floor(contracting().run, contracting().problem, GAMMA)
    assert 0 < found.growth < 1
    assert 0 < found.mean_effect <= float(found.effects.max()) < 1e-5
    assert 0 < found.mean_recorded < 1e-5


def test_a_chaotic_training_does_not_know_its_own_effects() -> None:
    case = chaotic()
    found = noise_floor(case.run, case.problem, GAMMA)
    assert found.growth > 1e4 and found.mean_effect > 1e-2


def test_in_an_affine_training_the_noise_is_proportional_to_the_move() -> None:
    case = contracting()
    linear = aa.performance(*zoo.examples(4, 9), lambda f, y: f[:, 0], name="logit", unit="nats")
    small, large = (noise_floor(case.run, case.problem, linear, relative=r) for r in (1e-6, 1e-4))
    assert torch.allclose(large.effects, 100 * small.effects, rtol=1e-3)
    assert large.growth == pytest.approx(small.growth, rel=1e-3)


def test_the_same_question_gets_the_same_answer() -> None:
    case = contracting()
    first, again = (noise_floor(case.run, case.problem, GAMMA, repeats=2) for _ in range(2))
    torch.testing.assert_close(first.effects, again.effects, rtol=1e-6, atol=0)
    assert first.mean_effect == pytest.approx(again.mean_effect, rel=1e-6)


def test_more_repeats_never_lower_the_floor() -> None:
    case = contracting()
    few, many = (noise_floor(case.run, case.problem, GAMMA, repeats=n) for n in (1, 4))
    assert bool((many.effects >= few.effects * (1 - 1e-6)).all()) and many.mean_effect >= few.mean_effect * (1 - 1e-6)


def test_without_a_whole_training_nothing_of_the_effect_is_left_to_move_but_the_start() -> None:
    case = contracting()
    found = noise_floor(case.run, case.problem, GAMMA, what=aa.Counterfactual.skip("c"))
    assert found.counterfactual == "skip c" and found.mean_effect < 1e-5


def test_it_says_what_it_found() -> None:
    found = noise_floor(contracting().run, contracting().problem, GAMMA)
    assert "skip a" in found.words and "noise" in found.words and "nats" in found.words
    assert list(found.to_frame().columns) == ["example", "recorded", "effect", "unit"] and len(found.to_frame()) == 6
    assert found.to_dict()["mean_effect"] == found.mean_effect and found.to_dict()["words"] == found.words


def test_effects_below_the_floor_are_marked() -> None:
    case, cache = contracting(), EmbeddingCache(None)
    effects = aa.stage_effects(case.run, case.problem, GAMMA, readout="displaced", cache=cache)
    assert effects.within_noise() is None and effects.mean_within_noise() is None
    floor = noise_floor(case.run, case.problem, GAMMA)
    marked, mean = effects.within_noise(floor.effects), effects.mean_within_noise(floor.mean_effect)
    assert marked is not None and mean is not None and not bool(marked.any()) and not bool(mean.any())
    size = effects.effects.abs()
    middling = effects.within_noise(float(size.median()))
    assert middling is not None and torch.equal(middling, size <= size.median()) and 0 < int(middling.sum()) < 18


def test_other_orders_of_the_batches_are_real_trainings() -> None:
    case, order = contracting(), shuffled(contracting().run, torch.Generator().manual_seed(5))
    again = reordered(case.run, order)
    found = aa.retrain(again, case.problem, aa.Counterfactual.skip("a"))
    at = case.run.states[0]
    for k in range(4, 12):
        data = case.run.inputs[k]._replace(batches=case.run.inputs[order[k]].batches)
        at = case.training().step(at, data)
    assert equal(found.params, at.state.params)
    assert sorted(order) == list(range(12)) and sorted(order[:4]) == list(range(4)) and order != tuple(range(12))


def test_other_orders_are_told_from_noise() -> None:
    case = contracting()
    plain, asked = (noise_floor(case.run, case.problem, GAMMA, repeats=1, orders=n) for n in (0, 2))
    assert plain.effects_by_order is None and plain.to_dict()["mean_effect_by_order"] is None
    assert asked.mean_effect_by_order is not None and asked.effects_by_order is not None
    assert asked.mean_effect_by_order > 100 * asked.mean_effect > 0
    assert float(asked.effects_by_order.max()) >= asked.mean_effect_by_order
    torch.testing.assert_close(asked.effects, plain.effects, rtol=1e-6, atol=0)
    assert "2 other orders" in asked.words and "orders" not in plain.words


def test_progress_of_all_trainings_ends_at_the_end() -> None:
    case, seen = contracting(), list[tuple[int, int]]()
    noise_floor(case.run, case.problem, GAMMA, repeats=1, orders=2, progress=lambda *at: seen.append(at))
    assert seen == sorted(seen) and seen[-1] == (2 * 4 * 12, 2 * 4 * 12)


@pytest.mark.parametrize("request_", [{"relative": 0.0}, {"relative": float("nan")}, {"repeats": 0}, {"orders": -1}])
def test_a_request_without_sense_is_refused(request_: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="expected a positive size"):
        noise_floor(contracting().run, contracting().problem, GAMMA, **request_)  # type: ignore[arg-type]
