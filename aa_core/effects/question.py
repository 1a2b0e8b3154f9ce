"""What is asked of one backward sweep, and how its answer is put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from aa_core.confidence.reliability import assess
from aa_core.counterfactuals.counterfactual import Semantics, check_semantics
from aa_core.curvature import Curvature, check_curvature
from aa_core.effects.adjoint import AdjointStep, growth_of, performance_sweep
from aa_core.effects.attribution import Attribution, finite, provenance
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import Progress, prepare


class Question(NamedTuple):
    """A run, what to judge it by, and how to look back."""

    run: RunLike
    problem: Problem
    performance: Performance
    curvature: Curvature
    semantics: Semantics
    memory: int | None
    progress: Progress

    def training(self) -> Training:
        """The run's training; raises what makes the question impossible to answer."""
        check_curvature(self.curvature)
        check_semantics(self.semantics)
        return prepare(self.run, self.problem)

    def sweep(self, training: Training, start: int) -> Iterator[AdjointStep]:
        """Steps K-1, ..., start with their cotangents."""
        asked = (self.run, training, self.performance, self.curvature)
        return performance_sweep(*asked, start=start, memory=self.memory, progress=self.progress)

    def answer(
        self, training: Training, units: pd.DataFrame, effects: Tensor, norms: list[Tensor], method: str
    ) -> Attribution:
        """Effects [units, values] with what is known of them; `norms` of the cotangents as the sweep met them."""
        asked = (self.run, self.problem, self.performance, self.semantics, self.curvature)
        return Attribution(
            units=units,
            labels=self.performance.labels,
            effects=finite(effects),
            unit=self.performance.unit,
            reliability=assess(self.run, training, growth_of(norms), self.semantics, self.curvature),
            provenance=provenance(*asked, method=method, readout="linear"),
        )


def assuming(found: Attribution, *notes: str) -> Attribution:
    """The same answer with more named assumptions."""
    known = found.reliability
    return replace(found, reliability=replace(known, assumptions=(*known.assumptions, *notes)))
