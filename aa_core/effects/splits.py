"""Where an effect comes from: through which parameter, and by which cause. Splits add up to the effect itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from aa_core.counterfactuals.counterfactual import Semantics
from aa_core.curvature import Curvature
from aa_core.effects.adjoint import AdjointStep
from aa_core.effects.attribution import Attribution, steps_of
from aa_core.effects.question import Question
from aa_core.effects.tangent import update_of_step
from aa_core.errors import EmptyStageError, RequestError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.records import RunLike, StepInput
from aa_core.replay import Progress, silent
from aa_core.running_statistics import moving
from aa_core.stages import select, stage_of_steps
from aa_core.state import Params, Snapshot, State, as_rays, norm, pair, subtract

COUNT = "(step count)"
"""The one leaf of the state that belongs to no parameter; Adam's bias correction depends on it."""
CAUSES = ("momentum", "weight decay", "data")
STATISTICS = "running statistics"
"""What a step's forward passes leave in the model: a cause of its own, where batch normalisation moves them."""


def step_effects_by_parameter(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    stages: Sequence[str] | None = None,
    curvature: Curvature = "exact",
    semantics: Semantics = "freeze",
    memory: int | None = None,
    progress: Progress = silent,
) -> Attribution:
    """Through which parameters each step acted: tau_k = sum_n <a_{k+1}, Delta_k>_n, summed over the leaves of n.

    An optimizer slot counts for its parameter; the step count stands by itself (`COUNT`), and so do the running
    statistics of batch normalisation, as parameters of their layer. Costs as much as `step_effects`.

    Returns:
        Attribution with units (step, stage, layer, group, parameter) and effects [units, values]; positive = it helped.
        `collapse(found, "stage", "layer")` adds up.
    """

    def parts(training: Training, at: AdjointStep) -> Tensor:
        change = update_of_step(run, training, at.transition.before, at.transition.after, semantics)
        return by_parameter(at.cotangent, change, names["parameter"], at.of_statistics())

    asked = Question(run, problem, performance, curvature, semantics, memory, progress)
    training = asked.training()
    names = _parameters(run, training)
    return _split_steps(asked, training, steps_of(run, stages), names, parts)


def step_effects_by_cause(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    stages: Sequence[str] | None = None,
    curvature: Curvature = "exact",
    memory: int | None = None,
    progress: Progress = silent,
) -> Attribution:
    """What in each step acted: carried momentum, weight decay, or the step's own data; see `causes`.

    Where batch normalisation moves running statistics, `STATISTICS` is a cause of its own: what the step's forward
    passes left in them. Adds up to the `freeze` effect of the step; "data", with that, is its `zero_gradient` effect.
    Costs what `step_effects` does: causes need no gradient of their own.

    Returns:
        Attribution with units (step, stage, cause) and effects [units, values]; positive = it helped.
        `collapse(found, "stage", "cause")` adds up.
    """

    def parts(training: Training, at: AdjointStep) -> Tensor:
        before, after = at.transition.before, at.transition.after
        found = causes(training, before, after, run.step_input(before.step, training.problem.device))
        effects = [pair(at.cotangent, as_rays(found[cause]))[:, 0] for cause in CAUSES]
        left = sum(at.of_statistics().values(), start=torch.zeros_like(effects[0]))
        return torch.stack([*effects, left] if STATISTICS in named else effects)

    asked = Question(run, problem, performance, curvature, "freeze", memory, progress)
    training = asked.training()
    named = (*CAUSES, STATISTICS) if moving(run, training).followed else CAUSES
    return _split_steps(asked, training, steps_of(run, stages), pd.DataFrame({"cause": named}), parts)


def stage_effects_by_parameter(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    stages: Sequence[str] | None = None,
    curvature: Curvature = "exact",
    semantics: Semantics = "freeze",
    memory: int | None = None,
    progress: Progress = silent,
) -> Attribution:
    """Through which parameters each stage acted: <a_e, xi_e - base_e> by leaf, for every block [s, e) of the stage.

    The parameters are those that the stage itself changed, wherever later training carried the change; the running
    statistics of batch normalisation that it left behind stand beside them. Adds up to `stage_effects` with method
    "boundary", readout "linear" (with batch normalisation nearly: there the statistics are read by a difference).
    Costs one curvature product per value and step.

    Returns:
        Attribution with units (stage, layer, group, parameter) and effects [units, values]; positive = it helped.
    """
    asked = Question(run, problem, performance, curvature, semantics, memory, progress)
    wanted = tuple(s for s in select(run.stages, stages) if len(s))
    if not wanted:
        raise EmptyStageError("none of the stages has a step, so there is no effect to split")
    training = asked.training()
    names = _parameters(run, training)
    starts = {start: stage.name for stage in wanted for start, _ in stage.blocks}
    ends = {stop for stage in wanted for _, stop in stage.blocks}
    parts = {s.name: torch.zeros(len(names), len(performance), dtype=torch.float64) for s in wanted}
    norms: list[Tensor] = []
    last: AdjointStep | None = None
    for at in asked.sweep(training, min(starts)):
        norms.append(norm(at.cotangent))
        if at.transition.step + 1 in ends:
            last = at._replace(transition=at.transition._replace(propagator=None))
        if at.transition.step in starts:
            assert last is not None
            first, end = at.transition.before, last.transition.after
            change = subtract(end.state, _carried(run, training, first, end.step, semantics))
            left = last.of_statistics(since=first)
            parts[starts[first.step]] += by_parameter(last.cotangent, change, names["parameter"], left).cpu()
    units = pd.DataFrame({"stage": list(parts)}).merge(names, how="cross")
    return asked.answer(training, units, torch.cat(list(parts.values())), norms, "boundary")


