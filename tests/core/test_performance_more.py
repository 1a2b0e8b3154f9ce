"""Performances beyond class labels: closed forms, selections, and what each of them refuses."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.adjoint import final_cotangent
from aa_core.effects.embedding import read
from aa_core.effects.estimate import predict
from aa_core.errors import RequestError
from aa_core.performance import PERFORMANCES, accuracy, confounder_log_likelihood, subgroup, subgroups
from aa_core.scores import (
    binary_log_likelihood,
    negative_loss,
    negative_squared_error,
    sequence_log_likelihood,
    token_log_likelihood,
)
from aa_core.state import Snapshot, State
from tests import zoo
from tests.core.cases import assert_close, memory_cache, recorded


class Moved(nn.Module):
    """Its outputs are its inputs plus one parameter: any outputs can be asked for, and every derivative is a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


PROBLEM = aa.Problem(Moved(), zoo.cross_entropy, device="cpu")
SHIFT = {"shift": torch.zeros((), dtype=torch.float64)}


def values(gamma: aa.Performance) -> Tensor:
    return gamma(PROBLEM, SHIFT, {})


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape: int, below: int = 3) -> Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(1))


# ---- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_negative_loss_is_minus_the_loss_of_each_example_alone(reduction: str) -> None:
    x, y = numbers(7, 3), labels(7)
    gamma = negative_loss(x, y, nn.CrossEntropyLoss(reduction=reduction), unit="nats")
    assert_close(values(gamma), values(aa.log_likelihood(x, y)))
    assert gamma.unit == "nats"


def test_negative_loss_takes_any_loss_of_vectors() -> None:
    x, y = numbers(5, 2), numbers(5, 2, seed=1)
    assert_close(values(negative_loss(x, y, nn.functional.mse_loss)), -(x - y).square().mean(1))


@pytest.mark.parametrize(("outputs", "targets"), [((6,), (6,)), ((6, 1), (6,)), ((6, 4), (6, 4)), ((6, 2, 1), (6, 2))])
def test_squared_error_sums_over_the_components(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    f, y = numbers(*outputs), numbers(*targets, seed=1)
    gamma = negative_squared_error(f, y, unit="m²")
    assert_close(values(gamma), -(f.reshape(6, -1) - y.reshape(6, -1)).square().sum(1))
    assert (gamma.unit, len(gamma)) == ("m²", 6)


@pytest.mark.parametrize("shape", [(6, 3), (6, 1, 1), (6, 6)])
def test_outputs_are_never_broadcast_to_targets(shape: tuple[int, ...]) -> None:
    for gamma in (negative_squared_error, lambda f, y, unit: binary_log_likelihood(f, labels(6, below=2))):
        with pytest.raises(RequestError, match="expected the same shape"):
            values(gamma(numbers(*shape), numbers(6), unit="1"))


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.bool])
def test_binary_likelihood_is_that_of_a_sigmoid(shape: tuple[int, ...], kind: torch.dtype) -> None:
    f, y = 3 * numbers(*shape), labels(8, below=2)
    p = 1 / (1 + (-f.reshape(8)).exp())
    assert_close(values(binary_log_likelihood(f, y.to(kind))), torch.where(y == 1, p, 1 - p).log())


def test_binary_likelihood_stays_finite_and_exact_far_out() -> None:
    found = values(binary_log_likelihood(torch.tensor([-800.0, 800.0], dtype=torch.float64), [1, 1]))
    assert found.tolist() == [-800.0, 0.0]


def test_binary_labels_are_checked() -> None:
    with pytest.raises(RequestError, match="other than 0 and 1"):
        binary_log_likelihood(numbers(3), [0, 1, 2])


@pytest.mark.parametrize("ignore", [-100, 0])
def test_sequences_add_up_their_tokens_but_not_the_ignored_ones(ignore: int) -> None:
    f, y = numbers(4, 5, 3), labels(4, 5)
    y[0, 3:] = ignore
    y[2, 0] = ignore
    p = f.exp() / f.exp().sum(2, keepdim=True)
    counted = {(i, j): math.log(p[i, j, y[i, j]]) for i in range(4) for j in range(5) if int(y[i, j]) != ignore}
    tokens, whole = (kind(f, y, ignore_index=ignore) for kind in (token_log_likelihood, sequence_log_likelihood))
    assert list(tokens.labels) == list(counted)
    assert_close(values(tokens), torch.tensor(list(counted.values()), dtype=torch.float64))
    sums = [sum(v for (i, _), v in counted.items() if i == row) for row in range(4)]
    assert_close(values(whole), torch.tensor(sums, dtype=torch.float64))
    assert_close(values(tokens.mean()), values(tokens).mean()[None])


