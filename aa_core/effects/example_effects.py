"""Which training examples helped or hurt, in each step that used them and over all their appearances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor

from aa_core.counterfactuals.counterfactual import EXAMPLES
from aa_core.curvature import Curvature, example_slopes
from aa_core.effects.adjoint import AdjointStep
from aa_core.effects.attribution import Attribution, steps_of
from aa_core.effects.question import Question, assuming
from aa_core.errors import RequestError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.records import Batch, RunLike, StepInput, map_inputs
from aa_core.replay import Progress, silent
from aa_core.stages import stage_of_steps
from aa_core.state import Snapshot, norm

MIXED = (
    "the model mixes the examples of a batch (batch statistics): each one's loss is split off, its part in what the "
    "others saw is not"
)
SAME = 1e-4
"""Relative difference up to which two numbers are the same number, rounded differently."""


def example_effects(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    stages: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    curvature: Curvature = "exact",
    memory: int | None = None,
    progress: Progress = silent,
) -> Attribution:
    """How much each training example helped over all its appearances: the sum of `example_effects_by_step`.

    It estimates gamma(recorded) - gamma(retrained with `Counterfactual.without_examples(row)`), to first order.

    Args:
        stages, steps: count only the appearances in these; all by default.

    Returns:
        Attribution with units (row, id, appearances), by row, and effects [examples, values]; positive = it helped.
        `ranked` orders them. An example that these steps did not use has no row.
    """
    asked = Question(run, problem, performance, curvature, "zero_gradient", memory, progress)
    wanted = _taught(run, steps_of(run, stages, steps))
    rows, appearances = torch.cat([run.record(k).rows for k in wanted]).unique(return_counts=True)
    total = torch.zeros(len(rows), len(performance), dtype=torch.float64)

    def take(step: int, effects: Tensor) -> None:
        total.index_add_(0, torch.searchsorted(rows, run.record(step).rows), effects)

    units = _named(run, rows).assign(appearances=appearances.numpy())
    return _answer(asked, wanted, take, lambda: (units, total))


def example_effects_by_step(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    stages: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    curvature: Curvature = "exact",
    memory: int | None = None,
    progress: Progress = silent,
) -> Attribution:
    """How much each training example helped in each step: the derivative in the weight of its loss.

    effect_i = <(dU/dg)^T a_{k+1}, d (part i of the recorded loss) / d theta>, in which a mean's 1 / n and the weight of
    a micro-batch are inside, and every denominator stays as recorded. All examples of a step take one forward and one
    backward pass and one pass through their graph, beside the sweep itself (`step_effects`).

    Clipping is differentiated as part of the step: where it binds, less of one example lets more of the others through.
    With unclipped SGD the examples of a step add up to its `zero_gradient` effect. With Adam and AdamW they add up to
    the derivative in the weight of all data, which is not what taking all data away does: the second moment is
    quadratic in the gradient. They are not rescaled to hide that. Measured against retraining without one of 36
    examples (batch 64):

        digits-shift, SGD                 r 0.9999, slope 1.005
        digits-adamw, derivative          r 0.998,  slope 1.06
        digits-adamw, secant              r 0.97,   slope 0.79    (U(g) - U(0)) / g by coordinate: has the right sum
        digits-adamw, derivative, scaled  r -0.25                 to the right sum in every step

    So with Adam rank by these, and ask `predict(..., Counterfactual.without_examples(...))` for the size of what stands
    out, and for groups: its finite pushes gave r 1.0000 and slope 1.000 there, at one sweep a question.

    Returns:
        Attribution with units (step, stage, row, id) and effects [units, values]; positive = it helped.

    Raises:
        RequestError: the loss is not a sum over examples, so it has no parts.
    """
    asked = Question(run, problem, performance, curvature, "zero_gradient", memory, progress)
    wanted = _taught(run, steps_of(run, stages, steps))
    owner, found = stage_of_steps(run.stages, run.steps), list[Tensor]()
    rows = [run.record(k).rows for k in wanted]
    at = [k for k, of_step in zip(wanted, rows, strict=True) for _ in of_step]
    units = pd.DataFrame({"step": at, "stage": [owner[k] for k in at]}).join(_named(run, torch.cat(rows)))
    return _answer(asked, wanted, lambda _, effects: found.append(effects), lambda: (units, torch.cat(found[::-1])))


def ranked(found: Attribution) -> pd.DataFrame:
    """`found.to_frame()` with the rank of each unit for each query, 1 = helped most; by query, then by rank."""
    frame = found.to_frame()
    ranks = frame.groupby("example", sort=False)["effect"].rank(method="first", ascending=False).astype(int)
    place = frame["example"].map({label: i for i, label in enumerate(found.labels)})
    order = pd.DataFrame({"place": place, "rank": ranks}).sort_values(["place", "rank"]).index
    return frame.assign(rank=ranks).loc[order].reset_index(drop=True)


def _answer(
    asked: Question,
    steps: list[int],
    take: Callable[[int, Tensor], None],
    result: Callable[[], tuple[pd.DataFrame, Tensor]],
) -> Attribution:
    """Hand `take` the effects [n, values] of every wanted step, last step first, and give out what it made of them."""
    training, wanted, norms, mixed = asked.training(), set(steps), list[Tensor](), False
    for at in asked.sweep(training, steps[0]):
        norms.append(norm(at.cotangent))
        step, before = at.transition.step, at.transition.before
        if step in wanted:
            data = asked.run.step_input(step, asked.problem.device)
            mixed = mixed or (step == steps[-1] and _check_parts(training.stretch(step).problem, before, data))
            take(step, _slopes(training, at, data).T.double().cpu())
    units, effects = result()
    notes = (EXAMPLES, MIXED) if mixed else (EXAMPLES,)
    return assuming(asked.answer(training, units, effects, norms, "examples"), *notes)


def _slopes(training: Training, at: AdjointStep, data: StepInput) -> Tensor:
    """The effect of each example of a step on each value, [values, n]."""
    _, propagator = training.linearize(at.transition.before, data, "none")
    worth = propagator.pull_to_gradient(at.cotangent)
    return torch.cat(
        example_slopes(training.stretch(at.transition.step).problem, at.transition.before, data)(list(worth.values())),
        1,
    )


def _taught(run: RunLike, steps: list[int]) -> list[int]:
    """Those of the steps that examples had a say in; RequestError if there is none."""
    taught = [k for k in steps if run.record(k).micro_batches]
    if not taught:
        raise RequestError(
            f"step {steps[0]} updates no parameter: batches that no step was taken with only moved buffers there, so "
            "no training example had a say in it; ask for the effect of the step"
        )
    return taught


def _named(run: RunLike, rows: Tensor) -> pd.DataFrame:
    ids = run.example_ids(rows)
    return pd.DataFrame({"row": rows.numpy(), "id": [None] * len(rows) if ids is None else ids})


def _check_parts(problem: Problem, at: Snapshot, step: StepInput) -> bool:
    """Whether the model mixes the examples of a batch; RequestError if the loss does, since then it has no parts.

    Every second example of a batch is replaced by its neighbour: nothing about the others should change.
    """
    batch = max((b for b, _ in step.batches), key=lambda b: len(b.targets))
    outputs, other = (_outputs(problem, at, b, step.training) for b in (batch, _replaced(batch)))
    if len(outputs) != len(batch.targets):
        raise RequestError(
            f"the model gives {len(outputs)} outputs for {len(batch.targets)} examples, so they cannot be told apart; "
            "let its first output dimension be the examples"
        )
    if _differ(_slope(problem, outputs, batch.targets), _slope(problem, _every_second(outputs), batch.targets)):
        raise RequestError(
            "the loss compares the examples of a batch with each other, so it is not a sum with one part for each of "
            "them; ask for the effect of steps or stages instead"
        )
    return _differ(outputs, other)


def _outputs(problem: Problem, at: Snapshot, batch: Batch, training: bool) -> Tensor:
    buffers = {n: b.clone() for n, b in at.buffers.items()}
    with torch.no_grad():
        return problem.batch_outputs(at.state.params, buffers, batch, training=training)


def _slope(problem: Problem, outputs: Tensor, targets: Tensor) -> Tensor:
    outputs = outputs.detach().requires_grad_()
    return torch.autograd.grad(problem.loss(outputs, targets), outputs)[0]


def _replaced(batch: Batch) -> Batch:
    return batch._replace(inputs=map_inputs(_every_second, batch.inputs))


def _every_second(rows: Tensor) -> Tensor:
    """Rows 1, 3, ... replaced by the ones before them."""
    return rows[torch.arange(len(rows), device=rows.device) // 2 * 2]


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether the rows that were not replaced are different numbers."""
    return bool((a[::2] - b[::2]).abs().max() > SAME * a[::2].abs().max())
