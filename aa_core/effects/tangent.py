"""Forward sweep: push the change that each stage made to the end of training. All stages in one replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from aa_core.counterfactuals.counterfactual import Semantics, blocks
from aa_core.counterfactuals.intervention import Intervention
from aa_core.curvature import Curvature
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import Progress, load, silent, snapshot_before, verify
from aa_core.stages import Stage
from aa_core.state import Snapshot, State, add, as_rays, concat_rays, norm, ray, subtract

Carry = Callable[[Snapshot], Snapshot]
"""How a state takes the next step in the counterfactual."""
CAP = 1.0
"""Of the midpoint method's path, in lengths of the change that a stage made; tried on benchmarks/accuracy_zoo.py."""


@dataclass
class _Front:
    """The tangents on their way: one ray per stage that has begun to act."""

    names: list[str] = field(default_factory=list)
    tangent: State | None = None
    pushed: dict[str, float] = field(default_factory=dict)
    """Sum of the norms of all pushes per stage."""

    @property
    def sizes(self) -> Tensor:
        """How far each stage itself moved the parameters, [R]."""
        return torch.tensor([self.pushed[name] for name in self.names], dtype=torch.float64)

    def push(self, name: str, change: State) -> None:
        """Add a change of the state to the stage's ray."""
        rays = as_rays(change)
        self.pushed[name] = self.pushed.get(name, 0.0) + float(norm(rays))
        if self.tangent is None:
            self.names, self.tangent = [name], rays
        elif name not in self.names:
            self.names.append(name)
            self.tangent = concat_rays(self.tangent, rays)
        else:
            at = self.names.index(name)
            self.tangent = concat_rays(
                *(
                    add(as_rays(ray(self.tangent, i)), rays) if i == at else as_rays(ray(self.tangent, i))
                    for i in range(len(self.names))
                )
            )


Place = Callable[[Snapshot, _Front], Snapshot]
"""(recorded snapshot, tangents on their way) -> where the step is linearized."""


def recorded(at: Snapshot, front: _Front) -> Snapshot:
    """On the recorded trajectory: the derivative proper, first order in the change."""
    return at


def midway(at: Snapshot, front: _Front) -> Snapshot:
    """Half way to the mean of the states that the tangents predict: theta - mean_R(d) / 2, slots as recorded.

    For one ray this is the midpoint rule, Phi(theta) - Phi(theta - d) = DPhi(theta - d / 2) d + O(d^3), one order up.
    For many it is so as far as they moved the same way, and one graph serves all. A ray that has grown counts as
    no longer than CAP times the change that its stage made: where training is stiff, predictions that explode must not
    lead the path away.
    """
    assert front.tangent is not None
    lengths = norm(front.tangent)
    weights = (CAP * front.sizes.to(lengths) / lengths).nan_to_num(1.0).clamp(max=1.0) / (2 * len(front.names))
    params = {n: p - torch.tensordot(weights.to(p), front.tangent.params[n], 1) for n, p in at.state.params.items()}
    return at._replace(state=at.state._replace(params=params))


def boundary_tangents(
    run: RunLike,
    training: Training,
    stages: tuple[Stage, ...],
    curvature: Curvature,
    semantics: Semantics,
    progress: Progress = silent,
    place: Place = recorded,
) -> tuple[dict[str, State], dict[str, float]]:
    """E_S = sum over blocks [s, e) of M_{K-1} .. M_e (xi_e - base_e), and the growth of each ray.

    base_e is xi_s (freeze), or xi_s carried through the block without data (zero_gradient). What happens *inside* a
    block enters exactly, and no curvature product is needed there. Cost: one curvature product a ray and step after it;
    `midway` needs one gradient a step more.
    """
    ends = {start: (stage.name, stop) for stage in stages for start, stop in stage.blocks}

    def without_data(base: Snapshot) -> Snapshot:
        return training.step_without_data(base, run.step_input(base.step, training.problem.device))

    carry = None if semantics == "freeze" else without_data
    return _boundaries(run, training, ends, carry, curvature, progress, place)


def intervention_tangent(
    intervention: Intervention,
    training: Training,
    curvature: Curvature,
    progress: Progress = silent,
    place: Place = recorded,
) -> tuple[State, float]:
    """The embedding of a counterfactual, sum over blocks [s, e) of M_{K-1} .. M_e (xi_e - base_e), and its growth.

    base_e is xi_s, taken through the block of touched steps as in the counterfactual. So what happens inside a block is
    exact, for a scale and for changed hyperparameters, too; first order after it (by `midway` second). Training
    examples are pushed step by step (`_examples_tangent`), first order whatever the place. Cost: one plain step a
    touched step, one curvature product a step after the first block.
    """
    run, what = intervention.run, intervention.what
    if what.examples:
        tangents, growth = _examples_tangent(intervention, training, curvature, progress)
    else:
        ends = {start: (what.name, stop) for start, stop in blocks(intervention.steps)}
        stands_still = what.scale == 0.0 and what.semantics == "freeze"
        carry = None if stands_still else partial(intervention.step, training)
        tangents, growth = _boundaries(run, training, ends, carry, curvature, progress, place)
    return tangents[what.name], growth[what.name]


