"""Performances of models that are not classifiers over classes: regression, one logit, sequences, any loss."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aa_core.errors import RequestError
from aa_core.performance import Performance, Score, performance
from aa_core.problem import LossFunction
from aa_core.records import Inputs

IGNORE = -100
"""torch's convention for target positions that do not count."""


def negative_loss(inputs: Inputs, targets: Any, loss_fn: LossFunction, *, unit: str = "loss") -> Performance:
    """Minus the training loss of each example by itself, as a batch of one; in the loss's unit.

    loss_fn must be able to run under torch.vmap, as the losses of torch do.
    """

    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        return -torch.vmap(lambda f, y: loss_fn(f[None], y[None]))(outputs, targets)

    return performance(inputs, targets, score, name="negative loss", unit=unit)


def negative_squared_error(inputs: Inputs, targets: Any, *, unit: str) -> Performance:
    """-(output - target)^2, summed over the components of a vector target.

    unit: of the squared error, e.g. "°C²". Outputs have the shape of the targets; a last dimension of one may be extra.
    """
    return performance(inputs, targets, _squared_error, name="negative squared error", unit=unit)


def binary_log_likelihood(inputs: Inputs, labels: Any) -> Performance:
    """log p(label | input) of a model that returns one logit an example, [examples] or [examples, 1]; labels 0 or 1."""
    found = performance(inputs, labels, _binary, name="log-likelihood", unit="nats")
    if not bool(((found.targets == 0) | (found.targets == 1)).all()):
        raise RequestError("labels other than 0 and 1; one logit tells two classes apart")
    return found


def sequence_log_likelihood(inputs: Inputs, targets: Any, *, ignore_index: int = IGNORE) -> Performance:
    """log p(targets | inputs) of whole sequences, nats: the sum over their tokens.

    targets: int64 [sequences, tokens], shifted already: position j is what outputs[:, j], of [sequences, tokens,
    vocabulary], should say. Positions that equal ignore_index do not count.
    """
    return performance(inputs, targets, _sequence_score(ignore_index), name="sequence log-likelihood", unit="nats")


def token_log_likelihood(inputs: Inputs, targets: Any, *, ignore_index: int = IGNORE) -> Performance:
    """log p(target token) of every token that counts, nats, labelled (sequence, position).

    Arguments as for `sequence_log_likelihood`. A value a token: for step effects ask about few, or take the mean.
    """
    found = performance(inputs, targets, _token_score(ignore_index), name="token log-likelihood", unit="nats")
    places = (found.targets != ignore_index).nonzero().tolist()
    if not places:
        raise RequestError(f"every target is {ignore_index}, the index to ignore; there is nothing to judge")
    return replace(found, labels=tuple((i, j) for i, j in places))


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    error = _aligned(outputs, targets) - targets
    return -error.square().reshape(len(targets), -1).sum(1)


def _binary(outputs: Tensor, targets: Tensor) -> Tensor:
    sign = 2 * targets.to(outputs) - 1
    return -F.softplus(-sign * _aligned(outputs, targets))


def _aligned(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs in the shape of the targets; anything that would have to be broadcast is refused."""
    if outputs.shape == (*targets.shape, 1):
        return outputs.squeeze(-1)
    if outputs.shape != targets.shape:
        raise RequestError(f"outputs {list(outputs.shape)} for targets {list(targets.shape)}; expected the same shape")
    return outputs


@cache
def _sequence_score(ignore_index: int) -> Score:
    """One score for each ignore_index, so that two performances with the same one can be subtracted."""

    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets == ignore_index, 0.0, _tokens(outputs, targets, ignore_index)).sum(1)

    return score


@cache
def _token_score(ignore_index: int) -> Score:
    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        return _tokens(outputs, targets, ignore_index)[targets != ignore_index]

    return score


def _tokens(outputs: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """log p of each target token, [sequences, tokens]; of token 0 where it does not count."""
    if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
        raise RequestError(
            f"outputs {list(outputs.shape)} for targets {list(targets.shape)}; expected outputs [sequences, tokens, "
            "vocabulary] for targets [sequences, tokens]"
        )
    index = targets.masked_fill(targets == ignore_index, 0)
    return outputs.log_softmax(2).gather(2, index[..., None])[..., 0]
