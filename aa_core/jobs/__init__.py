"""Long work in processes of its own, which outlive whoever asked. A job is a folder, and the folder is the truth."""

from aa_core.jobs.job import Job, all_jobs, find, submit
from aa_core.jobs.kinds import KINDS, Outcome, asked_counterfactual, perform, retrainings, whatif_spec
from aa_core.jobs.spec import JobProgress, JobSpec

__all__ = [
    "KINDS",
    "Job",
    "JobProgress",
    "JobSpec",
    "Outcome",
    "all_jobs",
    "asked_counterfactual",
    "find",
    "perform",
    "retrainings",
    "submit",
    "whatif_spec",
]
