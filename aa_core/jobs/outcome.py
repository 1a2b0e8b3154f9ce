"""What a kind of job is: a function of run, problem and request that reports how far it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pandas as pd

from aa_core.counterfactuals.kept import KeptState
from aa_core.errors import RequestError, RunFormatError
from aa_core.jobs.spec import JobSpec, Report, file_digest
from aa_core.problem import Problem
from aa_core.processes import anchored
from aa_core.runs.header import Model, parse
from aa_core.runs.trajectory import Trajectory


@dataclass(frozen=True)
class Outcome:
    """What a kind found."""

    result: dict[str, Any]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


Kind = Callable[[Trajectory, Problem, Mapping[str, Any], Report, KeptState], Outcome]
Asked = TypeVar("Asked", bound=Model)


def spec_of(kind: str, run: Trajectory, request: Model | Mapping[str, Any], problem: str | None = None) -> JobSpec:
    """The job that asks a kind about a run, with the problem that the auditor chose."""
    return JobSpec(
        kind=kind,
        run=str(run.path.resolve()),
        digest=run.digest,
        problem=anchored(problem),
        problem_digest=file_digest(problem),
        request=request.model_dump(mode="json") if isinstance(request, Model) else dict(request),
    )


def read_request(model: type[Asked], request: Mapping[str, Any]) -> Asked:
    """A request as its model; RequestError for what it does not allow."""
    try:
        return parse(model, json.dumps(dict(request)).encode(), "request")
    except RunFormatError as error:
        raise RequestError(str(error)) from None
