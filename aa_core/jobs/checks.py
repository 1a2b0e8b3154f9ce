"""Jobs that check: does the run replay, and which estimator does real retraining bear out?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from aa_core.check import check_run
from aa_core.confidence.calibrate import calibrate
from aa_core.counterfactuals.counterfactual import Semantics
from aa_core.counterfactuals.kept import NOT_KEPT, KeptState
from aa_core.jobs.job import all_jobs
from aa_core.jobs.outcome import Outcome, read_request
from aa_core.jobs.spec import Report, in_part
from aa_core.problem import Problem
from aa_core.run_performance import run_performance
from aa_core.runs.header import Model
from aa_core.runs.trajectory import Trajectory


class CalibrationRequest(Model):
    """The request of kind "calibrate", on all examples of the evaluation set."""

    performance: str
    semantics: Semantics


def calibration(
    run: Trajectory, problem: Problem, request: Mapping[str, Any], report: Report, _: KeptState = NOT_KEPT
) -> Outcome:
    """Retrain without each stage once; what was found is stored with the run's other calibrations, too."""
    asked = read_request(CalibrationRequest, request)
    gamma = run_performance(run, asked.performance)
    progress = in_part(report, "retraining without each stage", (0, 100), 100)
    found = calibrate(run, problem, gamma, semantics=asked.semantics, progress=progress)
    return Outcome(found.to_dict(), {"estimators": found.to_frame()})


def replay(
    run: Trajectory, problem: Problem, request: Mapping[str, Any], report: Report, _: KeptState = NOT_KEPT
) -> Outcome:
    """Replay every segment between two checkpoints; the table "drifts" has one row a segment."""
    found = check_run(run, problem, in_part(report, "replaying", (0, run.steps), run.steps))
    drifts = pd.DataFrame(found.drifts, columns=["step", "absolute", "relative", "allowed"])
    result = {"words": found.words, "sound": found.sound, "findings": found.findings, "segments": found.segments}
    return Outcome(result, {"drifts": drifts})


def replayed(run: Trajectory) -> dict[str, Any] | None:
    """What the newest replay of this very run found in this workspace: words, sound, job.

    None where none came to an end, or the files were damaged, so that nothing was replayed.
    """
    done = (j for j in all_jobs() if j.spec.kind == "replay" and j.spec.digest == run.digest and j.status == "done")
    for job in done:
        found = job.result()
        if not found["findings"]:
            words = found["words"].partition("; ")[2]  # before it: those about the files
            return {"words": words, "sound": found["sound"], "job": job.id}
    return None
