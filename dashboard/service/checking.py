"""What is known of how far this run's effects can be believed, and the jobs that find out more."""

from __future__ import annotations

import pandas as pd

from aa_core.confidence.calibration import Calibration, Figures, find_calibration
from aa_core.confidence.reliability import Reliability
from aa_core.jobs import CalibrationRequest, Job, JobSpec, all_jobs, replayed, spec_of
from aa_core.run_performance import run_performance
from dashboard.selection import Selection
from dashboard.service.desk import Desk
from dashboard.service.engine import CHOSEN, Progress
from dashboard.service.estimates import every_stage, known_of


def known(desk: Desk, s: Selection, progress: Progress) -> Reliability:
    """All figures about the effects of the stages on the selected examples."""
    return known_of(desk, every_stage(desk, s, progress), desk.rows(s), s)


def calibration(desk: Desk, s: Selection) -> Calibration | None:
    """What retraining every stage said, for this performance on the whole evaluation set."""
    return find_calibration(desk.run, digest_of_all(desk, s), s.semantics)


def noise(desk: Desk, s: Selection) -> float | None:
    """How far a mean effect moves with next to nothing, at most; None where that was not measured.

    On some of the examples: as far as on any one. Below it nothing is known.
    """
    found = calibration(desk, s)
    return None if found is None else found.noise_of(len(desk.rows(s)))


def chosen_by(found: Calibration) -> dict[str, str]:
    """The estimator that a calibration prefers, as settings of a selection."""
    best = found.default
    return {} if best is None else {"method": best.method, "curvature": best.curvature, "readout": best.readout}


def preferred(desk: Desk) -> dict[str, str]:
    """The estimator that any stored calibration of this run prefers; empty if there is none."""
    found = find_calibration(desk.run, None)
    return {} if found is None else chosen_by(found)


def against_truth(found: Calibration, figures: Figures) -> pd.DataFrame:
    """stage, estimate, truth: the means of one estimator beside those of retraining."""
    return pd.DataFrame({"stage": found.stages, "estimate": figures.means, "truth": found.truth})


def calibration_job(desk: Desk, s: Selection) -> JobSpec:
    """Retrain without each stage, and compare every estimator with it."""
    asked = CalibrationRequest(performance=s.performance, semantics=s.semantics)
    return spec_of("calibrate", desk.recorded, asked, CHOSEN)


def replay_job(desk: Desk) -> JobSpec:
    """Replay every segment of the run and compare it with its checkpoint."""
    return spec_of("replay", desk.recorded, {}, CHOSEN)


def replay_words(desk: Desk) -> str:
    """What a finished replay of this run found; empty where there is none."""
    found = replayed(desk.recorded)
    return "" if found is None else found["words"]


def jobs() -> list[Job]:
    """All jobs of this workspace, newest first."""
    return list(all_jobs())


def digest_of_all(desk: Desk, s: Selection) -> str:
    """Of the performance and all examples of the evaluation set."""
    return desk.remember(("digest", s.performance), lambda: run_performance(desk.run, s.performance).digest)
