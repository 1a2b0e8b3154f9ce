"""Estimated effects of stages and steps, and what a what-if would change, each with how far to believe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aa_core.attribution import Attribution, predict, step_effects
from aa_core.attribution import stage_effects as attribute_stages
from aa_core.counterfactual import Counterfactual
from aa_core.reliability import Reliability, disagreement
from aa_core.reporting.bootstrap import bootstrap_interval
from aa_core.retrain import final_model
from aa_core.run_performance import run_performance
from dashboard.selection import Readout, Selection
from dashboard.service.desk import Desk
from dashboard.service.engine import Progress, memo


@dataclass(frozen=True)
class Effects:
    """Effects of stages or steps with all that has to stand beside them."""

    frame: pd.DataFrame
    """stage [, step], effect [, low, high, unsure: the readouts disagree in sign]; positive = helped."""
    unit: str
    n: int
    reliability: Reliability

    @property
    def unsure(self) -> list[str]:
        """The stages of which not even the sign is sure."""
        return [] if "unsure" not in self.frame else self.frame.loc[self.frame["unsure"], "stage"].tolist()

    @property
    def alarming(self) -> bool:
        """Does the estimate itself say that it should not simply be believed?"""
        return not self.reliability.words.startswith("No warning sign")


@dataclass(frozen=True)
class Prediction:
    """Mean performance as recorded, and as predicted without some stages; effect is the difference."""

    recorded: float
    without: float
    effect: float
    unit: str
    n: int


def request_of(s: Selection) -> tuple[str, ...]:
    """What decides the effects of all stages on all examples."""
    return ("stages", s.performance, s.method, s.curvature, s.semantics)


def stages(desk: Desk, s: Selection, progress: Progress) -> Effects:
    """The mean effect of each stage on the selected examples, with its interval over the examples."""
    every, rows = every_stage(desk, s, progress), desk.rows(s)
    return desk.remember(("mean", *request_of(s), s.readout, rows.tobytes()), lambda: mean_over(every, rows, s.readout))


def every_stage(desk: Desk, s: Selection, progress: Progress) -> Attribution:
    """All stages on all examples, in all readouts: whatever is selected later is a mean over this."""

    def work() -> Attribution:
        return attribute_stages(
            desk.run,
            desk.problem,
            run_performance(desk.run, s.performance),
            method=s.method,
            curvature=s.curvature,
            semantics=s.semantics,
            progress=progress,
        )

    return desk.ask(request_of(s), work)


def steps(desk: Desk, s: Selection, progress: Progress) -> Effects:
    """The effect of each step of the zoomed stage on the mean of the selected examples."""
    rows = desk.rows(s)
    found = _steps_from(desk, s, rows, progress)
    frame = found.to_frame()[["step", "stage", "effect"]]
    frame = frame[frame["stage"] == s.stage].reset_index(drop=True)
    return Effects(frame, found.unit, len(rows), found.reliability)


def _steps_from(desk: Desk, s: Selection, rows: np.ndarray, progress: Progress) -> Attribution:
    """The steps of the zoomed stage and of all later ones: the backward sweep passes them anyway."""
    names = [stage.name for stage in desk.run.stages]
    place = names.index(s.stage)
    base = ("steps", s.performance, s.curvature, s.semantics, rows.tobytes())
    known = ((*base, name) for name in names[: place + 1] if desk.key((*base, name)) in memo())

    def work() -> Attribution:
        return step_effects(
            desk.run,
            desk.problem,
            run_performance(desk.run, s.performance, rows.tolist()).mean(),
            stages=names[place:],
            curvature=s.curvature,
            semantics=s.semantics,
            progress=progress,
        )

    return desk.ask(next(known, (*base, s.stage)), work)


def predicted(desk: Desk, s: Selection, progress: Progress) -> Prediction:
    """What leaving out `s.skip` would do to the selected examples."""
    key = ("what-if", s.skip, s.performance, s.curvature, s.readout, s.semantics)
    what = Counterfactual.skip(*s.skip, semantics=s.semantics)
    gamma = run_performance(desk.run, s.performance)

    def work() -> tuple[np.ndarray, np.ndarray]:
        effects = predict(
            desk.run, desk.problem, what, gamma, readout=s.readout, curvature=s.curvature, progress=progress
        )
        return effects.numpy(), final_model(desk.run, desk.problem).performance(gamma).double().cpu().numpy()

    effects, recorded = desk.ask(key, work)
    rows = desk.rows(s)
    effect, before = float(effects[rows].mean()), float(recorded[rows].mean())
    return Prediction(before, before - effect, effect, gamma.unit, len(rows))


def mean_over(every: Attribution, rows: np.ndarray, readout: Readout) -> Effects:
    """The mean over some of the examples, and what is known about how far to believe it there."""
    readings = {name: values[:, torch.from_numpy(rows.copy())] for name, values in every.readings.items()}
    chosen = readings[readout]
    low, high = bootstrap_interval(chosen)
    frame = every.units.assign(effect=chosen.mean(1).numpy(), low=low, high=high, unsure=_signs_differ(readings))
    spread, signs = disagreement(readings)
    return Effects(frame, every.unit, len(rows), replace(every.reliability, readout_spread=spread, signs_agree=signs))


def _signs_differ(readings: Mapping[Any, Tensor]) -> list[bool]:
    """For each stage: do the readouts disagree in the sign of its mean effect?"""
    signs = torch.stack([values.mean(1) for values in readings.values()]).sign()
    return (signs != signs[0]).any(0).tolist()
