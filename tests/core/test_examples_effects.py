"""Effects of training examples: against finite differences of, and leaving out in, training that really took place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.estimate import predict
from aa_core.effects.example_effects import MIXED, example_effects, example_effects_by_step, ranked
from aa_core.effects.splits import collapse
from aa_core.errors import RequestError
from tests import zoo
from tests.core.cases import assert_close, assert_same_params
from tests.core.course import STEPS, Course, N, batches, data, ids_of, queries, take, taken

OPTIMIZERS = ("sgd", "nesterov", "dampened", "maximize", "adam-decay", "adamw")
CASES = [(o, "mlp") for o in OPTIMIZERS] + [(o, m) for o in ("momentum", "adamw") for m in ("batchnorm", "lstm")]


def without(rows: Tensor | list[int], weight: float = 0.0) -> Any:
    """The weights of a training in which some examples count less."""
    return lambda _, used: torch.ones(len(used)).double().masked_fill(torch.isin(used, torch.as_tensor(rows)), weight)


def example(name: str) -> int:
    """The number that the course gave an example, from its id."""
    return int(name.removeprefix("e"))


def numbers(found: aa.Attribution) -> list[int]:
    return [example(name) for name in found.units["id"]]


def row_of(course: Course, number: int) -> int:
    """The row that the run gave an example."""
    return next(row for row in range(N) if course.run.example_ids(torch.tensor([row])) == [f"e{number}"])


# ---- the derivative in the weight of an example's loss ---------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "model"), CASES)
def test_an_effect_is_the_derivative_of_real_training_in_the_examples_weight(optimizer: str, model: str) -> None:
    course = taken(optimizer, model)
    found = example_effects(course.run, course.problem, queries())
    expected = [course.derivative(lambda _, rows, i=number: rows == i) for number in numbers(found)]
    assert_close(found.effects, torch.stack(expected), 1e-5)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_an_effect_in_one_step_is_the_derivative_in_that_step_alone(optimizer: str) -> None:
    course = taken(optimizer)
    found = example_effects_by_step(course.run, course.problem, queries(), steps=[1, 6])
    expected = [
        course.derivative(lambda k, rows, s=step, i=number: (rows == i) & (k == s))
        for step, number in zip(found.units["step"], numbers(found), strict=True)
    ]
    assert_close(found.effects, torch.stack(expected), 1e-5)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_where_clipping_binds_it_is_part_of_the_derivative(optimizer: str) -> None:
    course = take(zoo.mlp(), zoo.OPTIMIZERS[optimizer], clip=0.3)
    found = example_effects(course.run, course.problem, queries())
    expected = [course.derivative(lambda _, rows, i=number: rows == i) for number in numbers(found)]
    assert_close(found.effects, torch.stack(expected), 1e-5)


def test_examples_keep_their_random_numbers() -> None:
    model = nn.Sequential(nn.Linear(zoo.FEATURES, 7), nn.Dropout(0.5), nn.Linear(7, zoo.CLASSES))
    course = take(model, zoo.OPTIMIZERS["momentum"])
    found = example_effects_by_step(course.run, course.problem, queries())
    steps = aa.step_effects(course.run, course.problem, queries(), semantics="zero_gradient")
    assert_close(collapse(found, "step").effects, steps.effects)
    assert MIXED not in found.reliability.assumptions


def test_a_model_with_one_output_an_example_splits_too() -> None:
    squares = lambda f, y: (f - y).square()  # noqa: E731
    model = nn.Sequential(nn.Linear(zoo.FEATURES, 1), nn.Flatten(0))
    course = take(model, zoo.OPTIMIZERS["momentum"], lambda f, y: squares(f, y).mean(), squares)
    x, _ = zoo.examples(3, seed=9)
    gamma = aa.performance(x, torch.zeros(3), lambda f, y: -f.square(), name="smallness", unit="1")
    found = example_effects(course.run, course.problem, gamma)

    def values(weights: Any) -> Tensor:
        return -course.trained(weights)(x).square().detach()

    one, h = example(found.units["id"][0]), 1e-5
    expected = (values(without([one], 1 + h)) - values(without([one], 1 - h))) / (2 * h)
    assert_close(found.effects[0], expected, 1e-6)


# ---- sums ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "dampened"])
def test_with_sgd_the_examples_of_a_step_add_up_to_what_its_data_did(optimizer: str) -> None:
    course = taken(optimizer)
    found = example_effects_by_step(course.run, course.problem, queries())
    steps = aa.step_effects(course.run, course.problem, queries(), semantics="zero_gradient")
    assert_close(collapse(found, "step").effects, steps.effects)


@pytest.mark.parametrize("optimizer", ["adam-decay", "adamw"])
def test_with_adam_they_add_up_to_the_derivative_in_the_weight_of_all_data(optimizer: str) -> None:
    course = taken(optimizer)
    found = example_effects_by_step(course.run, course.problem, queries(), steps=[5])
    assert_close(found.effects.sum(0), course.derivative(lambda k, rows: torch.full(rows.shape, k == 5)), 1e-5)


@pytest.mark.parametrize("asked", [{}, {"stages": ["b"]}, {"steps": [2, 3, 7]}, {"stages": ["a"], "steps": [6]}])
def test_the_sum_over_appearances_is_the_sum_of_the_steps(asked: dict[str, Any]) -> None:
    course = taken("adamw")
    steps = example_effects_by_step(course.run, course.problem, queries(), **asked)
    found = example_effects(course.run, course.problem, queries(), **asked)
    summed = collapse(steps, "row", "id")
    order = np.argsort(summed.units["row"].to_numpy())
    assert_close(found.effects, summed.effects[order])
    assert found.units["row"].tolist() == summed.units["row"].to_numpy()[order].tolist()
    assert found.units["appearances"].tolist() == steps.units.groupby("row").size().tolist()


def test_only_examples_of_the_batch_have_a_row() -> None:
    course = taken("momentum")
    units = example_effects_by_step(course.run, course.problem, queries()).units
    for k, found in units.groupby("step"):
        assert found["id"].tolist() == ids_of(torch.cat([rows for rows, _ in batches(int(k))]))
        assert set(found["stage"]) == {"a" if k < STEPS[0] else "b"}
    assert "e11" not in set(example_effects(course.run, course.problem, queries(), stages=["a"]).units["id"])


def test_curvature_and_memory_are_those_of_the_sweep() -> None:
    course, one = taken("momentum"), queries().mean()
    exact = example_effects(course.run, course.problem, one)
    small = example_effects(course.run, course.problem, one, memory=1)
    none = example_effects(course.run, course.problem, one, curvature="none")
    assert_close(small.effects, exact.effects)
    assert not torch.allclose(none.effects, exact.effects, rtol=1e-3)


# ---- batches that do not split ---------------------------------------------------------------------------------------


def test_batch_statistics_are_said_to_stay() -> None:
    said = {
        m: example_effects(taken("momentum", m).run, taken("momentum", m).problem, queries().mean())
        for m in ("mlp", "batchnorm")
    }
    assert MIXED in said["batchnorm"].reliability.assumptions
    assert MIXED not in said["mlp"].reliability.assumptions


def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each example against the others of its batch."""
    return nn.functional.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


