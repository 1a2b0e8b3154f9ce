"""Long work in processes of its own, which outlive whoever asked. A job is a folder, and the folder is the truth."""

from aa_core.jobs.checks import CalibrationRequest, replayed
from aa_core.jobs.counterfactuals import counterfactual_runs, run_spec
from aa_core.jobs.estimating import EffectsRequest, effects
from aa_core.jobs.job import Job, all_jobs, find, resume_dead, submit
from aa_core.jobs.kinds import KINDS, asked_counterfactual, estimate_spec, perform, whatif_spec
from aa_core.jobs.outcome import Outcome, spec_of
from aa_core.jobs.retrained import retrainings
from aa_core.jobs.spec import JobProgress, JobSpec

__all__ = [
    "KINDS",
    "CalibrationRequest",
    "EffectsRequest",
    "Job",
    "JobProgress",
    "JobSpec",
    "Outcome",
    "all_jobs",
    "asked_counterfactual",
    "counterfactual_runs",
    "effects",
    "estimate_spec",
    "find",
    "perform",
    "replayed",
    "resume_dead",
    "retrainings",
    "run_spec",
    "spec_of",
    "submit",
    "whatif_spec",
]
