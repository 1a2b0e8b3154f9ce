"""The question "what if?" as one value, read alike by retraining and by the estimators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from aa_core.counterfactuals.change import Change, parse
from aa_core.errors import EmptyStageError, RequestError
from aa_core.stages import Stage, select

Semantics = Literal["freeze", "zero_gradient"]
PropagationMethod = Literal["boundary", "midpoint"]
SEMANTICS = {
    "freeze": "the updates did not occur: the state stands still, optimizer slots and step count included",
    "zero_gradient": "the data were ignored: weight decay and momentum went on",
}
WALL_CLOCK = "later steps keep their recorded batch, learning rate and random numbers"
EXAMPLES = "the losses of the examples got weight zero, with every mean's denominator as recorded; all else went on"
CHANGE = "the changed steps were taken with other hyperparameters, and their data; all else went on as recorded"
SHOWN = 3
"""How many numbers a name spells out."""


def check_semantics(semantics: str) -> None:
    if semantics not in get_args(Semantics):
        raise RequestError(f"semantics={semantics!r}; expected one of {', '.join(get_args(Semantics))}")


@dataclass(frozen=True)
class Counterfactual:
    """Training as recorded, but with one thing changed: the updates of some stages or steps, or the losses of some
    training examples, scaled by T; or some stages or steps taken with other hyperparameters.

    T = 0: skipped, left out; T > 1: more of it. An example that is left out keeps its place in the batch: its loss gets
    weight T, the denominator of a mean loss stays as recorded, so the others teach neither more nor less than they did.
    """

    stages: tuple[str, ...] = ()
    scale: float = 0.0
    """T; 1 with changes, whose steps are taken in full."""
    semantics: Semantics = "freeze"
    """zero_gradient for training examples: they have no update of their own that could be frozen."""
    steps: tuple[int, ...] = ()
    """Single steps, beside those of the stages."""
    examples: tuple[int, ...] = ()
    """Rows of the run's example table, in all their appearances; neither stages nor steps beside them."""
    changes: tuple[Change, ...] = ()
    """What hyperparameters are in the stages and steps, instead of what was recorded."""

    def __post_init__(self) -> None:
        check_semantics(self.semantics)
        if strays := [k for k in (*self.steps, *self.examples) if not hasattr(k, "__index__")]:
            raise RequestError(
                f"{strays[0]!r} is no step and no row of a training example; give whole numbers, such as *range(40, 60)"
            )
        if not self.stages and not self.steps and not self.examples:
            raise RequestError(
                "a counterfactual needs at least one stage, step or training example to leave out or scale"
            )
        if self.examples and (self.stages or self.steps):
            raise RequestError("a counterfactual is about stages and steps, or about training examples; ask one by one")
        if self.changes:
            self._check_changes()
        elif self.examples and self.semantics != "zero_gradient":
            raise RequestError(
                "an example has no update to freeze; use Counterfactual.without_examples, or zero_gradient"
            )
        elif not 0.0 <= self.scale < math.inf or self.scale == 1.0:
            raise RequestError(
                f"scale={self.scale}; expected 0 (skip) or more, but not 1, which is training as recorded"
            )

    def _check_changes(self) -> None:
        if self.examples:
            raise RequestError("training examples have no hyperparameters; change those of stages or steps")
        if self.scale != 1.0 or self.semantics != "freeze":
            raise RequestError(
                "steps with changed hyperparameters are taken in full; leave scale and semantics out of a change"
            )
        hypers = [c.hyper for c in self.changes]
        if len(set(hypers)) < len(hypers):
            raise RequestError(f"a hyperparameter is changed twice, in {', '.join(hypers)}; change each one once")

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

    @staticmethod
    def change(*stages: str, steps: Iterable[int] = (), **changes: str | float) -> Counterfactual:
        """Training with other hyperparameters in these stages and steps.

        `change("finetune", lr="0.5x", momentum=0.8)`: half the learning rate of every step, whatever its schedule, and
        a momentum of 0.8. `lr="0.1 to 0"` and `lr="cosine 0.1 to 0"` are schedules over the changed steps, from first
        to last, `lr="0.1, 0.05, 0.01"` gives each step its own. `**{"lr[1]": "2x"}` is for parameter group 1 only.
        """
        found = tuple(parse(hyper, how) for hyper, how in changes.items())
        if not found:
            raise RequestError("a change needs at least one hyperparameter, such as lr='0.5x'")
        return Counterfactual(stages, 1.0, "freeze", tuple(steps), (), found)

    @property
    def skips_stages(self) -> bool:
        """Whether it leaves out whole stages and does nothing else."""
        return self.scale == 0.0 and not self.steps and not self.examples

    @property
    def methods(self) -> tuple[PropagationMethod, ...]:
        """By which methods it can be estimated; what training examples taught is pushed step by step, by the first."""
        return ("boundary",) if self.examples else ("boundary", "midpoint")

    def method_like(self, method: str) -> PropagationMethod:
        """This method where it can be estimated by it, else the first."""
        return next((m for m in self.methods if m == method), "boundary")

    def check_method(self, method: str) -> None:
        """RequestError for a method that cannot estimate it."""
        if method not in self.methods:
            raise RequestError(f"method={method!r}; {self.name} is estimated by {' or '.join(self.methods)}")

    @property
    def manner(self) -> str:
        """Under which semantics to read a result: those of a skip, or "change"."""
        return "change" if self.changes else self.semantics

    @property
    def meaning(self) -> str:
        """What exactly would have been otherwise, in words."""
        return CHANGE if self.changes else EXAMPLES if self.examples else SEMANTICS[self.semantics]

    @property
    def name(self) -> str:
        what = " + ".join([*self.stages, *_ranges(self.steps), *_listed(self.examples)])
        if self.changes:
            return f"{what} with {', '.join(f'{c.hyper} {c.text}' for c in self.changes)}"
        return f"skip {what}" if self.scale == 0.0 else f"{self.scale:g} x {what}"

    def resolve(self, stages: Sequence[Stage]) -> tuple[Stage, ...]:
        """The stages of the run that this touches; UnknownStageError or EmptyStageError if that is impossible."""
        found = select(stages, self.stages)
        for stage in found:
            if not len(stage):
                raise EmptyStageError(f"stage {stage.name!r} has no steps: there is nothing to skip")
        return found

    def steps_of(self, stages: Sequence[Stage]) -> tuple[int, ...]:
        """The steps of the named stages and the single steps, ascending; none where it is about examples."""
        last = max((stage.stop for stage in stages), default=0)
        if outside := [k for k in self.steps if not 0 <= k < last]:
            raise RequestError(f"step {outside[0]} is not in the run, which has steps 0 to {last - 1}")
        return tuple(sorted({*self.steps, *(k for s in self.resolve(stages) for k in s.steps)}))


def blocks(steps: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Steps as ascending blocks [start, stop)."""
    found: list[tuple[int, int]] = []
    for k in sorted(set(steps)):
        start = found.pop()[0] if found and found[-1][1] == k else k
        found.append((start, k + 1))
    return tuple(found)


def _ranges(steps: Iterable[int]) -> list[str]:
    return [f"step {a}" if b == a + 1 else f"steps {a} to {b - 1}" for a, b in blocks(steps)]


def _listed(examples: Sequence[int]) -> list[str]:
    if not examples:
        return []
    shown = ", ".join(map(str, examples[:SHOWN]))
    if len(examples) > SHOWN:
        return [f"{len(examples)} examples ({shown}, ...)"]
    return [f"{'example' if len(examples) == 1 else 'examples'} {shown}"]
