"""A performance by its name, on the evaluation set of a run: how the command line, jobs and screens judge a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from aa_core.errors import RequestError
from aa_core.evaluation import Evaluation
from aa_core.performance import PERFORMANCES, Performance, confounder_log_likelihood

CONFOUNDER = "confounder:"
"""Before the name of a metadata column: the likelihood of the class that it names, taken as the label."""


class Judged(Protocol):
    """A run that may have an evaluation set."""

    @property
    def evaluation(self) -> Evaluation | None: ...


def run_performance(run: Judged, name: str, examples: Sequence[int] | None = None) -> Performance:
    """PERFORMANCES[name] on some rows of the run's evaluation set (all by default); values are labelled by their row.

    "confounder:COLUMN" is `confounder_log_likelihood` of the class that a metadata column names.

    Raises:
        RequestError: no such performance or row, no evaluation set, or targets that are not class labels.
    """
    if name not in PERFORMANCES and not name.startswith(CONFOUNDER):
        raise RequestError(f"performance={name!r}; expected one of {', '.join(PERFORMANCES)}, {CONFOUNDER}COLUMN")
    evaluation = run.evaluation
    if evaluation is None:
        raise RequestError(
            "the run has no evaluation set to judge the model on; record one with Recorder(evaluation=...), or call "
            "the engine from Python with a performance of your own"
        )
    y = evaluation.y
    if y.dim() != 1 or y.is_floating_point() or y.is_complex():
        raise RequestError(
            f"{name!r} needs one class label per example; the evaluation set has targets of shape {list(y.shape)} and "
            f"type {str(y.dtype).removeprefix('torch.')}. Call the engine from Python with a performance of your own"
        )
    if name.startswith(CONFOUNDER):
        suggested = _suggested(evaluation, name.removeprefix(CONFOUNDER))
        judged = replace(confounder_log_likelihood(evaluation.x, suggested), name=name)
    else:
        judged = PERFORMANCES[name](evaluation.x, y.long())
    return judged if examples is None else judged[_checked(examples, len(evaluation))]


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
