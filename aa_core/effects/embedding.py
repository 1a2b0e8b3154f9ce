"""Stage embeddings: what a stage did to the final parameters, to first order. Computed once, read by every question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.func import jvp, vmap

from aa_core.counterfactuals.counterfactual import Semantics, check_semantics
from aa_core.curvature import Curvature, check_curvature, jacobian
from aa_core.effects.cache import EmbeddingCache, default_cache
from aa_core.effects.statistics import UNCHANGED, Shift, StatisticsChange, statistics_changes
from aa_core.effects.tangent import additive_tangents, boundary_tangents, midway
from aa_core.errors import EmptyStageError, RequestError
from aa_core.performance import CHUNK, Performance
from aa_core.problem import Problem, twice_differentiable_kernels
from aa_core.records import Inputs, RunLike, map_inputs
from aa_core.replay import Progress, prepare, silent, verify_once
from aa_core.running_statistics import Evaluated
from aa_core.stages import select
from aa_core.state import Buffers, Params, State
from aa_core.threads import begun, spared

Method = Literal["boundary", "additive", "midpoint"]
Readout = Literal["linear", "displaced", "link"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
SWEEPS: dict[Method, Callable[..., tuple[dict[str, State], dict[str, float]]]] = {
    "boundary": boundary_tangents,
    "additive": additive_tangents,
    "midpoint": partial(boundary_tangents, place=midway),
}
ASSUMED = {"midpoint": ("every step was linearised half way to the mean of the states predicted without the stages",)}
"""What a method takes for granted beside the others."""
METHOD_VERSION = 4
"""Raised when an embedding's definition changes, so that no stale one is read."""
NEAR, FEW = 8 * 2**20, 64
"""Bytes that the widest tensor may have where a CPU reads several embeddings at once, and the fewest examples that are
worth a pass. Larger tensors leave the caches: reading a transformer took half as long again."""
FIRST_ORDER = " (first order)"
"""Ends the names of `StatisticsChange.first_order` where embeddings are kept."""


@dataclass(frozen=True)
class StageEmbedding:
    """theta_K - theta_K without the stage, to first order: one tensor per parameter."""

    stage: str
    params: Params
    statistics: StatisticsChange
    """The same of the model's running statistics."""
    growth: float
    """Norm of the propagated change over the norm of the change itself."""
    method: Method
    curvature: Curvature
    semantics: Semantics
    digest: str
    """Identifies run, problem and request."""


