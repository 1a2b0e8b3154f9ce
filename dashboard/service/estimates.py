"""Estimated effects of stages and steps, and what a what-if would change, each with how far to believe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aa_core.checkpoints_only.checkpoints import CheckpointRun
from aa_core.checkpoints_only.segment_effects import segment_effects
from aa_core.checkpoints_only.segments import SegmentCurvature
from aa_core.confidence.calibration import find_calibration
from aa_core.confidence.reliability import Reliability, disagreement, signs_differ
from aa_core.confidence.verdict import Trust
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.retrain import final_model
from aa_core.effects.attribution import Attribution
from aa_core.effects.attribution import stage_effects as attribute_stages
from aa_core.effects.embedding import embed_stages
from aa_core.effects.estimate import estimate
from aa_core.jobs import EffectsRequest, estimate_spec
from aa_core.performance import CHUNK, Performance
from aa_core.problem import Problem
from aa_core.reporting.bins import BARS
from aa_core.reporting.bootstrap import bootstrap_interval
from aa_core.run_performance import run_performance
from dashboard.bars import working
from dashboard.selection import Readout, Selection
from dashboard.service import acts
from dashboard.service.desk import PARTS, Desk
from dashboard.service.engine import CHOSEN, Progress, memo
from dashboard.service.work import Answer, Waiting, ask, is_known, is_light, request_for, wait_for


class Belief(NamedTuple):
    """How far the numbers beside it can be believed."""

    words: str
    trust: Trust
    verified: bool
    """Did real retraining of this run say so?"""
    assumptions: tuple[str, ...]

    @staticmethod
    def of(found: Reliability) -> Belief:
        verdict = found.verdict
        return Belief(verdict.words, verdict.trust, verdict.verified, found.assumptions)

    @staticmethod
    def read(found: Mapping[str, Any]) -> Belief:
        """From a reliability as plain values."""
        verdict = found["verdict"]
        return Belief(found["words"], verdict["trust"], verdict["verified"], tuple(found["assumptions"]))


@dataclass(frozen=True)
class Effects:
    """Effects of stages or steps with all that has to stand beside them."""

    frame: pd.DataFrame
    """stage [, step], effect [, low, high, unsure: the readouts disagree in sign]; positive = helped."""
    unit: str
    n: int
    belief: Belief

    @property
    def unsure(self) -> list[str]:
        """The stages of which not even the sign is sure."""
        return [] if "unsure" not in self.frame else self.frame.loc[self.frame["unsure"], "stage"].tolist()


@dataclass(frozen=True)
class Prediction:
    """Mean performance as recorded, and as predicted for a counterfactual; effect is the difference."""

    recorded: float
    without: float
    effect: float
    unit: str
    n: int
    belief: Belief


def request_of(s: Selection) -> tuple[str, ...]:
    """What decides the effects of all stages on all examples."""
    return ("stages", s.performance, s.method, s.curvature, s.semantics)


def stages(desk: Desk, s: Selection, progress: Progress) -> Effects:
    """The mean effect of each stage on the selected examples, with its interval over the examples."""
    every, rows = every_stage(desk, s, progress), desk.rows(s)
    return Effects(_means(desk, s, every, rows), every.unit, len(rows), Belief.of(known_of(desk, every, rows, s)))


def wholes(desk: Desk, s: Selection) -> dict[str, float]:
    """{stage: its mean effect on the selected examples}, if that was computed already; else nothing."""
    every = memo().get(desk.key(request_of(s)))
    frame = pd.DataFrame() if every is None else _means(desk, s, every, desk.rows(s))
    return {row.stage: row.effect for row in frame.itertuples()}


def _means(desk: Desk, s: Selection, every: Attribution, rows: np.ndarray) -> pd.DataFrame:
    """`mean_over`, once for these examples: its interval takes a while where they are many."""
    key = ("mean", *request_of(s), s.readout, rows.tobytes())
    return desk.remember(key, lambda: mean_over(every, rows, s.readout))


def known_of(desk: Desk, every: Attribution, rows: np.ndarray, s: Selection) -> Reliability:
    """What is known of the estimates on some of the examples, with the latest calibration."""
    spread, signs = disagreement(readings_of(every, rows))
    method, curvature, _ = every.reliability.estimator or (s.method, s.curvature, s.readout)
    return replace(
        every.reliability,
        readout_spread=spread,
        signs_agree=signs,
        estimator=(method, curvature, s.readout),
        calibration=find_calibration(
            desk.run, every.provenance["evaluation"], s.semantics, every.provenance["problem"]
        ),
        judged=len(rows),
    )


def every_stage(desk: Desk, s: Selection, progress: Progress) -> Attribution:
    """All stages on all examples, in all readouts: whatever is selected later is a mean over this."""

    if isinstance(desk.run, CheckpointRun):
        gamma = run_performance(desk.run, s.performance)
        return desk.ask(request_of(s), partial(from_checkpoints, desk.run, desk.problem, gamma, s, progress))

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

    if desk.key(request_of(s)) not in memo():
        wait_for(desk, request_for(s, by="stages"))
    return desk.ask(request_of(s), work)


def from_checkpoints(
    run: CheckpointRun, problem: Problem, gamma: Performance, s: Selection, progress: Progress
) -> Attribution:
    """The segment-wise approximation."""
    if (s.method, s.semantics) != ("boundary", "freeze"):
        run.refuse("this method or meaning of leaving out needs its steps; choose a stage as a whole, and frozen")
    return segment_effects(run, problem, gamma, curvature=segment_curvature(s), readout=s.readout, progress=progress)


def segment_curvature(s: Selection) -> SegmentCurvature:
    """Gauss-Newton stands in for the exact curvature, which has no segment-wise form."""
    return "none" if s.curvature == "none" else "ggn"


def steps(desk: Desk, s: Selection, progress: Progress) -> Effects:
    """The effect of each step of the zoomed stage on the mean of the selected examples."""
    result, table = ask(desk, _from_zoomed(desk, s), progress)
    frame = table[table["stage"] == s.stage].reset_index(drop=True)
    return Effects(frame, result["unit"], result["n"], Belief.read(result["reliability"]))


def _from_zoomed(desk: Desk, s: Selection) -> EffectsRequest:
    """The steps of the zoomed stage and of all later ones, which the backward sweep passes anyway; or a known answer
    that has them."""
    names = desk.facts().stages
    wanted = [request_for(s, by="steps", examples=picked(desk, s), stages=names[i:]) for i in range(len(names))]
    fitting = wanted[: names.index(s.stage) + 1]
    return next((asked for asked in fitting if is_known(desk, asked)), fitting[-1])


def training_examples(desk: Desk, s: Selection, step: int, progress: Progress) -> Effects:
    """The effect of each training example of a step, on the mean of the selected examples; in the order of the batch.

    All steps of the stage are answered at once: the next click finds its answer.
    """
    stage = next(stage.name for stage in desk.run.stages if step in stage.steps)
    result, table = ask(desk, request_for(s, by="batches", examples=picked(desk, s), stages=(stage,)), progress)
    frame = table[table["step"] == step].reset_index(drop=True)
    return Effects(frame, result["unit"], result["n"], Belief.read(result["reliability"]))


def batch(desk: Desk, s: Selection, step: int, progress: Progress) -> Effects:
    """The training examples of a step with their effects: row, id, label, effect, in the order of the batch.

    An example may be in a batch twice: it has one row, of both effects.
    """
    found = training_examples(desk, s, step, progress)
    frame = desk.batch(step).assign(effect=found.frame["effect"].to_numpy())
    once = frame.groupby("row", sort=False, as_index=False).agg({"id": "first", "label": "first", "effect": "sum"})
    return replace(found, frame=once)


def parts(desk: Desk, s: Selection, by: Literal["layers", "causes"], progress: Progress) -> Effects:
    """The effect of each stage on the mean of the selected examples, split; `frame` has the column layer or cause."""
    result, table = ask(desk, request_for(s, by=by, examples=picked(desk, s)), progress)
    return Effects(table, result["unit"], result["n"], Belief.read(result["reliability"]))


def shares(desk: Desk, s: Selection, progress: Progress) -> tuple[pd.DataFrame, float, str]:
    """What the performance gained while each stage was trained: (stage, share), where it began, and the unit."""
    result, table = ask(desk, request_for(s, by="shares", examples=picked(desk, s)), progress)
    return table, result["start"], result["unit"]


def bar_width(frame: pd.DataFrame) -> int:
    """How many neighbouring steps a bar of the step chart sums."""
    return max(1, -(-len(frame) // BARS))


def picked(desk: Desk, s: Selection) -> tuple[int, ...] | None:
    """The selected examples; None for all."""
    rows = desk.rows(s)
    return None if len(rows) == len(desk.evaluation) else tuple(rows.tolist())


def predicted(desk: Desk, s: Selection, what: Counterfactual, progress: Progress) -> Prediction:
    """What a counterfactual would do to the selected examples; raises Waiting while a job computes that."""
    gamma, method = run_performance(desk.recorded, s.performance), what.method_like(s.method)
    how: dict[str, Any] = {"method": method, "readout": s.readout, "curvature": s.curvature}

    def work() -> Attribution:
        if what.skips_stages and is_light(desk):  # one replay for this stage and for all that are asked about next
            asked = {"method": method, "curvature": s.curvature, "semantics": what.semantics}
            embed_stages(desk.recorded, desk.problem, progress=progress, **asked)  # type: ignore[arg-type]
        return estimate(desk.recorded, desk.problem, what, gamma, progress=progress, **how)

    def final() -> np.ndarray:
        model, found = final_model(desk.recorded, desk.problem), []
        with working("Running the recorded model over the evaluation set", "example") as told:
            for start in range(0, len(gamma), CHUNK // PARTS):
                found.append(model.performance(gamma[start : start + CHUNK // PARTS]).double().cpu())
                told(min(start + CHUNK // PARTS, len(gamma)), len(gamma))
        return torch.cat(found).numpy()

    key = ("what-if", repr(what), s.performance, method, s.curvature, s.readout)
    if desk.key(key) not in memo():
        if what.skips_stages:
            wait_for(desk, request_for(replace(s, method=method), by="stages"))
        elif not is_light(desk):
            return _by_a_job(desk, s, what, how)
    found, recorded = desk.ask(key, work), desk.ask(("final", s.performance), final)
    rows = desk.rows(s)
    effect, before = float(found.effects.numpy()[0, rows].mean()), float(recorded[rows].mean())
    known = replace(found.reliability, judged=len(rows))
    return Prediction(before, before - effect, effect, gamma.unit, len(rows), Belief.of(known))


def _by_a_job(desk: Desk, s: Selection, what: Counterfactual, how: dict[str, Any]) -> Prediction:
    """The prediction of a job that only estimates, on all examples; raises Waiting until it is done."""
    job = acts.start(estimate_spec(desk.recorded, what, s.performance, problem=CHOSEN, **how))
    if job.status != "done":
        raise Waiting(job)
    found, table = desk.remember(("estimated", job.id), lambda: Answer(job.result(), job.table("examples")))
    rows = table.iloc[desk.rows(s)]
    before, effect = float(rows["recorded"].mean()), float(rows["estimate"].mean())
    return Prediction(before, before - effect, effect, found["unit"], len(rows), Belief.read(found["reliability"]))


def mean_over(every: Attribution, rows: np.ndarray, readout: Readout) -> pd.DataFrame:
    """stage, effect, low, high, unsure: the mean over some of the examples, and its interval."""
    readings = readings_of(every, rows)
    low, high = bootstrap_interval(readings[readout])
    means = readings[readout].mean(1).numpy()
    return every.units.assign(effect=means, low=low, high=high, unsure=signs_differ(readings))


def readings_of(every: Attribution, rows: np.ndarray) -> dict[Readout, Tensor]:
    """{readout: [stages, examples]} on some of the examples."""
    return {name: values[:, torch.from_numpy(rows.copy())] for name, values in every.readings.items()}
