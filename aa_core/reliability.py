"""What is known about how far an effect can be believed. Every result carries one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from aa_core.counterfactual import SEMANTICS, WALL_CLOCK, Semantics
from aa_core.curvature import Curvature
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import load
from aa_core.state import Params

GROWTH_WITH_CARE, GROWTH_LOST = 10.0, 1e3
SPREAD_WITH_CARE = 0.5
"""Above these the words warn. Chosen by judgement; a calibration against retraining decides."""


@dataclass(frozen=True)
class Reliability:
    """Figures measured while the effects were computed. They can warn; only a retraining can confirm."""

    growth: float
    """How much a change of the state grew on its way (largest norm over initial norm). Near or below 1: smooth."""
    effective_lr: float
    """Largest lr / (1 - momentum) (SGD), or lr (Adam), over all steps and groups."""
    stiff_share: float
    """Share of coordinates with zero second moment at the end (Adam), which react to a gradient without bound."""
    readout_spread: float | None
    """Stages: how far the three readouts lie apart, summed over stages, relative to their size. 0 = they agree."""
    signs_agree: float | None
    """Stages: share of stages whose mean effect has the same sign in all three readouts."""
    assumptions: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What the figures say, in a sentence or two."""
        if not self.growth < GROWTH_LOST:
            return (
                f"Do not trust this estimate: a small change of the state grew {self.growth:.2g} times in training, so "
                "first order says little. Retrain to know."
            )
        if self.signs_agree is not None and self.signs_agree < 1:
            return (
                f"Treat with care: for {1 - self.signs_agree:.0%} of the stages the three readouts disagree even in "
                "sign. Retrain to confirm."
            )
        if self.growth > GROWTH_WITH_CARE:
            return (
                f"Treat with care: a small change of the state grew {self.growth:.2g} times in training. "
                "Retrain to confirm sign and size."
            )
        if self.readout_spread is not None and self.readout_spread > SPREAD_WITH_CARE:
            return (
                f"Signs agree, sizes do not: the three readouts lie {self.readout_spread:.0%} apart. "
                "Retrain to confirm sizes."
            )
        return (
            f"No warning sign: a small change of the state grew at most {self.growth:.2g} times"
            + (f", the three readouts lie {self.readout_spread:.0%} apart" if self.readout_spread is not None else "")
            + ". This is a first-order estimate; retrain to confirm it."
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "words": self.words}


def assess(
    run: RunLike,
    training: Training,
    growth: float,
    semantics: Semantics,
    curvature: Curvature,
    readings: Mapping[Any, Tensor] | None = None,
) -> Reliability:
    """Collect the figures for a result that was just computed; `readings` are [units, values] per readout."""
    spread, signs = (None, None) if readings is None else disagreement(readings)
    slots = load(run, training, run.checkpoints[-1]).state.slots
    return Reliability(
        growth,
        _effective_lr(run),
        _stiff_share(training, slots),
        spread,
        signs,
        _assumptions(training, semantics, curvature),
    )


def disagreement(readings: Mapping[Any, Tensor]) -> tuple[float, float]:
    """(spread, share of same signs) of the units' mean effects over the readouts."""
    means = torch.stack([effects.mean(1) for effects in readings.values()])
    size = means.abs().mean(0).sum()
    spread = float((means.max(0).values - means.min(0).values).sum() / size) if size > 0 else 0.0
    same = (means.sign() == means[0].sign()).all(0).double()
    return spread, float(same.mean()) if len(same) else 1.0


def _assumptions(training: Training, semantics: Semantics, curvature: Curvature) -> tuple[str, ...]:
    curved = {"ggn": "curvature: generalised Gauss-Newton, not the exact Hessian", "none": "curvature neglected"}
    return (
        f"{semantics}: {SEMANTICS[semantics]}",
        WALL_CLOCK,
        "first order in the change that is propagated",
        *([curved[curvature]] if curvature in curved else []),
        *(
            ["model buffers are held at their recorded values"]
            if next(training.problem.model.buffers(), None) is not None
            else []
        ),
    )


def _effective_lr(run: RunLike) -> float:
    groups = (hyper for k in range(run.steps) for hyper in run.record(k).hyper)
    return max((h["lr"] / max(1 - h.get("momentum", 0.0), 1e-12) for h in groups), default=0.0)


def _stiff_share(training: Training, slots: dict[str, Params]) -> float:
    if training.rule.stiff is None:
        return 0.0
    names = next(iter(slots.values()))
    masks = [training.rule.stiff({s: slots[s][n] for s in slots}) for n in names]
    return float(sum(m.sum() for m in masks)) / max(sum(m.numel() for m in masks), 1)
