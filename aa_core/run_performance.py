"""A performance by its name, on the evaluation set of a run: how the command line, jobs and screens judge a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aa_core.errors import RequestError
from aa_core.evaluation import Evaluation
from aa_core.performance import PERFORMANCES, Performance


class Judged(Protocol):
    """A run that may have an evaluation set."""

    @property
    def evaluation(self) -> Evaluation | None: ...


def run_performance(run: Judged, name: str, examples: Sequence[int] | None = None) -> Performance:
    """PERFORMANCES[name] on some rows of the run's evaluation set (all by default); values are labelled by their row.

    Raises:
        RequestError: no such performance or row, no evaluation set, or targets that are not class labels.
    """
    if name not in PERFORMANCES:
        raise RequestError(f"performance={name!r}; expected one of {', '.join(PERFORMANCES)}")
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
    judged = PERFORMANCES[name](evaluation.x, y.long())
    return judged if examples is None else judged[_checked(examples, len(evaluation))]


def _checked(examples: Sequence[int], count: int) -> list[int]:
    outside = [i for i in examples if not 0 <= i < count]
    if outside:
        raise RequestError(f"example {outside[0]} does not exist; the evaluation set has examples 0 to {count - 1}")
    if not examples:
        raise RequestError("no examples were chosen; choose at least one, or leave the choice out for all of them")
    return list(examples)