def embed_stages(
    run: RunLike,
    problem: Problem,
    stages: list[str] | tuple[str, ...] | None = None,
    *,
    method: Method = "boundary",
    curvature: Curvature = "exact",
    semantics: Semantics = "freeze",
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> tuple[StageEmbedding, ...]:
    """One embedding per stage (all by default), in the order of training.

    All missing ones are computed in one replay; the others come from the cache on the device or on disk. The midpoint
    method always computes all stages of the run, since its path lies between them.

    Raises:
        UnknownStageError, EmptyStageError: a named stage is not in the run, or has no steps.
        ProblemError, ReplayDriftError: the problem is not that of the run.
    """
    check_request(method, curvature, "linear", semantics)
    wanted = select(run.stages, stages)
    if not wanted:
        raise RequestError(
            "the run has no steps to attribute"
            if stages is None
            else "no stages named; name at least one, or None for all"
        )
    if stages is not None and any(not len(s) for s in wanted):
        raise EmptyStageError(
            f"stage {next(s.name for s in wanted if not len(s))!r} has no steps, so it has no effect to estimate"
        )
    wanted = tuple(s for s in wanted if len(s))
    training = prepare(run, problem)
    cache = cache or default_cache()
    keys = {s.name: _key(run, problem, s.name, method, curvature, semantics) for s in wanted}
    found = {name: cached for name, key in keys.items() if (cached := cache.get(key, problem.device)) is not None}
    missing = tuple(s for s in wanted if s.name not in found)
    if missing:
        together = tuple(s for s in run.stages if len(s)) if method == "midpoint" else missing
        tangents, growth = SWEEPS[method](run, training, together, curvature, semantics, progress)
        shifts = [Shift(s.start, frozenset(s.steps), tangents[s.name].params) for s in together]
        for s, moved in zip(together, statistics_changes(run, training, shifts), strict=True):
            first_order = {n + FIRST_ORDER: change for n, change in moved.first_order.items()}
            found[s.name] = ({**tangents[s.name].judged, **moved.measured, **first_order}, growth[s.name])
            cache.put(_key(run, problem, s.name, method, curvature, semantics), *found[s.name])
    verify_once(run, training, progress)
    trained = training.stretches[-1].packing.shapes
    embeddings = []
    for s in wanted:
        kept, grown = found[s.name]
        params = {n: kept[n] for n in trained}
        others = {n: t for n, t in kept.items() if n not in trained and not n.endswith(FIRST_ORDER)}
        statistics = StatisticsChange(others, {n: kept[n + FIRST_ORDER] for n in others if n + FIRST_ORDER in kept})
        embeddings.append(StageEmbedding(s.name, params, statistics, grown, method, curvature, semantics, keys[s.name]))
    return tuple(embeddings)


def read(
    embeddings: Sequence[Params],
    performance: Performance,
    problem: Problem,
    params: Params,
    buffers: Buffers,
    statistics: Sequence[StatisticsChange] = (),
) -> dict[Readout, Tensor]:
    """The effects that embeddings E have on every value of a performance, [embeddings, values] per readout.

    `statistics` are the changes of running statistics that go with each E: they are part of E, by their derivative in
    J E, as measured in theta - E. Of buffers without a derivative J E takes what they change in the outputs at theta.

    linear    <d gamma / d theta, E>
    displaced gamma(theta) - gamma(theta - E)
    link      gamma(f) - gamma(f - J E): the network is linearised, the score is not

    Positive = helped. Cost of all three: a forward-mode derivative and a forward pass an embedding (in a second
    thread where a processor is free), and one more pass for all of them. Where they disagree, the effect is too large
    for a first-order answer.
    """
    performance.check_differentiable()
    parts: dict[Readout, list[list[Tensor]]] = {readout: [[] for _ in embeddings] for readout in READOUTS}
    changed = statistics or [UNCHANGED] * len(embeddings)
    directions = {n: torch.stack([e[n] for e in embeddings]) for n in params}
    directions |= {n: torch.stack([c.first_order[n] for c in changed]) for n in changed[0].first_order}
    moved = [{n: p - e[n] for n, p in params.items()} for e in embeddings]
    without = [{n: buffers[n] - d for n, d in c.measured.items()} for c in changed]
    held = [{n: b for n, b in own.items() if n not in directions} for own in without]
    with performance.explained(), torch.no_grad(), twice_differentiable_kernels(), spared(problem.device) as aside:
        times = len(embeddings) * _pieces(performance, problem, params, buffers, len(embeddings))
        other = problem if aside is None else problem.with_own_model()
        for inputs, targets in performance.chunks(problem.device, times):
            score = partial(_score, performance, targets)
            elsewhere = [
                begun(aside, other.outputs, params_there, {**buffers, **buffers_there}, inputs)
                for params_there, buffers_there in zip(moved, without, strict=True)
            ]
            outputs, changes = push_outputs(problem, params, buffers, inputs, directions)
            value = score(outputs)
            for i, pushed in enumerate(changes):
                change = pushed
                if held[i]:
                    change = pushed + outputs - problem.outputs(params, {**buffers, **held[i]}, inputs)
                parts["linear"][i].append(jvp(score, (outputs,), (change,))[1])
                parts["displaced"][i].append(value - score(elsewhere[i]()))
                parts["link"][i].append(value - score(outputs - change))
    return {readout: torch.stack([performance.combine(p) for p in found]) for readout, found in parts.items()}


def _pieces(performance: Performance, problem: Problem, params: Params, buffers: Buffers, embeddings: int) -> int:
    """Into how many parts a CPU takes what would fit in memory at once, so that more of it stays in its caches."""
    if problem.device.type != "cpu" or len(performance.targets) <= FEW:
        return 1
    rows = CHUNK // embeddings
    inputs = map_inputs(lambda t: t[:1], performance.inputs)
    within = NEAR // (embeddings * _widest(problem, params, buffers, inputs))
    return -(-rows // max(FEW, within))


def _widest(problem: Problem, params: Params, buffers: Buffers, inputs: Inputs) -> int:
    """Bytes of the largest tensor that is made on the way to the outputs, and at least 1."""
    leaves = {n: p.detach().requires_grad_() for n, p in params.items()}
    given, sizes = {t.untyped_storage().data_ptr() for t in (*params.values(), *buffers.values())}, [1]

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in given:
            sizes.append(tensor.nbytes)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        problem.outputs(leaves, dict(buffers), inputs)
    return max(sizes)


def push_outputs(
    problem: Problem, params: Params, buffers: Buffers, inputs: Inputs, directions: Params
) -> tuple[Tensor, Tensor]:
    """(outputs [examples, ...], J d [R, examples, ...] for R directions d): one forward-mode pass for all of them.

    Directions of parameters, and of running statistics if there are any. Where forward mode is missing: J^T u
    differentiated in u.
    """
    start = {n: params[n] if n in params else buffers[n] for n in directions}

    def outputs_at(moved: Params) -> Tensor:
        at = {**params, **buffers, **moved}
        return problem.outputs({n: at[n] for n in params}, {n: at[n] for n in buffers}, inputs)

    def push(direction: Params) -> tuple[Tensor, Tensor]:
        outputs, change = jvp(outputs_at, (start,), (direction,))[:2]
        return outputs, change

    with twice_differentiable_kernels(), nullcontext() if start.keys() <= params.keys() else Evaluated():
        try:
            outputs, changes = vmap(push, out_dims=(None, 0), randomness="same")(directions)  # type: ignore[arg-type]
            return outputs, changes
        except (NotImplementedError, RuntimeError, ValueError):
            pass  # an operator without forward mode or batching: reverse mode does the same, or raises what is wrong
        with torch.enable_grad():
            leaves = {n: p.detach().requires_grad_() for n, p in start.items()}
            outputs = outputs_at(leaves)
            (changes,) = jacobian(problem, outputs, leaves)([directions[n] for n in leaves])
        return outputs.detach(), changes


def _score(performance: Performance, targets: Tensor, outputs: Tensor) -> Tensor:
    return performance.score(outputs, targets)


def check_request(method: str, curvature: str, readout: str, semantics: str) -> None:
    """Raise RequestError for a name that does not exist."""
    check_curvature(curvature)
    check_semantics(semantics)
    if method not in get_args(Method):
        raise RequestError(f"method={method!r}; expected one of {', '.join(get_args(Method))}")
    if readout not in READOUTS:
        raise RequestError(f"readout={readout!r}; expected one of {', '.join(READOUTS)}")


def _key(run: RunLike, problem: Problem, stage: str, method: str, curvature: str, semantics: str) -> str:
    request = [
        METHOD_VERSION,
        run.digest,
        problem.fingerprint,
        problem.device.type,
        stage,
        method,
        curvature,
        semantics,
    ]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()
