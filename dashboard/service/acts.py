"""Jobs are started, tried again and cancelled here, by analysts only; anybody who is let in may look at one."""

from __future__ import annotations

from aa_core.errors import RequestError
from aa_core.jobs import Job, JobSpec, find, submit
from dashboard.service import people


def job_of(spec: JobSpec) -> Job | None:
    """The job of this question, if it was ever asked."""
    try:
        return find(spec.id)
    except RequestError:
        return None


def start(spec: JobSpec) -> Job:
    """The job of this question, started once; as it is for a viewer, NotAllowedError if there is none to look at."""
    if not people.may_work() and (job := job_of(spec)) is not None:
        return job
    people.require("analyst", "This takes a job")
    return submit(spec)


def retry(job: Job) -> None:
    """Start a failed or cancelled job anew."""
    people.require("analyst", "This starts a job")
    job.retry()


def cancel(job: Job) -> None:
    """Ask a job to stop."""
    people.require("analyst", "This ends a job")
    job.cancel()
