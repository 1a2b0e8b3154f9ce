"""The questions that users ask: how much did each stage, each step help?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from aa_core.confidence.calibration import find_calibration, prefer
from aa_core.confidence.reliability import Reliability, assess
from aa_core.counterfactuals.counterfactual import Counterfactual, Semantics
from aa_core.curvature import Curvature
from aa_core.effects.adjoint import AdjointStep, growth_of, performance_sweep
from aa_core.effects.cache import EmbeddingCache
from aa_core.effects.embedding import ASSUMED, Method, Readout, check_request, embed_stages, read
from aa_core.effects.statistics import StatisticsChange
from aa_core.effects.tangent import without_step
from aa_core.errors import NonFiniteError, RequestError
from aa_core.performance import Performance
from aa_core.problem import Problem
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import Progress, prepare, silent, snapshot_before
from aa_core.stages import stage_of_steps
from aa_core.state import Params, Snapshot, norm, pair_change
from aa_core.threads import looked_at, spared
from aa_core.version import __version__

SIGN = "positive = helped, negative = hurt"


@dataclass(frozen=True)
class Attribution:
    """Effects of units (stages or steps) on the values of a performance, with all that is known of them."""

    units: pd.DataFrame
    """One row a unit: column `stage`, or `step` and `stage`."""
    labels: tuple[Any, ...]
    """What each value is: an example's number, or "mean"."""
    effects: Tensor
    """[units, values], float64 on the CPU; positive = the unit helped."""
    unit: str
    """Unit of the effects, e.g. "nats"."""
    reliability: Reliability
    readings: dict[Readout, Tensor] = field(default_factory=dict)
    """Stages: the effects by each readout; they differ where the effect is too large for first order."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row per unit and value, with columns of `units`, then example, effect, unit."""
        values = len(self.labels)
        frame = self.units.loc[self.units.index.repeat(values)].reset_index(drop=True)
        return frame.assign(
            example=list(self.labels) * len(self.units), effect=self.effects.flatten().numpy(), unit=self.unit
        )

    def within_noise(self, floor: Tensor | float | None = None) -> Tensor | None:
        """[units, values]: which effects are no larger than the noise floor of the truth; None where none is known.

        floor: such as `NoiseFloor.effects`; by default the largest on a value that the stored calibration found.
        """
        known = self.reliability.calibration
        if floor is None and known:
            floor = known.noise_of_value if len(self.labels) == known.values else known.noise_of_mean
        return _within(self.effects, floor)

    def mean_within_noise(self, floor: float | None = None) -> Tensor | None:
        """[units]: the same of the mean effects; floor: such as `NoiseFloor.mean_effect`."""
        return _within(self.effects.mean(1), self.reliability.noise_of_mean if floor is None else floor)


