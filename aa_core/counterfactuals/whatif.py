"""Estimate against truth: predict what a counterfactual changes, retrain, compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from aa_core.confidence.agreement import NO_AGREEMENT, Agreement, agreement
from aa_core.confidence.calibration import find_calibration, prefer
from aa_core.confidence.reliability import Reliability
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.kept import NOT_KEPT, KeptState
from aa_core.counterfactuals.retrain import TrainedModel, final_model, retrain
from aa_core.curvature import Curvature
from aa_core.effects.attribution import provenance
from aa_core.effects.embedding import Method, Readout
from aa_core.effects.estimate import estimate
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.records import RunLike
from aa_core.replay import Progress, silent


@dataclass(frozen=True)
class WhatIf:
    """One counterfactual, estimated and really retrained. Effects are gamma(recorded) - gamma(counterfactual)."""

    counterfactual: Counterfactual
    labels: tuple[Any, ...]
    estimate: Tensor
    """[values], float64, CPU; NaN for a performance that has no derivative."""
    truth: Tensor
    """[values], float64, CPU."""
    recorded: Tensor
    """[values]: the performance of the recorded model."""
    unit: str
    agreement: Agreement
    model: TrainedModel
    reliability: Reliability | None
    """Of the estimate, as it was known before retraining; None where there is none."""
    noise: float | None = None
    """How far a mean effect on these values moves by itself, where a stored calibration measured it."""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def within_noise(self) -> bool | None:
        """Whether the mean effect, retrained, is no larger than the noise; None where that was not measured."""
        return None if self.noise is None else abs(float(self.truth.mean())) <= self.noise

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
    method: Method | None = None,
    readout: Readout | None = None,
    curvature: Curvature | None = None,
    progress: Progress = silent,
    estimating: Progress = silent,
    kept: KeptState = NOT_KEPT,
) -> WhatIf:
    """Estimate the effect of `what`, then retrain and measure it.

    A performance that changes in steps, such as accuracy, is measured only: its estimate is NaN.
    progress counts the steps of the retraining, estimating those of the estimate before it; `kept` is for `retrain`.
    """
    chosen, methods = (method, curvature, readout), what.methods
    method, curvature, readout = prefer(
        run, performance.basis, what.semantics, chosen, *methods, problem=problem.fingerprint
    )
    asked: dict[str, Any] = {"method": method, "readout": readout, "curvature": curvature}
    recorded = final_model(run, problem).performance(performance).double().cpu()
    if performance.differentiable:
        found = estimate(run, problem, what, performance, progress=estimating, **asked)
        predicted, reliability, origin = found.effects[0], found.reliability, found.provenance
    else:
        predicted, reliability = torch.full_like(recorded, torch.nan), None
        origin = provenance(run, problem, performance, what.manner, curvature, method="none", readout="none")
        origin["counterfactual"] = what.name
    model = retrain(run, problem, what, progress, kept)
    truth = recorded - model.performance(performance).double().cpu()
    known = find_calibration(run, performance.basis, what.semantics, problem.fingerprint)
    return WhatIf(
        counterfactual=what,
        labels=performance.labels,
        estimate=predicted,
        truth=truth,
        recorded=recorded,
        unit=performance.unit,
        agreement=agreement(predicted.numpy(), truth.numpy()) if performance.differentiable else NO_AGREEMENT,
        model=model,
        reliability=reliability,
        noise=None if known is None else known.noise_of(len(truth)),
        provenance=origin,
    )
