"""Which training examples of a stage helped, where only checkpoints are known: an approximation, and said to be one."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from aa_core.checkpoints_only.checkpoints import CheckpointRun
from aa_core.checkpoints_only.segment_effects import APPROXIMATION, assumptions
from aa_core.checkpoints_only.segments import (
    SegmentCurvature,
    as_step,
    check_segment_curvature,
    flat,
    flow_between,
    pace,
    pieces,
    stage_batches,
    state_at,
    unflat,
)
from aa_core.confidence.reliability import Reliability
from aa_core.confidence.verdict import SEGMENTS
from aa_core.counterfactuals.counterfactual import EXAMPLES as LEFT_OUT
from aa_core.curvature import example_slopes
from aa_core.effects.attribution import Attribution, finite, provenance
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.replay import Progress, silent
from aa_core.stages import find
from aa_core.state import Snapshot


def segment_example_effects(
    run: CheckpointRun,
    problem: Problem,
    performance: Performance,
    stage: str,
    *,
    curvature: SegmentCurvature = "ggn",
    progress: Progress = silent,
) -> Attribution:
    """How much each training example of a stage helped, approximated from checkpoints: what SOURCE is for.

    effect_i = -sum over the stage's pieces <S_i^T a, g_i / N>: the derivative in the weight of the example's loss, with
    a the slope of the performance carried back through all later pieces, S_i what a gradient that is added in every
    step of the piece does to its end, and g_i the example's gradient, the mean of both ends.

    Cost: as `segment_effects`, a ray for each value: ask for `performance.mean()`, or a few examples.

    Returns:
        Attribution with units (stage, row, id), row being the place among the stage's examples, and effects
        [examples, values] in the performance's unit; positive = it helped. `ranked` orders them.
    """
    check_segment_curvature(curvature)
    performance.check_differentiable()
    index = run.stages.index(find(run.stages, stage))
    final = state_at(run, problem, run.steps)
    problem.check_fits(final)
    start = cotangents = _slopes(problem, performance, final)
    known = run.stage_examples(stage)
    count = len(known.digests)
    total = torch.zeros(count, len(performance), dtype=torch.float64)
    backward = [(i, piece) for i in range(index, len(run.stages)) for piece in pieces(run, i)][::-1]
    for done, (i, piece) in enumerate(backward, 1):
        flow = flow_between(run, problem, i, piece, curvature)
        if i == index:
            worth = flow.gather(cotangents).vectors
            for k in piece:
                total -= _by_example(run, problem, stage, k, worth) / 2
        cotangents = flow.pull(cotangents).vectors
        progress(done, len(backward))
    return Attribution(
        units=pd.DataFrame({"stage": stage, "row": range(count), "id": known.ids or [None] * count}),
        labels=performance.labels,
        effects=finite(total),
        unit=performance.unit,
        reliability=Reliability(
            growth=float((cotangents.norm(dim=1) / start.norm(dim=1)).max()),
            effective_lr=max(pace(entry)[0] for entry in run.header.stages),
            stiff_share=0.0,
            readout_spread=None,
            signs_agree=None,
            assumptions=(*assumptions(run, curvature), LEFT_OUT),
            estimator=(SEGMENTS, curvature, "linear"),
        ),
        provenance=provenance(
            run, problem, performance, "zero_gradient", curvature, method=SEGMENTS, approximation=APPROXIMATION
        ),
    )


def _slopes(problem: Problem, performance: Performance, at: Snapshot) -> Tensor:
    """d gamma / d theta, one row a value, [values, n]."""
    params = {n: p.detach().requires_grad_() for n, p in at.state.params.items()}
    values = performance(problem, params, at.buffers)
    rows = [torch.autograd.grad(v, list(params.values()), retain_graph=True, materialize_grads=True) for v in values]
    return flat(*(dict(zip(params, row, strict=True)) for row in rows))


def _by_example(run: CheckpointRun, problem: Problem, stage: str, step: int, worth: Tensor) -> Tensor:
    """<worth, g_i / N> of every example of the stage at a checkpoint, [examples, values]."""
    at = state_at(run, problem, step)
    directions = unflat(worth, at.state.params)
    parts = [
        torch.cat(example_slopes(problem, at, as_step([batch]))(directions), 1)
        for batch in stage_batches(run, problem, stage, len(run.stage_examples(stage).digests))
    ]
    return torch.cat(parts, 1).T.double().cpu()
