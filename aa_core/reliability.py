"""What is known about how far an effect can be believed. Every result carries one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from aa_core.counterfactual import SEMANTICS, WALL_CLOCK, Semantics
from aa_core.curvature import Curvature
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import load
from aa_core.state import Params

SMOOTH_GROWTH = 10.0
EXPLODED_GROWTH = 1e3


@dataclass(frozen=True)
class Reliability:
    """Figures that were measured while the effects were computed; no verdict is drawn without a retraining."""

    growth: float
    """How much a change of the state grew on its way (largest norm over the initial norm). Near or below 1: smooth."""
    effective_lr: float
    """Largest lr / (1 - momentum) (SGD), or lr (Adam), over all steps and groups."""
    stiff_share: float
    """Share of coordinates with zero second moment at the end (Adam), which react to a gradient without bound."""
    assumptions: tuple[str, ...] = field(default=())

    @property
    def words(self) -> str:
        """What the figures say, in a sentence."""
        if not self.growth < EXPLODED_GROWTH:
            return (
                f"Do not trust this estimate: a small change of the state grew {self.growth:.2g} times in training, "
                "so the first-order effect says little. Retrain to know."
            )
        if self.growth > SMOOTH_GROWTH:
            return (
                f"Treat with care: a small change of the state grew {self.growth:.2g} times during training. "
                "Retrain to confirm sign and size."
            )
        return (
            f"No warning sign: a small change of the state grew at most {self.growth:.2g} times. This is a first-order "
            "estimate; retrain to confirm it."
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "words": self.words}


def assess(run: RunLike, training: Training, growth: float, semantics: Semantics, curvature: Curvature) -> Reliability:
    """Collect the figures for a result that was just computed."""
    assumptions = [f"{semantics}: {SEMANTICS[semantics]}", WALL_CLOCK, "first order in the change that is propagated"]
    if curvature != "exact":
        assumptions.append(
            {"ggn": "curvature: generalised Gauss-Newton, not the exact Hessian", "none": "curvature neglected"}[
                curvature
            ]
        )
    final = load(run, training, run.checkpoints[-1])
    if next(training.problem.model.buffers(), None) is not None:
        assumptions.append("model buffers are held at their recorded values")
    return Reliability(growth, _effective_lr(run), _stiff_share(training, final.state.slots), tuple(assumptions))


def _effective_lr(run: RunLike) -> float:
    groups = (hyper for k in range(run.steps) for hyper in run.record(k).hyper)
    return max((h["lr"] / max(1 - h.get("momentum", 0.0), 1e-12) for h in groups), default=0.0)


def _stiff_share(training: Training, slots: dict[str, Params]) -> float:
    if training.rule.stiff is None:
        return 0.0
    names = next(iter(slots.values()))
    masks = [training.rule.stiff({s: slots[s][n] for s in slots}) for n in names]
    return float(sum(m.sum() for m in masks)) / max(sum(m.numel() for m in masks), 1)
