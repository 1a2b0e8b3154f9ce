"""Jobs that make a counterfactual training a run of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aa_core.counterfactuals.change import parse
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.counterfactual_run import check_recordable, record_counterfactual
from aa_core.counterfactuals.kept import NOT_KEPT, KeptState
from aa_core.jobs.outcome import Outcome, read_request, spec_of
from aa_core.jobs.spec import JobSpec, Report, in_part
from aa_core.problem import Problem
from aa_core.runs.header import Count, Model, StageName
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.workspace import workspace


class RunRequest(Model):
    """The request of kind "run": what is left out, or changed."""

    skip: tuple[StageName, ...]
    steps: tuple[Count, ...]
    changes: dict[str, str]

    @property
    def counterfactual(self) -> Counterfactual:
        changes = tuple(parse(hyper, how) for hyper, how in self.changes.items())
        return Counterfactual(self.skip, 1.0 if changes else 0.0, "freeze", self.steps, (), changes)


def run_spec(run: Trajectory, what: Counterfactual, problem: str | None = None) -> JobSpec:
    """The job that records a counterfactual training; RequestError for what cannot be recorded."""
    check_recordable(run, what)
    skip, steps = tuple(s.name for s in what.resolve(run.stages)), tuple(sorted(set(what.steps)))
    changes = {c.hyper: c.text for c in sorted(what.changes)}
    return spec_of("run", run, RunRequest(skip=skip, steps=steps, changes=changes), problem)


def counterfactual_run(
    run: Trajectory, problem: Problem, request: Mapping[str, Any], report: Report, _: KeptState = NOT_KEPT
) -> Outcome:
    """Record it in `counterfactual_runs()`, under a name that the question decides."""
    what = read_request(RunRequest, request).counterfactual
    name = hashlib.sha256(f"{run.digest} {what!r}".encode()).hexdigest()[:16]
    path = counterfactual_runs() / name
    if not path.exists():
        record_counterfactual(run, problem, what, path, in_part(report, "recording", (0, run.steps), run.steps))
    found = open_run(path)
    return Outcome({"run": name, "digest": found.digest, "title": found.title, "steps": found.steps})


def counterfactual_runs() -> Path:
    """Where counterfactual trainings are recorded."""
    return workspace() / "counterfactuals"
