"""What a workspace knows of how a run was looked at: who asked what, and how many different questions there were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aa_core.access_log import Entry, read_log
from aa_core.checkpoints_only.checkpoints import AnyRun
from aa_core.errors import AuditError
from aa_core.jobs import Job, all_jobs
from aa_core.jobs.retrained import asked_at
from aa_core.reporting.model import Event

UNKNOWN = "not recorded"
ACTS = {
    "retried job": "job {} tried again",
    "cancelled job": "job {} asked to stop",
    "saved subgroup": "subgroup {} saved",
    "forgot subgroup": "subgroup {} forgotten",
}
"""What of the access log is told; what opened or exported it is not: a report would change by that."""


@dataclass(frozen=True)
class Activity:
    """What was done about a run in a workspace."""

    events: tuple[Event, ...] = ()
    """Replays; retries and cancelled jobs; subgroups that were saved while the run was looked at."""
    who: Mapping[str, str] = field(default_factory=dict)
    """{job: who started it}."""
    questions: int | None = None
    """Different questions that took a job; one that was asked twice is one. None: no workspace was looked into."""
    trouble: str = ""
    """Why the access log cannot be read."""


def activity(run: AnyRun) -> Activity:
    """From the access log and the jobs of this workspace, those that were deleted since included."""
    entries, trouble = _entries(run)
    who = {e.what: e.who for e in reversed(entries) if e.act == "started job"}
    jobs = {job.id: job for job in all_jobs() if job.spec.digest == run.digest}
    replays = [_replay(job, who) for job in jobs.values() if job.spec.kind == "replay" and not job.living]
    acts = [
        Event(at=f"{e.at[:19]}+00:00", who=e.who, what=ACTS[e.act].format(e.what), how="")
        for e in entries
        if e.act in ACTS
    ]
    return Activity((*replays, *acts), who, len({*jobs, *who}), trouble)


def _entries(run: AnyRun) -> tuple[list[Entry], str]:
    try:
        return [e for e in read_log().entries if e.run == run.digest], ""
    except AuditError as error:
        return [], str(error)


def _replay(job: Job, who: Mapping[str, str]) -> Event:
    how = job.result()["words"] if job.status == "done" else f"{job.status}: {job.error}"
    return Event(
        at=asked_at(job), who=who.get(job.id, UNKNOWN), what=f"replay of the whole run (job {job.id})", how=how
    )
