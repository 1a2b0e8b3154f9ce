"""How much each stage helped, where only checkpoints are known: an approximation, and said to be one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from aa_core.checkpoints_only.checkpoints import CheckpointRun
from aa_core.checkpoints_only.segments import (
    EXAMPLES,
    SegmentCurvature,
    check_mean_loss,
    check_segment_curvature,
    flat,
    flow_between,
    momentum,
    momentum_carried,
    momentum_known,
    pace,
    pieces,
    stage_batches,
    state_at,
    unflat,
)
from aa_core.confidence.reliability import Reliability, disagreement
from aa_core.confidence.verdict import SEGMENTS
from aa_core.counterfactuals.counterfactual import SEMANTICS
from aa_core.effects.attribution import Attribution, finite, provenance
from aa_core.effects.cache import EmbeddingCache, default_cache
from aa_core.effects.embedding import Readout, check_request, read
from aa_core.errors import RequestError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.replay import Progress, silent
from aa_core.stages import select
from aa_core.state import Params

METHOD_VERSION = 1
APPROXIMATION = "segment-wise stationary approximation from checkpoints only; batch order unknown"


def check_segment_request(method: str | None, semantics: str) -> None:
    """RequestError unless this is how stages are attributed where only checkpoints are known."""
    if (method or "boundary", semantics) != ("boundary", "freeze"):
        raise RequestError("where only checkpoints are known there is one method, boundary, and one semantics, freeze")


class SegmentEmbedding(NamedTuple):
    """theta_K - theta_K without the stage, approximately."""

    params: Params
    growth: float
    """Norm of the propagated change over the norm of the change itself."""


def segment_effects(
    run: CheckpointRun,
    problem: Problem,
    performance: Performance,
    *,
    stages: Sequence[str] | None = None,
    curvature: SegmentCurvature = "ggn",
    readout: Readout = "displaced",
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> Attribution:
    """How much each stage helped: gamma(recorded) - gamma(stage skipped), approximated from checkpoints.

    What a stage did to the parameters, theta_e - theta_s, is known exactly; how the later stages carried it to the end
    is approximated by the stationary flows of `aa_core.checkpoints_only.segments`. Semantics: "freeze".

    Args:
        curvature: "ggn", the mean Gauss-Newton matrix of each piece, or "none".
        readout: as for `stage_effects`; "displaced" had the smallest error (docs/checkpoints-only.md).

    Returns:
        Attribution with effects [stages, values] in the performance's unit; positive = the stage helped.
    """
    check_segment_curvature(curvature)
    check_request("boundary", curvature, readout, "freeze")
    performance.check_differentiable()
    embeddings = embed_segments(run, problem, stages, curvature, cache, progress)
    final = state_at(run, problem, run.steps)
    found = read([e.params for e in embeddings.values()], performance, problem, final.state.params, final.buffers)
    readings = {name: values.double().cpu() for name, values in found.items()}
    return Attribution(
        units=pd.DataFrame({"stage": list(embeddings)}),
        labels=performance.labels,
        effects=finite(readings[readout]),
        unit=performance.unit,
        reliability=_assess(run, problem, embeddings, curvature, readout, readings),
        readings=readings,
        provenance=provenance(
            run,
            problem,
            performance,
            "freeze",
            curvature,
            method=SEGMENTS,
            readout=readout,
            approximation=APPROXIMATION,
        ),
    )


def embed_segments(
    run: CheckpointRun,
    problem: Problem,
    stages: Sequence[str] | None,
    curvature: SegmentCurvature,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> dict[str, SegmentEmbedding]:
    """The embedding of each stage, in the order of training; all missing ones in one pass over the later segments."""
    names = [s.name for s in select(run.stages, stages)]
    first = state_at(run, problem, 0)
    problem.check_fits(first)
    check_mean_loss(problem, first, stage_batches(run, problem, run.stages[0].name, 1)[0][0])
    cache = cache or default_cache()
    keys = {name: _key(run, problem, name, curvature) for name in names}
    found = {name: e for name, key in keys.items() if (e := cache.get(key, problem.device)) is not None}
    if missing := [name for name in names if name not in found]:
        for name, embedding in _propagate(run, problem, missing, curvature, progress).items():
            cache.put(keys[name], *embedding)
            found[name] = embedding
    order = [t.name for t in run.header.parameters]
    return {name: SegmentEmbedding({n: found[name][0][n] for n in order}, found[name][1]) for name in names}


def _propagate(
    run: CheckpointRun, problem: Problem, names: Sequence[str], curvature: SegmentCurvature, progress: Progress
) -> dict[str, SegmentEmbedding]:
    """Every named stage's displacement, carried through the pieces of all later stages side by side."""
    like = state_at(run, problem, 0).state.params
    begun: list[str] = []
    changes = front = flat(like)[:0]
    for index, stage in enumerate(run.stages):
        before, after = (state_at(run, problem, k) for k in (stage.start, stage.stop))
        if begun:
            front = _through(run, problem, index, front, curvature)
        if stage.name in names:
            begun.append(stage.name)
            change = flat(after.state.params) - flat(before.state.params)
            changes = torch.cat([changes, change])
            if index + 1 < len(run.stages):
                change = change + momentum_carried(run, problem, index + 1, before, after)
            front = torch.cat([front, change])
        progress(stage.stop, run.steps)
    grown = front.norm(dim=1) / changes.norm(dim=1).clamp_min(torch.finfo(front.dtype).tiny)
    by_name = zip(begun, zip(*unflat(front, like), strict=True), grown.tolist(), strict=True)
    return {name: SegmentEmbedding(dict(zip(like, row, strict=True)), growth) for name, row, growth in by_name}


