"""Estimate against truth: predict what a counterfactual changes, retrain, compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import Tensor

from aa_core.agreement import Agreement, agreement
from aa_core.attribution import estimate
from aa_core.counterfactual import Counterfactual
from aa_core.curvature import Curvature
from aa_core.embedding import Readout
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.records import RunLike
from aa_core.reliability import Reliability
from aa_core.replay import Progress, silent
from aa_core.retrain import TrainedModel, final_model, retrain


@dataclass(frozen=True)
class WhatIf:
    """One counterfactual, estimated and really retrained. Effects are gamma(recorded) - gamma(counterfactual)."""

    counterfactual: Counterfactual
    labels: tuple[Any, ...]
    estimate: Tensor
    """[values], float64, CPU."""
    truth: Tensor
    """[values], float64, CPU."""
    recorded: Tensor
    """[values]: the performance of the recorded model."""
    unit: str
    agreement: Agreement
    model: TrainedModel
    reliability: Reliability
    """Of the estimate, as it was known before retraining."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """One row a value: example, recorded, retrained; estimate and truth are effects, positive = it had helped."""
        return pd.DataFrame(
            {
                "example": list(self.labels),
                "recorded": self.recorded.numpy(),
                "retrained": (self.recorded - self.truth).numpy(),
                "estimate": self.estimate.numpy(),
                "truth": self.truth.numpy(),
                "unit": self.unit,
            }
        )


def what_if(
    run: RunLike,
    problem: Problem,
    what: Counterfactual,
    performance: Performance,
    *,
    readout: Readout = "linear",
    curvature: Curvature = "exact",
    progress: Progress = silent,
    estimating: Progress = silent,
) -> WhatIf:
    """Estimate the effect of `what`, then retrain and measure it.

    progress counts the steps of the retraining, estimating those of the estimate before it.
    """
    estimated = estimate(run, problem, what, performance, readout=readout, curvature=curvature, progress=estimating)
    recorded = final_model(run, problem).performance(performance).double().cpu()
    model = retrain(run, problem, what, progress)
    truth = recorded - model.performance(performance).double().cpu()
    predicted = estimated.effects[0]
    return WhatIf(
        counterfactual=what,
        labels=performance.labels,
        estimate=predicted,
        truth=truth,
        recorded=recorded,
        unit=performance.unit,
        agreement=agreement(predicted.numpy(), truth.numpy()),
        model=model,
        reliability=estimated.reliability,
        provenance=estimated.provenance,
    )
