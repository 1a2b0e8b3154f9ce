"""What-ifs that are really retrained, as jobs: the same question is the same job, in every session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from aa_core.counterfactual import Counterfactual
from aa_core.errors import RequestError
from aa_core.jobs import Job, JobSpec, all_jobs, find, submit, whatif_spec
from dashboard.selection import Selection
from dashboard.service.desk import Desk
from dashboard.service.engine import CHOSEN


def question(desk: Desk, s: Selection) -> JobSpec:
    """The what-if that is picked, as a job."""
    rows = desk.rows(s).tolist()
    return whatif_spec(
        desk.recorded,
        Counterfactual.skip(*s.skip, semantics=s.semantics),
        s.performance,
        None if len(rows) == len(desk.evaluation) else rows,
        readout=s.readout,
        curvature=s.curvature,
        problem=CHOSEN,
    )


def job_of(spec: JobSpec) -> Job | None:
    """The job of this question, if it was ever asked."""
    try:
        return find(spec.id)
    except RequestError:
        return None


def start(spec: JobSpec) -> None:
    """Start the job of this question, once; for callbacks."""
    submit(spec)


def asked(job: Job, s: Selection) -> Selection:
    """The selection that asks the question of a past what-if again."""
    request: Mapping[str, Any] = job.spec.request
    chosen = {name: request[name] for name in ("performance", "semantics", "curvature", "readout")}
    return replace(s.everything, **chosen, skip=tuple(request["skip"]), examples=tuple(request["examples"] or ()))


def past(desk: Desk) -> list[Job]:
    """All what-ifs of this run, newest first."""
    return [job for job in all_jobs() if job.spec.kind == "whatif" and job.spec.digest == desk.run.digest]


def comparison(found: Mapping[str, Any]) -> pd.DataFrame:
    """The means of a retraining, as bars."""
    return pd.DataFrame({"stage": ["Estimated", "Retrained"], "effect": [found["mean_estimate"], found["mean_truth"]]})


def verdict(found: Mapping[str, Any]) -> Literal["refuted", "sign", "confirmed"]:
    """Whether the retraining bears the estimated mean out: its sign, and its size to a factor of two."""
    estimate, truth = found["mean_estimate"], found["mean_truth"]
    if estimate * truth <= 0:
        return "refuted"
    return "confirmed" if 0.5 <= truth / estimate <= 2 else "sign"