def test_gaps_and_selections_of_sequences() -> None:
    f, y = numbers(4, 5, 3), labels(4, 5)
    whole = sequence_log_likelihood(f, y)
    each = values(whole)
    assert_close(values(whole[[3, 1]]), each[[3, 1]])
    gap = token_log_likelihood(f[:2], y[:2]).mean("a") - token_log_likelihood(f[2:], y[2:]).mean("b")
    assert_close(values(gap), (each[:2].sum() / 10 - each[2:].sum() / 10)[None])


def test_tokens_cannot_be_selected_as_if_they_were_examples() -> None:
    with pytest.raises(RequestError, match="more than one value an example"):
        token_log_likelihood(numbers(4, 5, 3), labels(4, 5))[0]


@pytest.mark.parametrize("shape", [(4, 3), (4, 6, 3), (20, 3)])
def test_outputs_that_are_no_sequences_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"expected outputs \[sequences, tokens, vocabulary\]"):
        values(sequence_log_likelihood(numbers(*shape)[:4], labels(4, 5)))


def test_sequences_in_which_nothing_counts_are_refused() -> None:
    with pytest.raises(RequestError, match="nothing to judge"):
        token_log_likelihood(numbers(2, 3, 3), torch.full((2, 3), -100))


def test_a_confounder_is_judged_as_if_it_were_the_label() -> None:
    x, confounder = numbers(5, 3), labels(5)
    gamma = confounder_log_likelihood(x, confounder)
    assert_close(values(gamma), values(aa.log_likelihood(x, confounder)))
    assert gamma.name == "confounder log-likelihood"


def test_accuracy_counts_the_largest_logit() -> None:
    x = torch.tensor([[1.0, 2.0, 0.0], [5.0, -1.0, 3.0]], dtype=torch.float64)
    assert values(accuracy(x, [1, 2])).tolist() == [1.0, 0.0]
    assert values(accuracy(x, [1, 2]).mean()).tolist() == [0.5]


def test_a_performance_of_your_own_is_one_function() -> None:
    x, y = numbers(6, 3), labels(6)
    gamma = aa.performance(x, y, lambda f, t: f.gather(1, t[:, None])[:, 0], name="logit", unit="logit")
    assert_close(values(gamma), x[torch.arange(6), y])


# ---- each of them can be read through an embedding and pulled back ---------------------------------------------------