def stage_effects(
    run: RunLike,
    problem: Problem,
    performance: Performance,
    *,
    stages: Sequence[str] | None = None,
    method: Method | None = None,
    curvature: Curvature | None = None,
    readout: Readout | None = None,
    semantics: Semantics = "freeze",
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> Attribution:
    """How much each stage helped: gamma(recorded) - gamma(stage skipped), estimated to first order.

    Args:
        performance: what to judge by, [values]; all values are read from the same embeddings.
        stages: names; all stages that have steps by default.
        method: "boundary" propagates the change over a whole block; "midpoint" does so between the recorded and the
            predicted states, closer for sizes while training is smooth; "additive" sums first-order step effects.
        curvature: "exact" Hessian, "ggn" (stays bounded in stiff training), "none".
        readout: "linear", "displaced" or "link"; see `aa_core.effects.embedding.read`. By default method, curvature and
            readout are as a stored calibration of this question prefers; without one, or where any of them is given,
            boundary, exact, linear.
        semantics: "freeze" or "zero_gradient"; see `aa_core.counterfactuals.counterfactual.SEMANTICS`.

    Returns:
        Attribution with effects [stages, values] in the performance's unit; positive = the stage helped.
    """
    training = prepare(run, problem)
    method, curvature, readout = prefer(
        run, performance.basis, semantics, (method, curvature, readout), problem=problem.fingerprint
    )
    check_request(method, curvature, readout, semantics)
    performance.check_differentiable()
    embeddings = embed_stages(
        run,
        problem,
        None if stages is None else tuple(stages),
        method=method,
        curvature=curvature,
        semantics=semantics,
        cache=cache,
        progress=progress,
    )
    final = snapshot_before(run, training, run.steps, progress)
    readings = readings_of(
        [e.params for e in embeddings], performance, problem, final, [e.statistics for e in embeddings]
    )
    growth = max((e.growth for e in embeddings), default=0.0)
    found = assess(run, training, growth, semantics, curvature, readings)
    reliability = replace(
        found,
        assumptions=(*found.assumptions, *ASSUMED.get(method, ())),
        estimator=(method, curvature, readout),
        calibration=find_calibration(run, performance.basis, semantics, problem.fingerprint),
        **(distances([(e.params, e.growth) for e in embeddings], final.state.judged) if method != "additive" else {}),
    )
    return Attribution(
        units=pd.DataFrame({"stage": [e.stage for e in embeddings]}),
        labels=performance.labels,
        effects=finite(readings[readout]),
        unit=performance.unit,
        reliability=reliability,
        readings=readings,
        provenance=provenance(run, problem, performance, semantics, curvature, method=method, readout=readout),
    )


def step_effects(
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
    """How much each step helped (the paper's AA-Score): tau_k = <a_{k+1}, Delta_k>, one backward sweep.

    Costs one curvature product per value and step: ask for `performance.mean()`, or for a few examples.

    Args:
        stages: only the steps of these stages; all by default.
        memory: budget of the sweep, bytes: recomputed states and what it works with, but for activations of large
            batches, which come on top. At least 8 states are kept. None = a quarter of what is free, at least 1 GiB.

    Returns:
        Attribution with effects [steps, values]; positive = the step helped.
    """
    check_request("additive", curvature, "linear", semantics)
    training = prepare(run, problem)
    steps = steps_of(run, stages)

    def look(at: AdjointStep) -> tuple[Tensor, Tensor]:
        return _step_effect(run, training, at, semantics), norm(at.cotangent)

    with ExitStack() as ends:
        aside = ends.enter_context(spared(problem.device)) if semantics == "freeze" else None
        asked = (run, training, performance, curvature)
        sweep = performance_sweep(*asked, start=steps[0], memory=memory, aside=aside, progress=progress)
        effects, norms = zip(*looked_at(look, ends.enter_context(closing(sweep)), aside), strict=True)
    owner = stage_of_steps(run.stages, run.steps)
    return Attribution(
        units=pd.DataFrame({"step": steps, "stage": [owner[k] for k in steps]}),
        labels=performance.labels,
        effects=finite(torch.stack(effects[::-1])[[k - steps[0] for k in steps]]),
        unit=performance.unit,
        reliability=assess(run, training, growth_of(norms), semantics, curvature),
        provenance=provenance(run, problem, performance, semantics, curvature, method="step", readout="linear"),
    )


def readings_of(
    changes: Sequence[Params],
    performance: Performance,
    problem: Problem,
    final: Snapshot,
    statistics: Sequence[StatisticsChange],
) -> dict[Readout, Tensor]:
    """By each readout, [changes, values], float64 on the CPU."""
    found = read(changes, performance, problem, final.state.judged, final.buffers, statistics)
    return {readout: values.double().cpu() for readout, values in found.items()}


def _within(effects: Tensor, floor: Tensor | float | None) -> Tensor | None:
    return None if floor is None else effects.abs() <= floor


def distances(changes: Sequence[tuple[Params, float]], final: Params) -> dict[str, Any]:
    """`displacements` of the changes, and `moved`, the largest over the norm of the final parameters.

    changes: (what arrived at the end, how much it grew on its way).
    """
    sizes = tuple(_length(params) / growth if growth > 0 else 0.0 for params, growth in changes)
    return {"displacements": sizes, "moved": max(sizes, default=0.0) / _length(final)}


def _length(params: Params) -> float:
    norms = [torch.linalg.vector_norm(p, dtype=torch.float64) for p in params.values()]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def _step_effect(run: RunLike, training: Training, at: AdjointStep, semantics: Semantics) -> Tensor:
    before, after = at.transition.before, at.transition.after
    effect = pair_change(at.cotangent, after.state, without_step(run, training, before, semantics))
    return sum(at.of_statistics().values(), start=effect)


def steps_of(run: RunLike, stages: Sequence[str] | None, steps: Sequence[int] | None = None) -> list[int]:
    """The steps of these stages and these single steps, ascending; all of them where neither is given."""
    if stages is None and steps is None:
        found = list(range(run.steps))
    else:
        found = list(Counterfactual(tuple(stages or ()), steps=tuple(steps or ())).steps_of(run.stages))
    if not found:
        raise RequestError("the run has no steps to attribute")
    return found


def finite(effects: Tensor) -> Tensor:
    """Effects as float64 on the CPU; NonFiniteError where propagation overflowed."""
    effects = effects.detach().double().cpu()
    if not bool(torch.isfinite(effects).all()):
        raise NonFiniteError(
            "the effects are not finite: propagation through this training overflowed. Try curvature='ggn', which "
            "stays bounded, or retrain without the stage"
        )
    return effects


def provenance(
    run: RunLike, problem: Problem, performance: Performance, semantics: str, curvature: str, **request: str
) -> dict[str, Any]:
    """What a result was computed from, and how."""
    return {
        "run": run.digest,
        "problem": problem.fingerprint,
        "performance": performance.name,
        "evaluation": performance.digest,
        "n": len(performance.targets),
        "semantics": semantics,
        "curvature": curvature,
        **request,
        "sign": SIGN,
        "dtype": str(next(problem.model.parameters()).dtype).removeprefix("torch."),
        "device": problem.device.type,
        "code": __version__,
        "torch": torch.__version__,
    }
