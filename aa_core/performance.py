"""gamma: what the model is judged by. One number per example (or per weighted mean); larger is better."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from aa_core.errors import RequestError
from aa_core.problem import Problem
from aa_core.records import Inputs, map_inputs
from aa_core.state import Buffers, Params

Score = Callable[[Tensor, Tensor], Tensor]
CHUNK = 4096


@dataclass(frozen=True)
class Performance:
    """gamma(theta, buffers) -> [values]; larger is better.

    `score(outputs, targets)` gives one number per example. `weights`, [values, examples], turns them into
    means, subgroup means or gaps; None keeps the examples themselves. `performance[index]` selects examples.
    """

    inputs: Inputs
    targets: Tensor
    score: Score
    name: str
    unit: str
    labels: tuple[Any, ...]
    """What each value is called in results: example numbers, "mean", a subgroup's name."""
    weights: Tensor | None = None
    differentiable: bool = True
    """Whether effects can be estimated to first order; else by retraining only."""
    each: Performance | None = None
    """The values that this is the plain mean of, all of them; None where it is anything else."""

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, problem: Problem, params: Params, buffers: Buffers) -> Tensor:
        """The values at these parameters, differentiable in them, [values]."""
        with self.explained():
            parts = [self.score(problem.outputs(params, dict(buffers), x), y) for x, y in self.chunks(problem.device)]
        return self.combine(parts)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Inside, an error of the model or the score becomes a RequestError that says what the examples are."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise RequestError(
                f"{self.name} cannot be computed on these examples: {error}. Found inputs {_describe(self.inputs)} and "
                f"targets {_describe(self.targets)}; expected inputs as the model was trained on, and targets that go "
                "with its outputs"
            ) from error

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Performance:
        """The performance of some of the examples."""
        if self.weights is not None:
            raise RequestError(
                f"{self.name!r} is already a mean over examples; select examples first, then take the mean"
            )
        if len(self) != len(self.targets):
            raise RequestError(f"{self.name!r} has more than one value an example; select the examples it is made of")
        chosen = index if isinstance(index, slice) else torch.atleast_1d(torch.as_tensor(index))
        if not isinstance(chosen, slice) and not len(chosen):
            raise RequestError(f"{self.name!r} of no examples; select at least one")
        rows = torch.arange(len(self.targets))[chosen]
        inputs = map_inputs(lambda t: t[rows], self.inputs)
        return replace(self, inputs=inputs, targets=self.targets[rows], labels=tuple(self.labels[int(r)] for r in rows))

    def mean(self, label: str = "mean") -> Performance:
        """The mean over the values, as one value."""
        if self.weights is not None:
            return replace(self, labels=(label,), weights=self.weights.mean(0, keepdim=True))
        even = torch.full((1, len(self)), 1 / len(self), dtype=torch.float64)
        return replace(self, labels=(label,), weights=even, each=self)

    def __sub__(self, other: Performance) -> Performance:
        """A gap between two means over the same kind of score: `men.mean("men") - women.mean("women")`."""
        if self.score is not other.score or len(self) != 1 or len(other) != 1:
            raise RequestError("a gap is the difference of two means of the same score: a.mean() - b.mean()")
        return replace(
            self,
            inputs=map_inputs(lambda a, b: torch.cat([a, b]), self.inputs, other.inputs),
            targets=torch.cat([self.targets, other.targets]),
            labels=(f"{self.labels[0]} - {other.labels[0]}",),
            weights=torch.cat([self._weights(), -other._weights()], 1),
            each=None,
        )

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """Scores chunk by chunk -> [values]; RequestError unless they are one number per example."""
        values = torch.cat([torch.atleast_1d(part) for part in parts])
        expected = len(self) if self.weights is None else self.weights.shape[1]
        if values.shape != (expected,):
            raise RequestError(
                f"the score of {self.name!r} gave {list(values.shape)}, expected [{expected}]: one number per example"
            )
        return values if self.weights is None else values @ self.weights.to(values).T

    def chunks(self, device: torch.device, times: int = 1) -> Iterator[tuple[Inputs, Tensor]]:
        """The examples in pieces that fit in memory so many times at once, on the device."""
        for rows in torch.arange(len(self.targets)).split(max(CHUNK // times, 1)):
            yield map_inputs(lambda t, r=rows: t[r].to(device), self.inputs), self.targets[rows].to(device)

    @property
    def digest(self) -> str:
        """Digest of score, examples and weights."""
        hasher = hashlib.sha256(f"{self.name}|{self.labels}".encode())
        inputs = self.inputs if isinstance(self.inputs, dict) else {"": self.inputs}
        for name, tensor in {**inputs, "|targets": self.targets, "|weights": self.weights}.items():
            if tensor is not None:
                data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                hasher.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode() + data)
        return hasher.hexdigest()

    @property
    def basis(self) -> str:
        """Digest of the values that it is made of: a mean of all of them is calibrated as they are."""
        return (self.each or self).digest

    def _weights(self) -> Tensor:
        return torch.eye(len(self), dtype=torch.float64) if self.weights is None else self.weights

    def check_differentiable(self) -> None:
        """Raise RequestError where the values are steps, whose derivative is zero and says nothing."""
        if not self.differentiable:
            raise RequestError(
                f"{self.name} changes in steps, so it has no derivative to attribute: retrain to see it change, or "
                "judge by a smooth performance, such as log_likelihood or margin"
            )


def _describe(tensors: Inputs) -> str:
    if isinstance(tensors, dict):
        return ", ".join(f"{name} {_describe(tensor)}" for name, tensor in tensors.items())
    return f"{list(tensors.shape)} {str(tensors.dtype).removeprefix('torch.')}"


def performance(inputs: Inputs, targets: Any, score: Score, *, name: str, unit: str) -> Performance:
    """A performance of your own: `score(outputs, targets)` -> one number per example, larger is better."""
    targets = torch.as_tensor(targets)
    for tensor in inputs.values() if isinstance(inputs, dict) else [inputs]:
        if len(tensor) != len(targets):
            raise RequestError(f"{len(tensor)} inputs but {len(targets)} targets; give one target per example")
    if not len(targets):
        raise RequestError("no examples: a performance needs at least one")
    return Performance(inputs, targets, score, name, unit, tuple(range(len(targets))))


def _log_likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy(outputs, targets, reduction="none")


def _probability(outputs: Tensor, targets: Tensor) -> Tensor:
    return _log_likelihood(outputs, targets).exp()


def _margin(outputs: Tensor, targets: Tensor) -> Tensor:
    own = outputs.gather(1, targets[:, None])[:, 0]
    others = outputs.masked_fill(F.one_hot(targets, outputs.shape[1]).bool(), -torch.inf)
    return own - others.logsumexp(1)


def _correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).to(outputs.dtype)


