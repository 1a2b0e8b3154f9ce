"""What is known of how far this run's effects can be believed, and the jobs that find out more."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from aa_core.confidence.calibration import Calibration, Figures, find_calibration
from aa_core.confidence.reliability import Reliability
from aa_core.jobs import CalibrationRequest, Job, JobSpec, all_jobs, asked_counterfactual, replayed, spec_of
from aa_core.run_performance import run_performance
from dashboard.selection import Selection
from dashboard.service.desk import Desk
from dashboard.service.engine import CHOSEN, Progress
from dashboard.service.estimates import every_stage, known_of
from dashboard.service.retraining import past, without


def known(desk: Desk, s: Selection, progress: Progress) -> Reliability:
    """All figures about the effects of the stages on the selected examples."""
    return known_of(desk, every_stage(desk, s, progress), desk.rows(s), s)


def calibration(desk: Desk, s: Selection) -> Calibration | None:
    """What retraining every stage said, for this performance on the whole evaluation set."""
    return find_calibration(desk.run, digest_of_all(desk, s), s.semantics)


class Truth(NamedTuple):
    """What retraining without a stage measured, on the examples that are selected."""

    effect: float
    here: bool
    """Whether this workspace measured it; else it came with the run, and is a claim."""


def retrained(desk: Desk, s: Selection) -> dict[str, Truth]:
    """{stage: its true mean effect}, for the stages that the model was really trained again without."""
    if not desk.has_steps:
        return {}
    found, rows = calibration(desk, s), desk.rows(s)
    known: dict[str, Truth] = {}
    if found is not None and len(rows) == found.values:
        known = {name: Truth(effect, found.here) for name, effect in zip(found.stages, found.truth, strict=True)}
    names = [stage.name for stage in desk.run.stages]
    same = replay_job(desk)  # of another problem it would be another training
    for job in past(desk):
        spec, stage = job.spec, next((name for name in names if job.spec.request["skip"] == [name]), "")
        alike = (spec.problem, spec.problem_digest) == (same.problem, same.problem_digest)
        if not stage or not alike or spec.request["performance"] != s.performance:
            continue
        measured = stage in known and known[stage].here
        if not measured and asked_counterfactual(spec) == without(s, stage) and job.status == "done":
            effects = desk.remember(("retrained", job.id), partial(job.table, "examples")).set_index("example")["truth"]
            if np.isin(rows, effects.index).all():
                known[stage] = Truth(float(effects[rows].mean()), here=True)
    return known


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