SMOOTH = {
    "negative loss": lambda: negative_loss(numbers(6, 3), labels(6), zoo.cross_entropy),
    "squared error": lambda: negative_squared_error(numbers(6, 2), numbers(6, 2, seed=1), unit="1"),
    "binary": lambda: binary_log_likelihood(numbers(6), labels(6, below=2)),
    "sequence": lambda: sequence_log_likelihood(numbers(6, 4, 3), labels(6, 4)),
    "token": lambda: token_log_likelihood(numbers(3, 2, 3), labels(3, 2).index_fill(1, torch.tensor([1]), -100)),
    "confounder": lambda: confounder_log_likelihood(numbers(6, 3), labels(6)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_forward_and_backward_derivatives_are_the_finite_difference(name: str) -> None:
    scaled = aa.Problem(Scaled(), zoo.cross_entropy, device="cpu")
    at, gamma, h = {"scale": torch.tensor(1.3, dtype=torch.float64)}, SMOOTH[name](), 1e-6
    ahead, behind = (gamma(scaled, {"scale": at["scale"] + s}, {}) for s in (h, -h))
    expected = (ahead - behind) / (2 * h)
    directions = [{"scale": torch.tensor(size, dtype=torch.float64)} for size in (1.0, -0.5)]
    readings = read(directions, gamma, scaled, at, {})
    assert_close(readings["linear"], torch.stack([expected, -0.5 * expected]), 1e-7)
    state = State(at, {}, torch.zeros((), dtype=torch.float64))
    pulled = final_cotangent(training(scaled), gamma, Snapshot(0, state, {}))
    assert_close(pulled.params["scale"], expected, 1e-7)


class Scaled(nn.Module):
    """Its outputs are its inputs times one parameter, which a softmax does see."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def training(problem: aa.Problem) -> Any:
    class Training:
        pass

    found = Training()
    found.problem = problem  # type: ignore[attr-defined]
    return found


# ---- accuracy is refused where it would be differentiated ------------------------------------------------------------


def test_accuracy_is_for_retraining_only() -> None:
    case, gamma = recorded("mlp", "momentum"), accuracy(*zoo.examples(30, seed=9))
    what = aa.Counterfactual.skip("b")
    for ask in (
        lambda: aa.stage_effects(case.run, case.problem, gamma.mean(), cache=memory_cache()),
        lambda: aa.step_effects(case.run, case.problem, gamma.mean()),
        lambda: predict(case.run, case.problem, what, gamma, cache=memory_cache()),
    ):
        with pytest.raises(RequestError, match=r"accuracy changes in steps.*retrain"):
            ask()
    found = aa.retrain(case.run, case.problem, what).performance(gamma)
    assert set(found.tolist()) <= {0.0, 1.0}


def test_the_performances_offered_by_name_are_for_class_labels_and_smooth() -> None:
    x, y = numbers(5, 3), labels(5)
    assert list(PERFORMANCES) == ["log-likelihood", "probability", "margin"]
    assert all(make(x, y).differentiable and len(make(x, y)) == 5 for make in PERFORMANCES.values())


# ---- subgroups -------------------------------------------------------------------------------------------------------

TABLE = pd.DataFrame({"sex": ["f", "m", "f", None, "m", "f"], "age": [1, 2, 2, 2, 1, 1]})


def people() -> aa.Performance:
    return aa.log_likelihood(numbers(6, 3), labels(6))


def test_a_subgroup_is_the_mean_over_its_examples() -> None:
    each = values(people())
    women = subgroup(people(), TABLE, {"sex": "f"})
    assert women.labels == ("sex = f",)
    assert_close(values(women), each[[0, 2, 5]].mean()[None])
    assert_close(values(subgroup(people(), TABLE, {"sex": "f", "age": 1})), each[[0, 5]].mean()[None])
    assert_close(values(people()[torch.tensor([1, 0, 1, 0, 0, 1]).bool()].mean()), values(women))


def test_a_gap_is_the_difference_of_two_subgroups() -> None:
    gamma = people()
    gap = subgroup(gamma, TABLE, {"sex": "f"}, "women") - subgroup(gamma, TABLE, {"sex": "m"}, "men")
    each = values(gamma)
    assert gap.labels == ("women - men",)
    assert_close(values(gap), (each[[0, 2, 5]].mean() - each[[1, 4]].mean())[None])


def test_all_subgroups_of_a_column_come_in_one_performance_without_missing_values() -> None:
    found, each = subgroups(people(), TABLE, "sex"), values(people())
    assert found.labels == ("f", "m")
    assert_close(values(found), torch.stack([each[[0, 2, 5]].mean(), each[[1, 4]].mean()]))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: subgroup(people(), TABLE, {"height": 1}), "no metadata column 'height'; there are sex, age"),
        (lambda: subgroup(people(), TABLE, {"sex": "x"}), "no example has sex = x"),
        (lambda: subgroup(people()[:3], TABLE, {"sex": "f"}), "6 rows of metadata for 3 values"),
        (lambda: subgroups(people(), TABLE.assign(sex=None), "sex"), "has no value for any example"),
        (lambda: subgroups(people().mean(), TABLE[:1], "sex"), "already a mean"),
    ],
)
def test_subgroups_that_do_not_exist_are_refused(ask: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ask()


def test_subgroup_effects_are_means_of_the_examples_effects() -> None:
    case, gamma = recorded("mlp", "momentum"), aa.log_likelihood(*zoo.examples(6, seed=9))
    each = aa.stage_effects(case.run, case.problem, gamma, cache=memory_cache()).effects
    found = aa.stage_effects(case.run, case.problem, subgroups(gamma, TABLE, "sex"), cache=memory_cache()).effects
    assert_close(found, torch.stack([each[:, [0, 2, 5]].mean(1), each[:, [1, 4]].mean(1)], 1))