def log_likelihood(inputs: Inputs, labels: Any) -> Performance:
    """log p(label | input) of a classifier that returns logits [examples, classes], nats."""
    return performance(inputs, labels, _log_likelihood, name="log-likelihood", unit="nats")


def confounder_log_likelihood(inputs: Inputs, confounder: Any) -> Performance:
    """log p(confounder | input), nats: how far a classifier answers with the confounder's class instead of the label.

    confounder: for each example, the class that the confounder suggests. Larger = the model listens to it more, so a
    *positive* effect of a stage is the blame here: the stage taught the model to listen.
    """
    return performance(inputs, confounder, _log_likelihood, name="confounder log-likelihood", unit="nats")


def accuracy(inputs: Inputs, labels: Any) -> Performance:
    """1 where the largest logit is the label's, else 0. It has no derivative: for retraining and path shares only."""
    found = performance(inputs, labels, _correct, name="accuracy", unit="share correct")
    return replace(found, differentiable=False)


def probability(inputs: Inputs, labels: Any) -> Performance:
    """p(label | input), between 0 and 1."""
    return performance(inputs, labels, _probability, name="probability", unit="probability")


def margin(inputs: Inputs, labels: Any) -> Performance:
    """log p / (1 - p) of the label: the logit against all other classes together, nats."""
    return performance(inputs, labels, _margin, name="margin", unit="nats")


PERFORMANCES = {"log-likelihood": log_likelihood, "probability": probability, "margin": margin}
"""What the command line and the dashboard offer, by name."""


def subgroup(
    gamma: Performance, metadata: pd.DataFrame, where: Mapping[str, Any], label: str | None = None
) -> Performance:
    """The mean of gamma over the examples whose metadata have these values: `subgroup(gamma, table, {"sex": "f"})`.

    metadata: one row for each value of gamma. By a mask of your own: `gamma[mask].mean("women")`. The gap between two
    subgroups is their difference: `a - b`.

    Raises:
        RequestError: no such column, or no such example.
    """
    chosen = torch.ones(len(gamma), dtype=torch.bool)
    for column, value in where.items():
        chosen &= torch.tensor([found == value for found in _column(gamma, metadata, column)], dtype=torch.bool)
    name = ", ".join(f"{column} = {value}" for column, value in where.items())
    if not bool(chosen.any()):
        raise RequestError(f"no example has {name}; choose values that occur in the metadata")
    return gamma[chosen].mean(label or name)


def subgroups(gamma: Performance, metadata: pd.DataFrame, column: str) -> Performance:
    """The mean of gamma over every subgroup of a metadata column, [groups]. A missing value is in none."""
    values = _column(gamma, metadata, column)
    groups = list(dict.fromkeys(v for v in values if v == v and v is not None))
    if not groups:
        raise RequestError(f"metadata column {column!r} has no value for any example")
    member = torch.tensor([[v == g for v in values] for g in groups], dtype=torch.float64)
    each = gamma[:]  # RequestError where there are no single examples to group
    return replace(each, labels=tuple(groups), weights=member / member.sum(1, keepdim=True))


def _column(gamma: Performance, metadata: pd.DataFrame, column: str) -> list[Any]:
    if column not in metadata.columns:
        raise RequestError(
            f"no metadata column {column!r}; there are {', '.join(map(str, metadata.columns)) or 'none'}"
        )
    if len(metadata) != len(gamma):
        raise RequestError(f"{len(metadata)} rows of metadata for {len(gamma)} values; give one row for each")
    return list(metadata[column].tolist())
