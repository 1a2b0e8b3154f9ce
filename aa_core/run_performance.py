"""A performance by its name, on the evaluation set of a run: how the command line, jobs and screens judge a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from aa_core.errors import RequestError
from aa_core.performance import PERFORMANCES, Performance, accuracy, confounder_log_likelihood
from aa_core.records import Inputs
from aa_core.runs.evaluation import Evaluation
from aa_core.scores import negative_squared_error, sequence_log_likelihood

CONFOUNDER = "confounder:"
"""Before the name of a metadata column: the likelihood of the class that it names, taken as the label."""

Build = Callable[[Inputs, Tensor], Performance]
CLASSES: dict[str, Build] = {
    **{name: lambda x, y, build=build: build(x, y.long()) for name, build in PERFORMANCES.items()},  # type: ignore[misc]
    "accuracy": lambda x, y: accuracy(x, y.long()),
}
SEQUENCES: dict[str, Build] = {"log-likelihood": lambda x, y: sequence_log_likelihood(x, y.long())}
NUMBERS: dict[str, Build] = {
    "negative squared error": lambda x, y: negative_squared_error(x, y, unit="squared units of the target")
}


class Judged(Protocol):
    """A run that may have an evaluation set."""

    @property
    def evaluation(self) -> Evaluation | None: ...


def run_performance(run: Judged, name: str, examples: Sequence[int] | None = None) -> Performance:
    """The performance of that name on some rows of the run's evaluation set (all by default), labelled by row.

    Class labels: those of PERFORMANCES, "accuracy" (for retraining only), and "confounder:COLUMN", which is
    `confounder_log_likelihood` of the class that a metadata column names. Sequences of tokens: "log-likelihood" of the
    whole sequence. Numbers: "negative squared error".

    Raises:
        RequestError: no evaluation set, no such row, or no such performance for targets of this kind.
    """
    evaluation = run.evaluation
    if evaluation is None:
        raise RequestError(
            "the run has no evaluation set to judge the model on; record one with Recorder(evaluation=...), or call "
            "the engine from Python with a performance of your own"
        )
    known = offered(evaluation)
    if name.startswith(CONFOUNDER) and evaluation.y.dim() == 1:
        suggested = _suggested(evaluation, name.removeprefix(CONFOUNDER))
        judged = replace(confounder_log_likelihood(evaluation.x, suggested), name=name)
    elif name in known:
        judged = known[name](evaluation.x, evaluation.y)
    else:
        y, names = evaluation.y, [*known, *([f"{CONFOUNDER}COLUMN"] if known is CLASSES else [])]
        raise RequestError(
            f"performance={name!r}; expected one of {', '.join(names)}, for targets of shape {list(y.shape)} and type "
            f"{str(y.dtype).removeprefix('torch.')}. Or call the engine from Python with a performance of your own"
        )
    return judged if examples is None else judged[_checked(examples, len(evaluation))]


def offered(evaluation: Evaluation) -> dict[str, Build]:
    """What targets of this kind can be judged by, by name: one class label, a row of tokens, or numbers an example."""
    if evaluation.y.is_floating_point():
        return NUMBERS
    return SEQUENCES if evaluation.y.dim() > 1 else CLASSES


def confounders(evaluation: Evaluation) -> tuple[str, ...]:
    """The metadata columns that name a class for every example, other than the labels themselves."""
    columns = () if evaluation.metadata is None else evaluation.metadata.columns
    known = {c: _classes(evaluation, c) for c in columns}
    return tuple(c for c, found in known.items() if found is not None and not torch.equal(found, evaluation.y.long()))


def _suggested(evaluation: Evaluation, column: str) -> Tensor:
    found = _classes(evaluation, column)
    if found is None:
        raise RequestError(
            f"metadata column {column!r} does not name a class for every example; a confounder's column holds class "
            f"numbers or names. Such columns: {', '.join(confounders(evaluation)) or 'none'}"
        )
    return found


def _classes(evaluation: Evaluation, column: str) -> Tensor | None:
    """The class numbers in a metadata column, [examples]; None where it holds anything else."""
    if evaluation.metadata is None or column not in evaluation.metadata or evaluation.y.dim() != 1:
        return None
    count = max(len(evaluation.class_names or ()), int(evaluation.y.max()) + 1)
    known = {name: i for i, name in enumerate(evaluation.class_names or ())} | {i: i for i in range(count)}
    values = evaluation.metadata[column].tolist()
    if not all(isinstance(v, int | str) and v in known for v in values):
        return None
    return torch.tensor([known[v] for v in values])


def _checked(examples: Sequence[int], count: int) -> list[int]:
    outside = [i for i in examples if not 0 <= i < count]
    if outside:
        raise RequestError(f"example {outside[0]} does not exist; the evaluation set has examples 0 to {count - 1}")
    if not examples:
        raise RequestError("no examples were chosen; choose at least one, or leave the choice out for all of them")
    return list(examples)