def test_a_loss_that_compares_examples_is_refused() -> None:
    course = take(zoo.linear(), zoo.OPTIMIZERS["sgd"], contrastive)
    with pytest.raises(RequestError, match="compares the examples"):
        example_effects(course.run, course.problem, queries())


def test_outputs_that_are_not_one_an_example_are_refused() -> None:
    model = nn.Sequential(nn.Linear(zoo.FEATURES, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(0, 1))
    course = take(model, zoo.OPTIMIZERS["sgd"], lambda f, y: zoo.cross_entropy(f, y.repeat_interleave(2)))
    gamma = aa.performance(*zoo.examples(3, seed=9), lambda f, y: f[::2, 0], name="first", unit="1")
    with pytest.raises(RequestError, match="gives 10 outputs for 5 examples"):
        example_effects(course.run, course.problem, gamma)


# ---- leaving examples out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["nesterov", "adam-decay", "adamw"])
@pytest.mark.parametrize("scale", [0.0, 0.4])
def test_retraining_without_examples_is_training_with_their_losses_weighted(optimizer: str, scale: float) -> None:
    course, chosen = taken(optimizer), [0, 4, 11]
    rows = tuple(row_of(course, i) for i in chosen)
    what = aa.Counterfactual(scale=scale, semantics="zero_gradient", examples=rows)
    found = aa.retrain(course.run, course.problem, what)
    expected = dict(course.trained(without(chosen, scale)).named_parameters())
    assert_same_params(found.params, {n: p.detach() for n, p in expected.items()}, 1e-12)


def test_retraining_starts_where_the_example_first_appeared() -> None:
    course = taken("momentum")
    found = aa.retrain(course.run, course.problem, aa.Counterfactual.without_examples(row_of(course, 11)))
    assert found.steps_replayed == 1


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_with_sgd_the_forward_estimate_is_the_sum_of_the_examples_effects(optimizer: str) -> None:
    course, rows = taken(optimizer), (1, 5, 6)
    found = predict(course.run, course.problem, aa.Counterfactual.without_examples(*rows), queries())
    each = example_effects(course.run, course.problem, queries())
    assert_close(found, each.effects[list(rows)].sum(0))


def agreement_with_leaving_out(course: Course, rows: pd.DataFrame, estimate: Tensor) -> aa.Agreement:
    recorded = course.gamma(without([]))
    truth = torch.stack([recorded - course.gamma(without([example(name)])) for name in rows["id"]])
    return aa.agreement(estimate.numpy(), truth.numpy())


def test_effects_agree_with_leaving_each_example_out() -> None:
    course = taken("momentum")
    found = example_effects(course.run, course.problem, queries())
    fit = agreement_with_leaving_out(course, found.units, found.effects)
    assert fit.pearson > 0.99
    assert 0.9 < fit.slope < 1.1


def test_where_one_example_is_a_large_part_of_adams_batch_a_finite_push_is_nearer_than_the_derivative() -> None:
    course, gamma = taken("adamw"), queries()
    found = example_effects(course.run, course.problem, gamma)
    what = [aa.Counterfactual.without_examples(row) for row in found.units["row"].tolist()]
    pushed = torch.stack([predict(course.run, course.problem, w, gamma) for w in what])
    derivative, push = (agreement_with_leaving_out(course, found.units, e) for e in (found.effects, pushed))
    assert push.pearson > 0.95
    assert push.relative_error < derivative.relative_error / 1.5
    assert derivative.pearson > 0.8


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_of_the_last_step_the_displaced_estimate_is_the_truth(optimizer: str) -> None:
    course, gamma = taken(optimizer), queries()
    what = aa.Counterfactual.without_examples(row_of(course, N - 1))
    found = predict(course.run, course.problem, what, gamma, readout="displaced")
    recorded = aa.final_model(course.run, course.problem).performance(gamma)
    assert_close(found, recorded - aa.retrain(course.run, course.problem, what).performance(gamma))


def test_estimate_and_truth_of_leaving_examples_out_come_side_by_side() -> None:
    course = taken("momentum")
    found = aa.what_if(course.run, course.problem, aa.Counterfactual.without_examples(2, 9), queries())
    assert found.provenance["method"] == "examples"
    assert found.provenance["counterfactual"] == "skip examples 2, 9"
    assert found.agreement.pearson > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": (1,), "steps": (2,), "semantics": "zero_gradient"}, "ask one by one"),
        ({"examples": (1,), "stages": ("a",), "semantics": "zero_gradient"}, "ask one by one"),
        ({"examples": (1,)}, "no update to freeze"),
        ({"examples": (1,), "semantics": "zero_gradient", "scale": 1.0}, "expected 0"),
    ],
)
def test_impossible_questions_about_examples_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        aa.Counterfactual(**arguments)