def _boundaries(
    run: RunLike,
    training: Training,
    ends: Mapping[int, tuple[str, int]],
    carry: Carry | None,
    curvature: Curvature,
    progress: Progress,
    place: Place = recorded,
) -> tuple[dict[str, State], dict[str, float]]:
    """xi_stop - base of every block, {start: (name, stop)}, pushed to the end and added up by name.

    carry: None where the base stands still; then a block that nothing is pushed through is not replayed at all if its
    end is a checkpoint.
    """
    front, block = _Front(), None
    first = min(ends)
    at = base = snapshot_before(run, training, first, progress)
    while at.step < run.steps:
        if at.step in ends:
            block, base = ends[at.step], at
        if front.tangent is None and block and carry is None and block[1] in run.checkpoints:
            at = load(run, training, block[1])
        else:
            base = carry(base) if block and carry else base
            at = _advance(run, training, at, front, curvature, place)
        if block and at.step == block[1]:
            front.push(block[0], subtract(at.state, training.skip(base, at.step).state))
            block = None
        progress(at.step - first, run.steps - first)
    return _finish(front)


def additive_tangents(
    run: RunLike,
    training: Training,
    stages: tuple[Stage, ...],
    curvature: Curvature,
    semantics: Semantics,
    progress: Progress = silent,
) -> tuple[dict[str, State], dict[str, float]]:
    """E_S = sum_{k in S} M_{K-1} .. M_{k+1} Delta_k, the paper's sum of first-order step effects, and its growth."""
    owner = {k: stage.name for stage in stages for k in stage.steps}
    change = partial(update_of_step, run, training, semantics=semantics)
    return _sum_of_steps(run, training, owner, change, curvature, progress)


def _examples_tangent(
    intervention: Intervention, training: Training, curvature: Curvature, progress: Progress
) -> tuple[dict[str, State], dict[str, float]]:
    """sum_k M_{K-1} .. M_{k+1} (U(xi_k, g_k) - U(xi_k, g_k without what the examples taught)), and its growth.

    A finite push at each of their appearances, exact within the step whatever the optimizer; first order after it.
    Cost: two gradients a step that used them, one curvature product a step after the first.
    """
    run = intervention.run

    def change(before: Snapshot, _: Snapshot) -> State:
        # both replayed here: `after` may be a checkpoint, and its drift would weigh more than one example
        recorded = training.step(before, run.step_input(before.step, training.problem.device))
        return subtract(recorded.state, intervention.step(training, before).state)

    owner = dict.fromkeys(intervention.steps, intervention.what.name)
    return _sum_of_steps(run, training, owner, change, curvature, progress)


def _sum_of_steps(
    run: RunLike,
    training: Training,
    owner: Mapping[int, str],
    change: Callable[[Snapshot, Snapshot], State],
    curvature: Curvature,
    progress: Progress,
) -> tuple[dict[str, State], dict[str, float]]:
    """The changes of single steps, pushed to the end and added up by owner."""
    front, first = _Front(), min(owner)
    at = snapshot_before(run, training, first, progress)
    while at.step < run.steps:
        before, at = at, _advance(run, training, at, front, curvature)
        if before.step in owner:
            front.push(owner[before.step], change(before, at))
        progress(at.step - first, run.steps - first)
    return _finish(front)


def update_of_step(run: RunLike, training: Training, before: Snapshot, after: Snapshot, semantics: Semantics) -> State:
    """Delta_k: what the step did (freeze), or what its data did (zero_gradient)."""
    return subtract(after.state, without_step(run, training, before, semantics))


def without_step(run: RunLike, training: Training, before: Snapshot, semantics: Semantics) -> State:
    """The state after a step that did nothing (freeze), or whose data did nothing (zero_gradient)."""
    if semantics == "freeze":
        return training.skip(before, before.step + 1).state
    return training.step_without_data(before, run.step_input(before.step, training.problem.device)).state


def _advance(
    run: RunLike, training: Training, at: Snapshot, front: _Front, curvature: Curvature, place: Place = recorded
) -> Snapshot:
    """One recorded step for the state, and for the tangents if there are any; meets the checkpoints on the way."""
    data = run.step_input(at.step, training.problem.device)
    if front.tangent is None:
        after = training.step(at, data)
    else:
        where = place(at, front)
        take, propagator = training.linearize(where, data, curvature)
        after = take() if where is at else training.step(at, data)
        front.tangent = propagator @ front.tangent
    if after.step in run.checkpoints:
        verify(run, training, after)
        return load(run, training, after.step)
    return after


def _finish(front: _Front) -> tuple[dict[str, State], dict[str, float]]:
    assert front.tangent is not None
    tangents = {name: ray(front.tangent, i) for i, name in enumerate(front.names)}
    growth = {name: float(norm(as_rays(t))) / (front.pushed[name] or 1.0) for name, t in tangents.items()}
    return tangents, growth