def collapse(found: Attribution, *columns: str) -> Attribution:
    """The same effects, added up over all that is not named: `collapse(by_parameter, "stage", "layer")`."""
    if unknown := [c for c in columns if c not in found.units.columns]:
        raise RequestError(f"no column {unknown[0]!r} to collapse to; there are {', '.join(found.units.columns)}")
    kept = list(columns)
    group = torch.as_tensor(found.units.groupby(kept, sort=False, dropna=False).ngroup().to_numpy(copy=True))
    units = found.units[kept].drop_duplicates().reset_index(drop=True)
    effects = torch.zeros(len(units), found.effects.shape[1], dtype=torch.float64).index_add(0, group, found.effects)
    return replace(found, units=units, effects=effects, readings={})


def causes(training: Training, before: Snapshot, after: Snapshot, step: StepInput) -> dict[str, State]:
    """Delta_k = U(xi, g) - xi in three finite pushes, taken one after the other:

    momentum      U(xi, 0) without decay - xi     the optimizer coasts on its slots (and its step count moves on)
    weight decay  U(xi, 0) - U(xi, 0) without decay
    data          U(xi, g) - U(xi, 0)             the step's zero_gradient push

    They add up exactly. For SGD, which is linear in all three, the order makes no difference. Adam and AdamW divide by
    a second moment that carried slots and data make together: what they do together counts for the data, which come
    last. So does what Adam's coupled decay does together with the data; AdamW's decay stands beside them.
    """
    undecayed = step._replace(hyper=tuple({**h, "weight_decay": 0.0} for h in step.hyper))
    coasting = training.step_without_data(before, undecayed).state
    ignoring = training.step_without_data(before, step).state
    pushes = (
        subtract(coasting, training.skip(before, after.step).state),
        subtract(ignoring, coasting),
        subtract(after.state, ignoring),
    )
    return dict(zip(CAUSES, pushes, strict=True))


def _split_steps(
    asked: Question,
    training: Training,
    steps: list[int],
    names: pd.DataFrame,
    parts: Callable[[Training, AdjointStep], Tensor],
) -> Attribution:
    """Every part of every step; `parts` gives the [names, values] of one."""
    owner, wanted, found, norms = stage_of_steps(asked.run.stages, asked.run.steps), set(steps), [], []
    for at in asked.sweep(training, steps[0]):
        norms.append(norm(at.cotangent))
        if at.transition.step in wanted:
            found.append(parts(training, at))
    units = pd.DataFrame({"step": steps, "stage": [owner[k] for k in steps]}).merge(names, how="cross")
    return asked.answer(training, units, torch.cat(found[::-1]), norms, "step")


def by_parameter(
    cotangent: State, change: State, names: Iterable[str], others: Mapping[str, Tensor] | None = None
) -> Tensor:
    """<a, d> leaf by leaf, [names, R]: each parameter with its slots, `COUNT` the step count, others as given.

    Zero for a name that the state does not have: it is of another phase.
    """
    parts = [
        {COUNT: _inner(cotangent.count, change.count)},
        others or {},
        *(
            {n: _inner(a[n], d) for n, d in moved.items()}
            for a, moved in zip(_leaves(cotangent), _leaves(change), strict=True)
        ),
    ]
    zero = torch.zeros_like(parts[0][COUNT])
    return torch.stack([sum((part.get(name, zero) for part in parts), start=zero) for name in names])


def _leaves(state: State) -> list[Params]:
    return [state.params, *state.slots.values()]


def _inner(rays: Tensor, change: Tensor) -> Tensor:
    """[R, ...] and [...] -> [R], in float64."""
    return rays.reshape(len(rays), -1).double() @ change.reshape(-1).double()


def _parameters(run: RunLike, training: Training) -> pd.DataFrame:
    """(layer, group, parameter) of every leaf of any phase, and of the running statistics that are followed.

    A layer is the module that owns a parameter; a group is the optimizer's, by number, where the parameter was last
    trained, and -1 for the step count and for running statistics.
    """
    trained = dict.fromkeys(n for phase in run.phases for n in run.load(phase.start).state.params)
    names = [*trained, COUNT, *moving(run, training).followed]
    groups = {n: i for phase in run.phases for i, group in enumerate(phase.groups) for n in group}
    layers = [n.rpartition(".")[0] or n for n in names]
    return pd.DataFrame({"layer": layers, "group": [groups.get(n, -1) for n in names], "parameter": names})


def _carried(run: RunLike, training: Training, at: Snapshot, stop: int, semantics: Semantics) -> State:
    """The state before a block, as it would stand after it: unchanged (freeze), or carried on without data."""
    if semantics == "freeze":
        return training.skip(at, stop).state
    while at.step < stop:
        at = training.step_without_data(at, run.step_input(at.step, training.problem.device))
    return at.state