def test_an_example_that_was_never_used_is_refused() -> None:
    course, what = taken("momentum"), aa.Counterfactual.without_examples(3, N + 5)
    for ask in (
        lambda: aa.retrain(course.run, course.problem, what),
        lambda: predict(course.run, course.problem, what, queries()),
    ):
        with pytest.raises(RequestError, match=f"example {N + 5} was used in no step"):
            ask()


# ---- the table -------------------------------------------------------------------------------------------------------


def test_ranks_go_from_most_helpful_to_most_harmful_for_each_query() -> None:
    course = taken("momentum")
    found = example_effects(course.run, course.problem, queries())
    frame = ranked(found)
    assert list(frame.columns) == ["row", "id", "appearances", "example", "effect", "unit", "rank"]
    assert frame["example"].tolist() == [q for q in range(3) for _ in range(N)]
    for query, of_query in frame.groupby("example"):
        assert of_query["rank"].tolist() == list(range(1, N + 1))
        assert of_query["effect"].is_monotonic_decreasing
        assert of_query["effect"].iloc[0] == float(found.effects[:, int(query)].max())


def test_examples_without_ids_are_named_by_their_row_alone() -> None:
    course = taken("momentum")

    class Nameless:
        def __getattr__(self, name: str) -> Any:
            return getattr(course.run, name)

        def example_ids(self, rows: Tensor) -> None:
            return None

    found = example_effects(Nameless(), course.problem, queries().mean())  # type: ignore[arg-type]
    assert found.units["row"].tolist() == list(range(N))
    assert pd.isna(found.units["id"]).all()
    assert len(data()[0]) == N
