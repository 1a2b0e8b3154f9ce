"""What jobs can do. A kind is one function in KINDS: (run, problem, request, report) -> Outcome."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from aa_core.attribution import stage_effects
from aa_core.counterfactual import Counterfactual, Semantics
from aa_core.curvature import Curvature
from aa_core.embedding import Readout, check_request
from aa_core.errors import IntegrityError, RequestError, RunFormatError
from aa_core.header import Count, Model, StageName, parse
from aa_core.jobs.job import all_jobs
from aa_core.jobs.spec import JobSpec, Report, anchored, file_digest, in_part, no_report
from aa_core.problem import Problem
from aa_core.registry import load_problem
from aa_core.run_performance import run_performance
from aa_core.trajectory import Trajectory, open_run
from aa_core.version import __version__
from aa_core.whatif import WhatIf, what_if


@dataclass(frozen=True)
class Outcome:
    """What a kind found."""

    result: dict[str, Any]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


Kind = Callable[[Trajectory, Problem, Mapping[str, Any], Report], Outcome]


class WhatIfRequest(Model):
    """The request of kind "whatif"."""

    skip: tuple[StageName, ...]
    scale: float
    semantics: Semantics
    performance: str
    examples: tuple[Count, ...] | None
    readout: Readout
    curvature: Curvature

    @property
    def counterfactual(self) -> Counterfactual:
        return Counterfactual(self.skip, self.scale, self.semantics)


def whatif_spec(
    run: Trajectory,
    what: Counterfactual,
    performance_name: str = "log-likelihood",
    examples: Sequence[int] | None = None,
    *,
    readout: Readout = "linear",
    curvature: Curvature = "exact",
    problem: str | None = None,
) -> JobSpec:
    """The job that estimates and retrains `what`. The order of stages and examples makes no difference.

    Raises:
        UnknownStageError, EmptyStageError, RequestError: before anything is started.
    """
    if what.steps or what.examples:
        raise RequestError(
            "a what-if job skips or scales stages; leave out steps or examples with aa.what_if in Python"
        )
    stages = what.resolve(run.stages)
    rows = None if examples is None else sorted(set(examples))
    run_performance(run, performance_name, rows)
    check_request("boundary", curvature, readout, what.semantics)
    request: dict[str, Any] = {
        "skip": [s.name for s in stages],
        "scale": float(what.scale),
        "semantics": what.semantics,
        "performance": performance_name,
        "examples": rows,
        "readout": readout,
        "curvature": curvature,
    }
    return JobSpec(
        kind="whatif",
        run=str(run.path.resolve()),
        digest=run.digest,
        problem=anchored(problem),
        problem_digest=file_digest(problem),
        request=request,
    )


def perform(spec: JobSpec, report: Report = no_report) -> Outcome:
    """Do what a spec asks, here and now."""
    if spec.kind not in KINDS:
        raise RequestError(f"kind={spec.kind!r}; expected one of {', '.join(KINDS)}")
    report("opening the run", 0, 0)
    run = open_run(spec.run)
    if run.digest != spec.digest:
        raise IntegrityError(
            f"{spec.run}: digest {run.digest[:16]}..., the job was asked about {spec.digest[:16]}...: the run has "
            "changed since. Ask again, about the run as it is now"
        )
    asked = run.header.problem
    return KINDS[spec.kind](run, load_problem(asked.name, asked.config, spec.problem), spec.request, report)


def whatif(run: Trajectory, problem: Problem, request: Mapping[str, Any], report: Report) -> Outcome:
    """Estimate, retrain, compare; see `WhatIfRequest`. The table "examples" has one row a value."""
    asked = _read(WhatIfRequest, request)
    what, began = asked.counterfactual, time.perf_counter()
    judged = run_performance(run, asked.performance, asked.examples)
    steps = run.steps - min(what.treatment(run.stages))
    estimated = stage_effects(  # what_if finds its embeddings in the cache
        run,
        problem,
        judged,
        stages=what.stages,
        curvature=asked.curvature,
        readout=asked.readout,
        semantics=what.semantics,
        progress=in_part(report, "estimating", (0, steps), 2 * steps),
    )
    found = what_if(
        run,
        problem,
        what,
        judged,
        readout=asked.readout,
        curvature=asked.curvature,
        progress=in_part(report, "retraining", (steps, 2 * steps), 2 * steps),
    )
    reliability, seconds = estimated.reliability.to_dict(), time.perf_counter() - began
    summary = {**_summary(found, asked), "reliability": reliability, "seconds": seconds}
    return Outcome(summary, {"examples": found.to_frame()})


def _summary(found: WhatIf, asked: WhatIfRequest) -> dict[str, Any]:
    """Means over the examples, and how estimate and retraining agree. Effects: positive = what was skipped helped."""
    return {
        "counterfactual": found.counterfactual.name,
        "skip": asked.skip,
        "scale": asked.scale,
        "semantics": asked.semantics,
        "performance": asked.performance,
        "unit": found.unit,
        "n": len(found.labels),
        "mean_recorded": float(found.recorded.mean()),
        "mean_retrained": float((found.recorded - found.truth).mean()),
        "mean_estimate": float(found.estimate.mean()),
        "mean_truth": float(found.truth.mean()),
        "agreement": found.agreement._asdict(),
        "steps_replayed": found.model.steps_replayed,
        "provenance": {**found.provenance, "code": __version__},
    }


KINDS: dict[str, Kind] = {"whatif": whatif}


def retrainings(run: Trajectory) -> tuple[dict[str, Any], ...]:
    """Every what-if job on this run that is over, newest first: its result, or what was asked and why there is none."""
    over = [j for j in all_jobs() if j.spec.kind == "whatif" and j.spec.digest == run.digest and not j.living]
    return tuple(
        job.result()
        if job.status == "done"
        else {
            "counterfactual": _read(WhatIfRequest, job.spec.request).counterfactual.name,
            "semantics": job.spec.request["semantics"],
            "performance": job.spec.request["performance"],
            "status": job.status if job.status == "cancelled" else f"failed: {job.error}",
        }
        for job in over
    )


def _read(model: type[WhatIfRequest], request: Mapping[str, Any]) -> WhatIfRequest:
    try:
        return parse(model, json.dumps(dict(request)).encode(), "request")
    except RunFormatError as error:
        raise RequestError(str(error)) from None
