"""The question "what if?" as one value, read alike by retraining and by the estimators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from aa_core.errors import EmptyStageError, RequestError
from aa_core.stages import Stage, select

Semantics = Literal["freeze", "zero_gradient"]
SEMANTICS = {
    "freeze": "the updates did not occur: the state stands still, optimizer slots and step count included",
    "zero_gradient": "the data were ignored: weight decay and momentum went on",
}
WALL_CLOCK = "later steps keep their recorded batch, learning rate and random numbers"


def check_semantics(semantics: str) -> None:
    if semantics not in get_args(Semantics):
        raise RequestError(f"semantics={semantics!r}; expected one of {', '.join(get_args(Semantics))}")


@dataclass(frozen=True)
class Counterfactual:
    """Training as recorded, but with the updates of some stages or steps scaled by T (0 = skipped)."""

    stages: tuple[str, ...] = ()
    scale: float = 0.0
    semantics: Semantics = "freeze"
    steps: tuple[int, ...] = ()
    """Single steps, beside those of the stages."""

    def __post_init__(self) -> None:
        check_semantics(self.semantics)
        if not self.stages and not self.steps:
            raise RequestError("a counterfactual needs at least one stage or step to skip or scale")
        if not 0.0 <= self.scale < 1.0:
            raise RequestError(f"scale={self.scale}; expected 0 (skip) up to, but not including, 1 (as recorded)")

    @staticmethod
    def skip(*stages: str, semantics: Semantics = "freeze") -> Counterfactual:
        """Training without these stages."""
        return Counterfactual(stages, 0.0, semantics)

    @staticmethod
    def skip_steps(*steps: int, semantics: Semantics = "freeze") -> Counterfactual:
        """Training without these steps."""
        return Counterfactual((), 0.0, semantics, steps)

    @property
    def name(self) -> str:
        verb = "skip" if self.scale == 0.0 else f"{self.scale:g} x"
        return f"{verb} {' + '.join([*self.stages, *(f'step {k}' for k in self.steps)])}"

    def resolve(self, stages: Sequence[Stage]) -> tuple[Stage, ...]:
        """The stages of the run that this touches; UnknownStageError or EmptyStageError if that is impossible."""
        found = select(stages, self.stages)
        for stage in found:
            if not len(stage):
                raise EmptyStageError(f"stage {stage.name!r} has no steps: there is nothing to skip")
        return found

    def treatment(self, stages: Sequence[Stage]) -> dict[int, float]:
        """{step: T_k} of the steps that are not taken as recorded."""
        last = max((stage.stop for stage in stages), default=0)
        if outside := [k for k in self.steps if not 0 <= k < last]:
            raise RequestError(f"step {outside[0]} is not in the run, which has steps 0 to {last - 1}")
        return {k: self.scale for k in (*self.steps, *(k for s in self.resolve(stages) for k in s.steps))}
