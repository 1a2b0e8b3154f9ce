"""gamma: closed forms, selections and means of it, and the products that read an embedding through the outputs."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import aa_core as aa
from aa_core.effects.adjoint import final_cotangent
from aa_core.effects.embedding import push_outputs
from aa_core.errors import RequestError
from aa_core.performance import PERFORMANCES
from aa_core.state import Params
from tests import zoo
from tests.core.cases import assert_close, recorded

N = 9


class Identity(nn.Module):
    """Its outputs are its inputs, moved by the one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(zoo.CLASSES, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


PROBLEM = aa.Problem(Identity(), zoo.cross_entropy, device="cpu")
SHIFT: Params = {"shift": torch.zeros(zoo.CLASSES, dtype=torch.float64)}


def logits(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(n, zoo.CLASSES, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, zoo.CLASSES, (n,), generator=generator)


def value(gamma: aa.Performance) -> Tensor:
    return gamma(PROBLEM, SHIFT, {})


# ---- closed forms ----------------------------------------------------------------------------------------------------


def closed_forms() -> dict[str, Tensor]:
    x, y = logits()
    p = (x.exp() / x.exp().sum(1, keepdim=True))[torch.arange(N), y]
    return {"log-likelihood": p.log(), "probability": p, "margin": (p / (1 - p)).log()}


@pytest.mark.parametrize("name", PERFORMANCES)
def test_a_performance_is_its_closed_form(name: str) -> None:
    gamma = PERFORMANCES[name](*logits())
    assert_close(value(gamma), closed_forms()[name], 1e-13)
    assert gamma.name == name and len(gamma) == N and gamma.labels == tuple(range(N))


@pytest.mark.parametrize("name", PERFORMANCES)
def test_its_gradient_is_that_of_the_closed_form(name: str) -> None:
    x, y = logits()
    shift = torch.zeros(zoo.CLASSES, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(PERFORMANCES[name](x, y)(PROBLEM, {"shift": shift}, {}).sum(), shift)
    p = x.softmax(1)
    slope = F.one_hot(y, zoo.CLASSES) - p  # d log p_y / d f
    own = p.gather(1, y[:, None])
    factor = {"log-likelihood": torch.ones_like(own), "probability": own, "margin": 1 / (1 - own)}[name]
    assert_close(found, (factor * slope).sum(0), 1e-12)


@pytest.mark.parametrize("name", PERFORMANCES)
def test_it_is_finite_and_rises_with_the_logit_of_the_label_however_far_the_logits_are(name: str) -> None:
    x = torch.tensor([[800.0, 0, 0, 0], [0, 800.0, 0, 0], [0, -800.0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    found = value(PERFORMANCES[name](x, torch.zeros(4, dtype=torch.int64)))
    assert bool(torch.isfinite(found).all())
    assert found[0] > found[2] > found[3] > found[1]
    if name == "margin":
        assert_close(found[:2], torch.tensor([800 - np.log(3), -800.0], dtype=torch.float64), 1e-12)


def test_of_two_classes_the_margin_is_the_difference_of_logits() -> None:
    x, y = logits()
    x, y = x[:, :2], y % 2
    own, other = x.gather(1, y[:, None])[:, 0], x.gather(1, 1 - y[:, None])[:, 0]
    gamma = aa.margin(x, y)
    assert_close(gamma.score(x, y), own - other, 1e-14)


def test_the_likelihood_of_a_confounder_is_that_of_the_label_it_stands_for() -> None:
    x, y = logits()
    assert_close(value(aa.log_likelihood(x, (y + 1) % 4)), x.log_softmax(1)[torch.arange(N), (y + 1) % 4], 1e-13)


def test_labels_may_be_a_list() -> None:
    x, y = logits()
    assert torch.equal(value(aa.log_likelihood(x, y.tolist())), value(aa.log_likelihood(x, y)))


# ---- selections, means, gaps -----------------------------------------------------------------------------------------

SELECTIONS: dict[str, Any] = {
    "one": 3,
    "last": -1,
    "slice": slice(2, 8, 2),
    "list": [5, 0, 5],
    "tuple": (5, 0),
    "range": range(2, 5),
    "rows": torch.tensor([7, 1]),
    "mask": torch.arange(N) % 2 == 0,
    "array": np.array([4, 2]),
    "array mask": np.arange(N) > 6,
}


@pytest.mark.parametrize("kind", SELECTIONS)
def test_a_selection_is_the_same_examples_under_their_own_numbers(kind: str) -> None:
    index = SELECTIONS[kind]
    rows = np.arange(N)[
        [index] if isinstance(index, int) else list(index) if isinstance(index, tuple | range) else index
    ]
    gamma = aa.margin(*logits())
    chosen = gamma[index]
    assert torch.equal(value(chosen), value(gamma)[torch.as_tensor(rows)])
    assert chosen.labels == tuple(rows.tolist())
    assert all(type(label) is int for label in chosen.labels)


def test_a_numpy_integer_selects_one_example() -> None:
    gamma = aa.margin(*logits())
    assert torch.equal(value(gamma[np.int64(3)]), value(gamma[3]))  # type: ignore[index]


def test_a_selection_of_a_selection_keeps_the_numbers() -> None:
    gamma = aa.margin(*logits())
    assert gamma[[6, 2, 4]][1:].labels == (2, 4)
    assert torch.equal(value(gamma[[6, 2, 4]][1:]), value(gamma)[[2, 4]])


def test_an_example_that_does_not_exist_is_an_error() -> None:
    gamma = aa.margin(*logits())
    for index in (N, -N - 1, [0, N]):
        with pytest.raises(IndexError):
            gamma[index]


def test_selecting_nothing_is_refused_as_at_the_start() -> None:
    with pytest.raises(RequestError, match="at least one"):
        aa.margin(*logits())[[]]


def test_a_mean_is_the_mean_and_a_gap_the_difference_of_two() -> None:
    gamma = aa.log_likelihood(*logits())
    each = value(gamma)
    mean, gap = gamma.mean(), gamma[:3].mean("few") - gamma[2:].mean("many")
    assert_close(value(mean), each.mean()[None], 1e-14)
    assert_close(value(gap), (each[:3].mean() - each[2:].mean())[None], 1e-13)
    assert (mean.labels, gap.labels) == (("mean",), ("few - many",))
    assert_close(value(gap.mean()), value(gap), 1e-14)


def test_the_mean_of_several_weighted_values_is_the_mean_of_these() -> None:
    gamma = aa.log_likelihood(*logits())
    weights = torch.rand(3, N, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    several = dataclasses.replace(gamma, labels=("x", "y", "z"), weights=weights)
    assert_close(value(several), weights @ value(gamma), 1e-14)
    assert_close(value(several.mean()), (weights @ value(gamma)).mean()[None], 1e-14)


def test_inputs_may_be_named() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(zoo.CLASSES, dtype=torch.float64))

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left - 2 * right + self.shift

    problem = aa.Problem(Sum(), zoo.cross_entropy, device="cpu")
    (left, y), (right, _) = logits(seed=1), logits(seed=2)
    gamma = aa.log_likelihood({"right": right, "left": left}, y)
    expected = (left - 2 * right).log_softmax(1)[torch.arange(N), y]
    assert_close(gamma(problem, SHIFT, {}), expected, 1e-13)
    assert_close(gamma[[4, 1]](problem, SHIFT, {}), expected[[4, 1]], 1e-13)
    gap = gamma[:3].mean() - gamma[3:].mean()
    assert_close(gap(problem, SHIFT, {}), (expected[:3].mean() - expected[3:].mean())[None], 1e-12)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numel = max(self.numel, made.numel())
        return made


def test_a_mean_needs_no_more_memory_than_its_examples() -> None:
    x, y = logits(300)
    gamma = aa.log_likelihood(x, y)
    with Largest() as seen:
        value(gamma.mean() - gamma[:100].mean())
    assert seen.numel <= 3 * x.numel()


# ---- chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 4, N - 1, N, N + 1])
def test_chunks_give_the_same_as_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gamma = aa.log_likelihood(*logits())
    gap = gamma[:4].mean() - gamma[4:].mean()
    whole = [value(g) for g in (gamma, gamma.mean(), gap)]
    monkeypatch.setattr(sys.modules["aa_core.performance"], "CHUNK", chunk)
    sizes = [len(y) for _, y in gamma.chunks(torch.device("cpu"))]
    assert sum(sizes) == N and max(sizes) <= chunk
    for found, expected in zip((gamma, gamma.mean(), gap), whole, strict=True):
        assert_close(value(found), expected, 1e-14)


# ---- digest ----------------------------------------------------------------------------------------------------------


def changed() -> dict[str, aa.Performance]:
    x, y = logits()
    moved, relabelled = x.clone(), y.clone()
    moved[2, 1] += 1e-9
    relabelled[3] = (y[3] + 1) % 4
    gamma = aa.log_likelihood(x, y)
    return {
        "the same": gamma,
        "an input": aa.log_likelihood(moved, y),
        "a label": aa.log_likelihood(x, relabelled),
        "the dtype": aa.log_likelihood(x.float(), y),
        "the shape": aa.log_likelihood(x.reshape(N, 2, 2), y),
        "the score": aa.margin(x, y),
        "the selection": gamma[1:],
        "the order": gamma[list(range(N))[::-1]],
        "a mean": gamma.mean(),
        "the mean's name": gamma.mean("all"),
        "a gap": gamma[:4].mean("x") - gamma[4:].mean("y"),
        "another gap": gamma[:5].mean("x") - gamma[5:].mean("y"),
        "named inputs": aa.log_likelihood({"left": x, "right": 2 * x}, y),
    }


def test_the_digest_changes_with_whatever_changes() -> None:
    digests = {name: gamma.digest for name, gamma in changed().items()}
    assert len(set(digests.values())) == len(digests), digests
    x, y = logits()
    assert aa.log_likelihood(x.clone(), y.tolist()).digest == digests["the same"]
    assert aa.log_likelihood(x.T.contiguous().T, y).digest == digests["the same"], "strides are no data"


def test_the_digest_tells_which_input_is_which() -> None:
    (a, y), (b, _) = logits(seed=1), logits(seed=2)
    assert aa.log_likelihood({"left": a, "right": b}, y).digest != aa.log_likelihood({"right": a, "left": b}, y).digest


def test_inputs_of_any_dtype_have_a_digest() -> None:
    x, y = logits()
    assert aa.log_likelihood(x.bfloat16(), y).digest != aa.log_likelihood(x.half(), y).digest


# ---- derivatives of it -----------------------------------------------------------------------------------------------


def random_directions(params: Params, count: int = 2) -> Params:
    generator = torch.Generator().manual_seed(4)
    return {n: torch.randn((count, *p.shape), generator=generator, dtype=p.dtype) for n, p in params.items()}


@pytest.mark.parametrize("model", zoo.MODELS)
def test_pushing_through_the_outputs_is_the_dense_jacobian(model: str) -> None:
    case = recorded(model, "momentum")
    params = case.run.states[-1].state.params
    directions, (x, _) = random_directions(params), zoo.examples(5, 9)
    jacobian = torch.func.jacrev(lambda p: case.oracle.outputs(p, x))(params)
    expected = sum(torch.einsum("nc...,r...->rnc", jacobian[n], directions[n]) for n in params)
    outputs, changes = push_outputs(case.problem, params, {}, x, directions)
    assert_close(outputs, case.oracle.outputs(params, x), 1e-13)
    assert_close(changes, expected, 1e-12)  # type: ignore[arg-type]
    assert not outputs.requires_grad and not changes.requires_grad


@pytest.mark.parametrize(
    "message", ["no forward-mode derivative", "Trying to use forward AD with f that does not support it"]
)
@pytest.mark.parametrize("model", zoo.MODELS)
def test_the_reverse_fallback_gives_the_same_push(model: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded(model, "momentum")
    params = case.run.states[-1].state.params
    directions, (x, _) = random_directions(params), zoo.examples(5, 9)
    forward = push_outputs(case.problem, params, {}, x, directions)
    asked = []

    def refuse(*_: Any) -> None:
        asked.append(True)
        raise NotImplementedError(message)

    monkeypatch.setattr("aa_core.effects.embedding.jvp", refuse)
    backward = push_outputs(case.problem, params, {}, x, directions)
    assert asked
    for found, expected in zip(backward, forward, strict=True):
        assert_close(found, expected, 1e-12)
        assert not found.requires_grad


def test_an_error_of_the_model_itself_is_not_mistaken_for_a_missing_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("mlp", "momentum")
    params = case.run.states[-1].state.params
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        push_outputs(case.problem, params, {}, torch.zeros(3, 2, dtype=torch.float64), random_directions(params))


@pytest.mark.parametrize("model", zoo.MODELS)
def test_the_final_cotangent_is_the_gradient_of_every_value(model: str) -> None:
    case = recorded(model, "adam")
    final, (x, y) = case.run.states[-1], zoo.examples(5, 9)
    gamma = aa.margin(x, y)
    found = final_cotangent(case.training(), gamma, final)
    likelihood = lambda p: case.oracle.outputs(p, x).log_softmax(1)[torch.arange(5), y]  # noqa: E731
    margin = lambda p: likelihood(p) - (1 - likelihood(p).exp()).log()  # noqa: E731
    expected = torch.func.jacrev(margin)(final.state.params)
    for name, gradient in expected.items():
        scale = max(float(g.abs().max()) for g in expected.values())
        assert float((found.params[name] - gradient).abs().max()) <= 1e-11 * scale
    rest = [*(t for slot in found.slots.values() for t in slot.values()), found.count]
    assert all(t.shape[0] == 5 and not bool(t.any()) for t in rest)
