"""A counterfactual read against a run: how each of its steps is taken instead. Shared by retraining and estimators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aa_core.counterfactuals.change import Change
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.errors import RequestError
from aa_core.propagator import Training
from aa_core.records import Hyper, RunLike, StepInput
from aa_core.state import Snapshot, blend

NOT_NEGATIVE = ("lr", "momentum", "weight_decay")
"""Hyperparameters of which torch refuses negative values."""


@dataclass(frozen=True)
class Intervention:
    """What a counterfactual does to a run, step by step."""

    run: RunLike
    what: Counterfactual
    steps: frozenset[int]
    """Those that are not taken as recorded."""
    hyper: Mapping[int, tuple[Hyper, ...]]
    """Of the steps whose hyperparameters are changed."""

    @property
    def absent(self) -> frozenset[int]:
        """The steps that do not occur at all, forward passes included."""
        return self.steps if self.what.scale == 0.0 and not self.what.examples else frozenset()

    def step(self, training: Training, at: Snapshot) -> Snapshot:
        """The next step as it would have been: base + T (Phi(xi) - base), where base is xi itself (freeze) or the step
        without data (zero_gradient); or Phi with changed hyperparameters or weights of examples."""
        what, device = self.what, training.problem.device
        touched = at.step in self.steps
        if touched and what.scale == 0.0 and what.semantics == "freeze":
            return training.skip(at, at.step + 1)
        data = self.run.step_input(at.step, device)
        if not touched:
            return training.step(at, data)
        if what.examples or what.changes:
            return training.step(at, self._changed(data, device))
        freezes = what.semantics == "freeze"
        base = training.skip(at, at.step + 1) if freezes else training.step_without_data(at, data)
        if what.scale == 0.0:
            return base
        stepped = training.step(at, data)
        return stepped._replace(state=blend(base.state, stepped.state, what.scale))

    def _changed(self, data: StepInput, device: torch.device) -> StepInput:
        """The input of a step with its new hyperparameters, or with its examples reweighted."""
        if self.what.changes:
            return data._replace(hyper=self.hyper[data.step])
        chosen, micro = torch.tensor(self.what.examples), self.run.record(data.step).micro_batches
        weights = [_weights(m.rows, chosen, self.what.scale).to(device) for m in micro]
        batches = tuple((b._replace(weights=w), total) for (b, total), w in zip(data.batches, weights, strict=True))
        return data._replace(batches=batches)


def intervene(run: RunLike, what: Counterfactual) -> Intervention:
    """Read a counterfactual against a run.

    Raises:
        UnknownStageError, EmptyStageError, RequestError: it does not fit the run, or would change nothing.
    """
    steps = _appearances(run, what.examples) if what.examples else what.steps_of(run.stages)
    return Intervention(run, what, frozenset(steps), _changed_hyper(run, steps, what.changes))


def _appearances(run: RunLike, examples: Sequence[int]) -> tuple[int, ...]:
    """The steps that used any of these training examples; RequestError for one that was never used."""
    wanted, seen, steps = torch.tensor(examples), torch.zeros(len(examples), dtype=torch.bool), []
    for k in range(run.steps):
        used = torch.isin(wanted, run.record(k).rows)
        steps += [k] if bool(used.any()) else []
        seen |= used
    if not bool(seen.all()):
        raise RequestError(f"training example {int(wanted[~seen][0])} was used in no step of the run")
    return tuple(steps)


def _weights(rows: Tensor, chosen: Tensor, scale: float) -> Tensor:
    return torch.ones(len(rows), dtype=torch.float64).masked_fill(torch.isin(rows, chosen), scale)


def _changed_hyper(
    run: RunLike, steps: Sequence[int], changes: Sequence[Change]
) -> dict[int, tuple[dict[str, float], ...]]:
    """The hyperparameters of each step with all changes made; empty where there are none."""
    if not changes:
        return {}
    found = {k: tuple(dict(group) for group in run.record(k).hyper) for k in steps}
    for change in changes:
        _make(change, found)
    _check_late_momentum(run, found)
    return found


def _make(change: Change, hyper: dict[int, tuple[dict[str, float], ...]]) -> None:
    """Change one hyperparameter in place."""
    places = [
        (place, k, group)
        for place, (k, groups) in enumerate(hyper.items())
        for number, group in enumerate(groups)
        if change.name in group and change.group in (None, number)
    ]
    if not places:
        known = dict.fromkeys(n for groups in hyper.values() for group in groups for n in group)
        most = max(map(len, hyper.values()))
        raise RequestError(
            f"{change.hyper!r} is no hyperparameter of these steps, which have {', '.join(known)} in "
            f"{most} parameter group{'s' * (most > 1)}"
        )
    if change.kind == "list" and len(change.numbers) != len(hyper):
        raise RequestError(
            f"{change.hyper}: {len(change.numbers)} numbers for {len(hyper)} changed steps; give each one"
        )
    moved = False
    for place, k, group in places:
        value = change.value(group[change.name], place, len(hyper))
        if not math.isfinite(value) or (value < 0 and change.name in NOT_NEGATIVE):
            raise RequestError(
                f"{change.hyper} {change.text} gives {value} in step {k}; expected a finite value, not below zero"
            )
        moved = moved or value != group[change.name]
        group[change.name] = value
    if not moved:
        raise RequestError(f"{change.hyper} {change.text} leaves every step as it was recorded; give another value")


def _check_late_momentum(run: RunLike, hyper: Mapping[int, tuple[Hyper, ...]]) -> None:
    for k, groups in hyper.items():
        for now, then in zip(groups, run.record(k).hyper, strict=True):
            if now.get("dampening") and now["momentum"] and not then["momentum"]:
                raise RequestError(
                    f"step {k}: momentum is switched on with dampening={now['dampening']:g}; torch starts its buffer "
                    "without dampening then, which a replay cannot know. Set dampening=0 as well"
                )
