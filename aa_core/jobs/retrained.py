"""What was trained again on the way to a report: every job that did, or was to do so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aa_core.jobs.counterfactuals import RunRequest
from aa_core.jobs.job import Job, all_jobs
from aa_core.jobs.kinds import asked_counterfactual
from aa_core.jobs.outcome import read_request
from aa_core.jobs.spec import JobSpec
from aa_core.runs.trajectory import Trajectory

EVERY = "every stage left out, one after the other"


def retrainings(run: Trajectory) -> tuple[dict[str, Any], ...]:
    """Every job on this run that trains again and is over, newest first: its result, or why there is none.

    `request` is what was asked, `earlier` how attempts before this one ended, `kind` what came of it: "run" was
    recorded as a run, a "calibration" is stored with the run's calibrations; else a what-if.
    """
    over = [j for j in all_jobs() if j.spec.kind in ASKED and j.spec.digest == run.digest and not j.living]
    return tuple({**_told(job), "job": job.id, "asked": asked_at(job)} for job in over)


def asked_at(job: Job) -> str:
    """When a job was submitted, UTC."""
    return datetime.fromtimestamp(job.created, UTC).isoformat(timespec="seconds")


def _told(job: Job) -> dict[str, Any]:
    """Question and answer, of a what-if with its pairs of estimate and truth."""
    told = {
        **ASKED[job.spec.kind](job.spec),
        "request": job.spec.request,
        "provenance": {"run": job.spec.digest, "code": job.spec.code},
        "earlier": [{"at": a.at, "how": f"{a.status}: {a.error}"} for a in job.earlier],
    }
    if job.status != "done":
        return {**told, "status": job.status if job.status == "cancelled" else f"failed: {job.error}"}
    if job.spec.kind != "whatif":
        return told
    return {**told, **job.result(), "pairs": job.table("examples")[["example", "estimate", "truth"]].to_dict("list")}


def _whatif(spec: JobSpec) -> dict[str, Any]:
    what = asked_counterfactual(spec)
    return {"counterfactual": what.name, "semantics": what.manner, "performance": spec.request["performance"]}


def _run(spec: JobSpec) -> dict[str, Any]:
    what = read_request(RunRequest, spec.request).counterfactual
    return {"kind": "run", "counterfactual": what.name, "semantics": what.manner}


def _calibration(spec: JobSpec) -> dict[str, Any]:
    return {"kind": "calibration", "counterfactual": EVERY, **spec.request}


ASKED: dict[str, Callable[[JobSpec], dict[str, Any]]] = {"whatif": _whatif, "run": _run, "calibrate": _calibration}
"""{kind of job: what it trained otherwise}."""
