"""Jobs that estimate: the effects of stages, steps, layers, causes or training examples, and path shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from aa_core.confidence.borne_out import with_calibration
from aa_core.counterfactuals.counterfactual import Semantics
from aa_core.counterfactuals.kept import NOT_KEPT, KeptState
from aa_core.curvature import Curvature
from aa_core.effects.attribution import Attribution, stage_effects, step_effects
from aa_core.effects.embedding import Method
from aa_core.effects.example_effects import example_effects_by_step
from aa_core.effects.path_shares import PathShares, path_shares
from aa_core.effects.splits import collapse, stage_effects_by_parameter, step_effects_by_cause
from aa_core.jobs.outcome import Outcome, read_request
from aa_core.jobs.spec import Report, in_part
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.replay import Progress
from aa_core.run_performance import run_performance
from aa_core.runs.header import Count, Model, StageName
from aa_core.runs.trajectory import Trajectory

By = Literal["stages", "steps", "layers", "causes", "batches", "shares"]


class EffectsRequest(Model):
    """The request of kind "effects", on the mean of the examples."""

    by: By
    performance: str
    examples: tuple[Count, ...] | None
    stages: tuple[StageName, ...] | None
    """Only the steps or stages of these; the table of shares has always all."""
    method: Method
    curvature: Curvature
    semantics: Semantics


def effects(
    run: Trajectory, problem: Problem, request: Mapping[str, Any], report: Report, _: KeptState = NOT_KEPT
) -> Outcome:
    """The table "effects": columns of the units, then effect (positive = helped); for path shares, share."""
    asked = read_request(EffectsRequest, request)
    gamma = run_performance(run, asked.performance, asked.examples)
    mean = gamma if len(gamma) == 1 else gamma.mean()
    progress = in_part(report, "estimating", (0, run.steps), run.steps)
    if asked.by == "shares":
        return _shares(path_shares(run, problem, mean, progress=progress), len(gamma))
    found = with_calibration(_attribute(run, problem, mean, asked, progress), run, asked.performance)
    table = found.units.drop(columns="example", errors="ignore").assign(effect=found.effects[:, 0].numpy())
    summary = {"unit": found.unit, "n": len(gamma), "provenance": found.provenance}
    return Outcome({**summary, "reliability": found.reliability.to_dict()}, {"effects": table})


def _attribute(
    run: Trajectory, problem: Problem, mean: Performance, asked: EffectsRequest, progress: Progress
) -> Attribution:
    stages = None if asked.stages is None else list(asked.stages)
    curvature, semantics = asked.curvature, asked.semantics
    match asked.by:
        case "stages":
            return stage_effects(
                run, problem, mean, stages=stages, method=asked.method, curvature=curvature, semantics=semantics,
                progress=progress,
            )  # fmt: skip
        case "steps":
            return step_effects(
                run, problem, mean, stages=stages, curvature=curvature, semantics=semantics, progress=progress
            )
        case "layers":
            by_parameter = stage_effects_by_parameter(
                run, problem, mean, stages=stages, curvature=curvature, semantics=semantics, progress=progress
            )
            return collapse(by_parameter, "stage", "layer")
        case "causes":
            by_step = step_effects_by_cause(run, problem, mean, stages=stages, curvature=curvature, progress=progress)
            return collapse(by_step, "stage", "cause")
        case _:
            return example_effects_by_step(run, problem, mean, stages=stages, curvature=curvature, progress=progress)


def _shares(found: PathShares, n: int) -> Outcome:
    table = found.units.assign(share=found.shares[:, 0].numpy())
    return Outcome({"unit": found.unit, "n": n, "start": float(found.start[0])}, {"effects": table})