def _through(run: CheckpointRun, problem: Problem, index: int, front: Tensor, curvature: SegmentCurvature) -> Tensor:
    for piece in pieces(run, index):
        front = flow_between(run, problem, index, piece, curvature).push(front).vectors
    return front


def _key(run: CheckpointRun, problem: Problem, stage: str, curvature: str) -> str:
    request = [SEGMENTS, METHOD_VERSION, run.digest, problem.fingerprint, problem.device.type, stage, curvature]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()


# ---- how far to believe it -------------------------------------------------------------------------------------------


def _assess(
    run: CheckpointRun,
    problem: Problem,
    embeddings: dict[str, SegmentEmbedding],
    curvature: SegmentCurvature,
    readout: Readout,
    readings: dict[Readout, Tensor],
) -> Reliability:
    spread, signs = disagreement(readings)
    size = {s.name: _moved(run, problem, s.start, s.stop) for s in run.stages}
    slots = run.load(run.steps).state.slots.get("exp_avg_sq", {})
    count = sum(t.numel() for t in slots.values())
    return Reliability(
        growth=max((e.growth for e in embeddings.values()), default=0.0),
        effective_lr=max(pace(entry)[0] for entry in run.header.stages),
        stiff_share=sum(int((t == 0).sum()) for t in slots.values()) / max(count, 1),
        readout_spread=spread,
        signs_agree=signs,
        assumptions=(*assumptions(run, curvature), f"freeze: {SEMANTICS['freeze']}"),
        estimator=(SEGMENTS, curvature, readout),
        moved=max((size[name] for name in embeddings), default=0.0),
    )


def _moved(run: CheckpointRun, problem: Problem, start: int, stop: int) -> float:
    """How far a stage moved the parameters, over the norm of the final ones."""
    a, b, final = (flat(state_at(run, problem, k).state.params) for k in (start, stop, run.steps))
    return float((b - a).norm() / final.norm())


def assumptions(run: CheckpointRun, curvature: SegmentCurvature) -> tuple[str, ...]:
    """What every answer from checkpoints takes for granted."""
    kinds = {"ggn": "generalised Gauss-Newton", "none": "neglected"}
    slots, stages = {s.step: s.slots for s in run.header.states}, run.header.stages
    sampled = [s.name for s in stages if len(run.stage_examples(s.name).digests) > EXAMPLES]
    guessed = [s.name for s in stages if "beta2" in s.hyper and "exp_avg_sq" not in slots[s.checkpoints[-1]]]
    resumed = [i for i, s in enumerate(stages) if s.resumes and momentum(s)[1]]
    unknown = [stages[i].name for i in resumed if not momentum_known(run, i)]
    return (
        APPROXIMATION,
        "later stages keep their hyperparameters and data",
        "first order in the change that is propagated",
        f"between two checkpoints the curvature ({kinds[curvature]}), the preconditioner and the learning rate stand "
        "still; batch noise, clipping, dropout and running batch statistics are neglected",
        *([f"curvature over {EXAMPLES} examples of each of: {', '.join(sampled)}"] if sampled else []),
        *([f"Adam's second moment was not kept; estimated from gradients: {', '.join(guessed)}"] if guessed else []),
        *([f"momentum carried into a stage is not known, and left out: {', '.join(unknown)}"] if unknown else []),
    )
