"""gamma: what the model is judged by. One number per example (or per weighted mean); larger is better."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

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

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, problem: Problem, params: Params, buffers: Buffers) -> Tensor:
        """The values at these parameters, differentiable in them, [values]."""
        parts = [self.score(problem.outputs(params, dict(buffers), x), y) for x, y in self.chunks(problem.device)]
        return self.combine(torch.cat(parts))

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Performance:
        """The performance of some of the examples."""
        if self.weights is not None:
            raise RequestError(
                f"{self.name!r} is already a mean over examples; select examples first, then take the mean"
            )
        chosen = index if isinstance(index, slice) else torch.as_tensor([index] if isinstance(index, int) else index)
        rows = torch.arange(len(self.targets))[chosen]
        inputs = map_inputs(lambda t: t[rows], self.inputs)
        return replace(self, inputs=inputs, targets=self.targets[rows], labels=tuple(self.labels[int(r)] for r in rows))

    def mean(self, label: str = "mean") -> Performance:
        """The mean over the values, as one value."""
        return replace(self, labels=(label,), weights=self._weights().mean(0, keepdim=True))

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
        )

    def combine(self, values: Tensor) -> Tensor:
        """[..., examples] -> [..., values]."""
        return values if self.weights is None else values @ self.weights.to(values).T

    def chunks(self, device: torch.device) -> Iterator[tuple[Inputs, Tensor]]:
        """The examples in pieces that fit in memory, on the device."""
        for rows in torch.arange(len(self.targets)).split(CHUNK):
            yield map_inputs(lambda t, r=rows: t[r].to(device), self.inputs), self.targets[rows].to(device)

    @property
    def digest(self) -> str:
        """Digest of score, examples and weights."""
        hasher = hashlib.sha256(f"{self.name}|{self.labels}".encode())
        tensors = [*(self.inputs.values() if isinstance(self.inputs, dict) else [self.inputs]), self.targets]
        for tensor in [*tensors, *([] if self.weights is None else [self.weights])]:
            hasher.update(
                f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.detach().cpu().contiguous().numpy().tobytes()
            )
        return hasher.hexdigest()

    def _weights(self) -> Tensor:
        return torch.eye(len(self.targets), dtype=torch.float64) if self.weights is None else self.weights


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


def log_likelihood(inputs: Inputs, labels: Any) -> Performance:
    """log p(label | input) of a classifier that returns logits [examples, classes], nats.

    With a confounder in place of the label it says how much the model listens to the confounder.
    """
    return performance(inputs, labels, _log_likelihood, name="log-likelihood", unit="nats")


def probability(inputs: Inputs, labels: Any) -> Performance:
    """p(label | input), between 0 and 1."""
    return performance(inputs, labels, _probability, name="probability", unit="probability")


def margin(inputs: Inputs, labels: Any) -> Performance:
    """log p / (1 - p) of the label: the logit against all other classes together, nats."""
    return performance(inputs, labels, _margin, name="margin", unit="nats")


PERFORMANCES = {"log-likelihood": log_likelihood, "probability": probability, "margin": margin}
"""What the command line and the dashboard offer, by name."""
