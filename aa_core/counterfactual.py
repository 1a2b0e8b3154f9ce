"""The question "what if?" as one value, read alike by retraining and by the estimators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from aa_core.errors import EmptyStageError, RequestError
from aa_core.records import RunLike, StepInput
from aa_core.stages import Stage, select

Semantics = Literal["freeze", "zero_gradient"]
SEMANTICS = {
    "freeze": "the updates did not occur: the state stands still, optimizer slots and step count included",
    "zero_gradient": "the data were ignored: weight decay and momentum went on",
}
WALL_CLOCK = "later steps keep their recorded batch, learning rate and random numbers"
EXAMPLES = "the losses of the examples got weight zero, with every mean's denominator as recorded; all else went on"
SHOWN = 3
"""How many numbers a name spells out."""


def check_semantics(semantics: str) -> None:
    if semantics not in get_args(Semantics):
        raise RequestError(f"semantics={semantics!r}; expected one of {', '.join(get_args(Semantics))}")


@dataclass(frozen=True)
class Counterfactual:
    """Training as recorded, but with the updates of some stages or steps, or the losses of some examples, scaled by T.

    T = 0: skipped, left out. An example that is left out keeps its place in the batch: its loss gets weight T, the
    denominator of a mean loss stays as recorded, so the others teach neither more nor less than they did.
    """

    stages: tuple[str, ...] = ()
    scale: float = 0.0
    semantics: Semantics = "freeze"
    """zero_gradient for training examples: they have no update of their own that could be frozen."""
    steps: tuple[int, ...] = ()
    """Single steps, beside those of the stages."""
    examples: tuple[int, ...] = ()
    """Rows of the run's example table, in all their appearances; neither stages nor steps beside them."""

    def __post_init__(self) -> None:
        check_semantics(self.semantics)
        if not self.stages and not self.steps and not self.examples:
            raise RequestError(
                "a counterfactual needs at least one stage, step or training example to leave out or scale"
            )
        if self.examples and (self.stages or self.steps):
            raise RequestError("a counterfactual is about stages and steps, or about training examples; ask one by one")
        if self.examples and self.semantics != "zero_gradient":
            raise RequestError(
                "an example has no update to freeze; use Counterfactual.without_examples, or zero_gradient"
            )
        if not 0.0 <= self.scale < 1.0:
            raise RequestError(f"scale={self.scale}; expected 0 (skip) up to, but not including, 1 (as recorded)")

    @staticmethod
    def skip(*stages: str, semantics: Semantics = "freeze") -> Counterfactual:
        """Training without these stages."""
        return Counterfactual(stages, 0.0, semantics)

    @staticmethod
    def skip_steps(*steps: int, semantics: Semantics = "freeze") -> Counterfactual:
        """Training without these steps; `*range(40, 60)` for a range."""
        return Counterfactual((), 0.0, semantics, steps)

    @staticmethod
    def without_examples(*rows: int) -> Counterfactual:
        """Training without what these training examples taught, each time they were used."""
        return Counterfactual(semantics="zero_gradient", examples=rows)

    @property
    def name(self) -> str:
        verb = "skip" if self.scale == 0.0 else f"{self.scale:g} x"
        return f"{verb} {' + '.join([*self.stages, *_ranges(self.steps), *_listed(self.examples)])}"

    def resolve(self, stages: Sequence[Stage]) -> tuple[Stage, ...]:
        """The stages of the run that this touches; UnknownStageError or EmptyStageError if that is impossible."""
        found = select(stages, self.stages)
        for stage in found:
            if not len(stage):
                raise EmptyStageError(f"stage {stage.name!r} has no steps: there is nothing to skip")
        return found

    def treatment(self, stages: Sequence[Stage]) -> dict[int, float]:
        """{step: T_k} of the steps that are not taken as recorded; empty where examples are left out."""
        last = max((stage.stop for stage in stages), default=0)
        if outside := [k for k in self.steps if not 0 <= k < last]:
            raise RequestError(f"step {outside[0]} is not in the run, which has steps 0 to {last - 1}")
        return {k: self.scale for k in (*self.steps, *(k for s in self.resolve(stages) for k in s.steps))}


def blocks(steps: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Steps as ascending blocks [start, stop)."""
    found: list[tuple[int, int]] = []
    for k in sorted(set(steps)):
        start = found.pop()[0] if found and found[-1][1] == k else k
        found.append((start, k + 1))
    return tuple(found)


def appearances(run: RunLike, examples: Sequence[int]) -> tuple[int, ...]:
    """The steps that used any of these training examples; RequestError for one that was never used."""
    wanted, seen, steps = torch.tensor(examples), torch.zeros(len(examples), dtype=torch.bool), []
    for k in range(run.steps):
        used = torch.isin(wanted, torch.cat([m.rows for m in run.record(k).micro_batches]))
        steps += [k] if bool(used.any()) else []
        seen |= used
    if not bool(seen.all()):
        raise RequestError(f"training example {int(wanted[~seen][0])} was used in no step of the run")
    return tuple(steps)


def reweighted(run: RunLike, step: int, what: Counterfactual, device: torch.device) -> StepInput:
    """The input of a step in which the losses of `what.examples` count `what.scale`; as recorded if it names none."""
    data = run.step_input(step, device)
    if not what.examples:
        return data
    chosen, micro = torch.tensor(what.examples), run.record(step).micro_batches
    weights = [_weights(m.rows, chosen, what.scale, device) for m in micro]
    batches = tuple((b._replace(weights=w), total) for (b, total), w in zip(data.batches, weights, strict=True))
    return data._replace(batches=batches)


def _weights(rows: Tensor, chosen: Tensor, scale: float, device: torch.device) -> Tensor:
    return torch.ones(len(rows), dtype=torch.float64).masked_fill(torch.isin(rows, chosen), scale).to(device)


def _ranges(steps: Iterable[int]) -> list[str]:
    return [f"step {a}" if b == a + 1 else f"steps {a} to {b - 1}" for a, b in blocks(steps)]


def _listed(examples: Sequence[int]) -> list[str]:
    if not examples:
        return []
    shown = ", ".join(map(str, examples[:SHOWN]))
    noun = "example" if len(examples) == 1 else f"{len(examples)} examples"
    return [f"{noun} {shown}{', ...' if len(examples) > SHOWN else ''}"]
