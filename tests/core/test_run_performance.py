"""Performances by name: what targets of each kind can be judged by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.errors import RequestError
from aa_core.run_performance import offered, run_performance

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64)
TOKENS = torch.randint(0, 3, (6, 2), generator=GENERATOR)


class Folded(nn.Module):
    """[n, 4] -> [n, 2, 3]: two positions, a vocabulary of three."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 6).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x).reshape(-1, 2, 3)


def judged(y: Tensor, name: str, **more: Any) -> aa.Performance:
    return run_performance(SimpleNamespace(evaluation=aa.Evaluation(X, y)), name, **more)


def values(gamma: aa.Performance, model: nn.Module) -> Tensor:
    problem = aa.Problem(model, nn.functional.cross_entropy, device="cpu")
    return gamma(problem, dict(model.named_parameters()), {}).detach()


def test_a_row_of_tokens_is_judged_as_a_sequence() -> None:
    model = Folded()
    logs = model(X).log_softmax(2).detach()
    expected = torch.stack([logs[:, j].gather(1, TOKENS[:, j : j + 1])[:, 0] for j in (0, 1)]).sum(0)
    assert torch.allclose(values(judged(TOKENS, "log-likelihood"), model), expected, rtol=1e-14)
    chosen = judged(TOKENS, "log-likelihood", examples=[4, 1])
    assert chosen.labels == (4, 1) and torch.allclose(values(chosen, model), expected[[4, 1]], rtol=1e-14)


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_numbers_are_judged_by_their_squared_error(shape: tuple[int, ...]) -> None:
    y = torch.randn(shape, generator=GENERATOR, dtype=torch.float64)
    model = nn.Linear(4, 1 if len(shape) == 1 else 2).double()
    error = (model(X).reshape(shape) - y).square().reshape(6, -1).sum(1)
    assert torch.allclose(values(judged(y, "negative squared error"), model), -error.detach(), rtol=1e-14)


def test_classes_are_judged_by_accuracy_too_which_has_no_derivative() -> None:
    y = torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.int32)
    found = judged(y, "accuracy")
    model = nn.Linear(4, 3).double()
    assert torch.equal(values(found, model), (model(X).argmax(1) == y).double()) and not found.differentiable


@pytest.mark.parametrize(
    ("y", "name", "expected"),
    [
        (TOKENS, "margin", r"expected one of log-likelihood, for targets of shape \[6, 2\] and type int64"),
        (X, "log-likelihood", "expected one of negative squared error, for targets"),
        (
            TOKENS[:, 0],
            "perplexity",
            "expected one of log-likelihood, probability, margin, accuracy, confounder:COLUMN",
        ),
        (TOKENS, "confounder:sex", "expected one of log-likelihood, for"),
    ],
)
def test_what_does_not_fit_the_targets_is_refused_with_what_does(y: Tensor, name: str, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        judged(y, name)


def test_every_offered_performance_gives_one_value_an_example() -> None:
    for y, model in ((TOKENS[:, 0], nn.Linear(4, 3)), (TOKENS, Folded()), (X[:, :2].clone(), nn.Linear(4, 2))):
        for name in offered(aa.Evaluation(X, y)):
            assert values(judged(y, name), model.double()).shape == (6,)
