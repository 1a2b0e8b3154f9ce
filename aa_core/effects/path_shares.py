"""What the performance gained while each stage or step was trained: exact, but it answers another question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from aa_core.errors import RequestError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import Progress, at_steps, prepare, silent
from aa_core.stages import stage_of_steps
from aa_core.version import __version__

By = Literal["stage", "step"]


@dataclass(frozen=True)
class PathShares:
    """gamma after minus gamma before each unit: no counterfactual, so "share", never "effect"."""

    units: pd.DataFrame
    """One row a unit: column `stage`, or `step` and `stage`."""
    labels: tuple[Any, ...]
    shares: Tensor
    """[units, values], float64 on the CPU; positive = the performance rose meanwhile."""
    start: Tensor
    """[values]: gamma before the first step."""
    end: Tensor
    """[values]: gamma after the last; start plus all shares."""
    unit: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row per unit and value, with columns of `units`, then example, share, unit."""
        frame = self.units.loc[self.units.index.repeat(len(self.labels))].reset_index(drop=True)
        return frame.assign(
            example=list(self.labels) * len(self.units), share=self.shares.flatten().numpy(), unit=self.unit
        )


def path_shares(
    run: RunLike, problem: Problem, performance: Performance, by: By = "stage", progress: Progress = silent
) -> PathShares:
    """gamma(theta_e) - gamma(theta_s) of every block [s, e), summed by stage; or of every step.

    Telescopes: all shares add up to gamma(theta_K) - gamma(theta_0). What a stage taught and a later one erased is in
    its share but not in its effect; what it only prepared is in its effect but not in its share. No derivative is
    taken, so accuracy can be asked for too. Costs one replay, and one evaluation for each end of a block or step.
    """
    if by not in get_args(By):
        raise RequestError(f"by={by!r}; expected one of {', '.join(get_args(By))}")
    units = _units(run, by)
    edges = {edge for blocks in units["blocks"] for block in blocks for edge in block}
    gamma = _values_at(run, prepare(run, problem), performance, {0, *edges, run.steps}, progress)
    shares = [torch.stack([gamma[e] - gamma[s] for s, e in blocks]).sum(0) for blocks in units["blocks"]]
    return PathShares(
        units=units.drop(columns="blocks"),
        labels=performance.labels,
        shares=torch.stack(shares) if shares else torch.zeros(0, len(performance), dtype=torch.float64),
        start=gamma[0],
        end=gamma[run.steps],
        unit=performance.unit,
        provenance={
            "run": run.digest,
            "problem": problem.fingerprint,
            "performance": performance.name,
            "evaluation": performance.digest,
            "n": len(performance.targets),
            "method": "path share",
            "sign": "positive = the performance rose meanwhile",
            "code": __version__,
        },
    )


def _units(run: RunLike, by: By) -> pd.DataFrame:
    """The units with their blocks of steps."""
    if by == "stage":
        stages = [s for s in run.stages if len(s)]
        return pd.DataFrame({"stage": [s.name for s in stages], "blocks": [s.blocks for s in stages]})
    owner = stage_of_steps(run.stages, run.steps)
    return pd.DataFrame({"step": range(run.steps), "stage": owner, "blocks": [[(k, k + 1)] for k in range(run.steps)]})


def _values_at(
    run: RunLike, training: Training, performance: Performance, steps: Iterable[int], progress: Progress
) -> dict[int, Tensor]:
    """gamma before each of these steps, [values] in float64 on the CPU."""
    found = {}
    for at in at_steps(run, training, steps):
        with torch.no_grad():
            values = performance(training.stretch(at.step).problem, at.state.judged, at.buffers)
        found[at.step] = values.double().cpu()
        progress(at.step, run.steps)
    return found
