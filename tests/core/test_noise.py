"""The noise floor: small where training contracts, large where it is chaotic, and the same each time it is asked."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import aa_core as aa
from aa_core.errors import RequestError
from aa_core.noise import noise_floor
from tests import zoo
from tests.core.cases import Case, make_case, queries, squares

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


@pytest.mark.parametrize("request_", [{"relative": 0.0}, {"relative": float("nan")}, {"repeats": 0}])
def test_a_request_without_sense_is_refused(request_: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="expected a positive size"):
        noise_floor(contracting().run, contracting().problem, GAMMA, **request_)  # type: ignore[arg-type]
