"""Jobs are started, tried again and cancelled here, by analysts only and into the access log; others may look."""

from __future__ import annotations

import sys

from aa_core.errors import RequestError, RunError
from aa_core.jobs import Job, JobSpec, all_jobs, find, resume_dead, submit
from dashboard.service import people
from dashboard.service.log import append


def job_of(spec: JobSpec) -> Job | None:
    """The job of this question, if it was ever asked."""
    try:
        return find(spec.id)
    except (RequestError, RunError):  # whose question is damaged is asked again
        return None


def busy() -> bool:
    """Does any job work? The others wait for it."""
    return any(job.status == "running" for job in all_jobs())


def start(spec: JobSpec) -> Job:
    """The job of this question, started once; as it is for a viewer, NotAllowedError if there is none to look at."""
    job = job_of(spec)
    if job is not None and not people.may_work():
        return job
    person = people.require("analyst", "This takes a job")
    if job is None:
        append(person, "started job", spec.digest, spec.id)
    return submit(spec)


def retry(job: Job) -> None:
    """Start a failed or cancelled job anew."""
    append(people.require("analyst", "This starts a job"), "retried job", job.spec.digest, job.id)
    job.retry()


def cancel(job: Job) -> None:
    """Ask a job to stop."""
    append(people.require("analyst", "This ends a job"), "cancelled job", job.spec.digest, job.id)
    job.cancel()


def resume() -> None:
    """Let jobs go on whose processes died, as when the machine was switched off; once, when the server starts."""
    for job in resume_dead():
        print(f"job {job.id} was interrupted; it goes on", file=sys.stderr)
