"""How well defined the truth itself is: the same trainings again, from a start that was moved by next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.fleet import Lane, train_lanes
from aa_core.counterfactuals.intervention import intervene
from aa_core.counterfactuals.reordered import reordered, shuffled
from aa_core.errors import RequestError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import Progress, load, prepare, silent
from aa_core.state import Snapshot, as_rays, norm, subtract


@dataclass(frozen=True)
class NoiseFloor:
    """The largest change of an effect and of the performance over the repeats. Below it a number means nothing."""

    counterfactual: str
    labels: tuple[Any, ...]
    recorded: Tensor
    """[values]: how far the performance of the recorded run moved; float64, CPU, as all here."""
    effects: Tensor
    """[values]: how far the effect of the counterfactual moved."""
    mean_recorded: float
    """How far the mean performance moved."""
    mean_effect: float
    """How far the mean effect moved."""
    growth: float
    """Distance of the final parameters over the distance of the first ones, largest over the repeats."""
    relative: float
    """Norm of the change of the start over the norm of the parameters, per tensor."""
    repeats: int
    unit: str
    orders: int = 0
    """Other orders of the batches within their stages, each trained with and without."""
    effects_by_order: Tensor | None = None
    """[values]: how far the effect is from that of the recorded order, largest over the orders; another question than
    the noise, and not all that another seed of the data loader changes, which also mixes the examples anew."""
    mean_effect_by_order: float | None = None

    @property
    def words(self) -> str:
        """What the figures say, in two sentences, or three."""
        if self.mean_effect_by_order is not None:
            return replace(self, mean_effect_by_order=None).words + (
                f" With the batches of every stage in {self.orders} other order{'s' * (self.orders > 1)}, the mean "
                f"effect moved by up to {self.mean_effect_by_order:.1e}."
            )
        return (
            f"With a start moved by {self.relative:.0e} of itself, training ended {self.growth:.2g} times as far away, "
            f"and the effect ({self.counterfactual}) moved by at most {float(self.effects.max()):.1e} {self.unit} on an "  # noqa: E501
            f"example and {self.mean_effect:.1e} on the mean. What is smaller is noise, in an estimate and in the truth."  # noqa: E501
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a value: example, recorded, effect (how far each moved), unit."""
        columns = {"recorded": self.recorded.numpy(), "effect": self.effects.numpy()}
        return pd.DataFrame({"example": list(self.labels), **columns, "unit": self.unit})

    def to_dict(self) -> dict[str, Any]:
        """The figures without the single values."""
        return {
            "counterfactual": self.counterfactual,
            "mean_recorded": self.mean_recorded,
            "mean_effect": self.mean_effect,
            "largest_effect": float(self.effects.max()),
            "growth": self.growth,
            "relative": self.relative,
            "repeats": self.repeats,
            "orders": self.orders,
            "mean_effect_by_order": self.mean_effect_by_order,
            "unit": self.unit,
            "words": self.words,
        }


def noise_floor(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    what: Counterfactual | None = None,
    relative: float = 1e-6,
    repeats: int = 3,
    orders: int = 0,
    progress: Progress = silent,
) -> NoiseFloor:
    """Repeat the recorded run and a counterfactual from starts moved in random directions; report how far they move.

    Args:
        what: the counterfactual; without the first stage by default, which leaves the most training after it.
        relative: size of the move, relative to the norm of each parameter tensor.
        orders: beside that, repeat both with the batches of every stage in so many other orders.

    Cost: 2 (repeats + 1) trainings, all together (see `aa_core.counterfactuals.fleet`); 2 more an order.
    """
    if not relative > 0 or repeats < 1 or orders < 0:
        raise RequestError(
            f"relative={relative}, repeats={repeats}, orders={orders}; expected a positive size, at least one repeat, "
            "and no negative number of orders"
        )
    training = prepare(run, problem)
    what = what or Counterfactual.skip(next(s.name for s in run.stages if len(s)))
    first, generator = load(run, training, 0), torch.Generator().manual_seed(0)
    starts = [first, *(_moved(first, relative, generator) for _ in range(repeats))]
    total = 2 * (len(starts) + orders) * run.steps
    ends, values = _trained(run, training, what, starts, performance, _offset(progress, 0, total))
    moved = values[1:] - values[0]
    largest, means = moved.abs().amax(0), moved.mean(2).abs().amax(0)
    growth = max(_distance(e, ends[0]) / _distance(s, first) for s, e in zip(starts[1:], ends[1:], strict=True))
    others = []
    for i in range(orders):
        other, before = reordered(run, shuffled(run, generator)), 2 * (len(starts) + i) * run.steps
        _, (value,) = _trained(other, training, what, [first], performance, _offset(progress, before, total))
        others.append(value[1] - values[0, 1])
    return NoiseFloor(
        what.name,
        performance.labels,
        largest[0],
        largest[1],
        float(means[0]),
        float(means[1]),
        growth,
        relative,
        repeats,
        performance.unit,
        orders,
        torch.stack(others).abs().amax(0) if others else None,
        max(abs(float(other.mean())) for other in others) if others else None,
    )


def _trained(
    run: RunLike,
    training: Training,
    what: Counterfactual,
    starts: Sequence[Snapshot],
    performance: Performance,
    progress: Progress,
) -> tuple[list[Snapshot], Tensor]:
    """(ends of the recorded training, [starts, 2, values]: its performance, and the effect of `what`)."""
    lanes = [Lane(at, change) for change in (None, intervene(run, what)) for at in starts]
    trained = train_lanes(run, training, lanes, progress)
    with torch.no_grad():
        gamma = torch.stack(
            [performance(training.problem, at.state.judged, at.buffers).double().cpu() for at in trained]
        )
    recorded, without = gamma.chunk(2)
    return trained[: len(starts)], torch.stack([recorded, recorded - without], 1)


def _moved(at: Snapshot, relative: float, generator: torch.Generator) -> Snapshot:
    """Every parameter tensor moved by `relative` of its norm in a random direction; the optimizer stays as it is."""

    def move(p: Tensor) -> Tensor:
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        return p + direction * (relative * p.norm() / direction.norm().clamp_min(1e-300))

    return at._replace(state=at.state._replace(params={n: move(p) for n, p in at.state.params.items()}))


def _offset(progress: Progress, before: int, total: int) -> Progress:
    """Progress of one part of the trainings as part of all."""
    return lambda done, _: progress(before + done, total)


def _distance(a: Snapshot, b: Snapshot) -> float:
    return float(norm(as_rays(subtract(a.state, b.state)))[0])
