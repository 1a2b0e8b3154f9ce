"""What jobs can do. A kind is one function in KINDS: (run, problem, request, report) -> Outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pydantic import Field

from aa_core.confidence.calibration import prefer
from aa_core.counterfactuals.change import parse as parse_change
from aa_core.counterfactuals.counterfactual import Counterfactual, Semantics
from aa_core.counterfactuals.intervention import intervene
from aa_core.counterfactuals.kept import NOT_KEPT, KeptState
from aa_core.counterfactuals.retrain import final_model
from aa_core.counterfactuals.whatif import WhatIf, what_if
from aa_core.curvature import Curvature
from aa_core.effects.embedding import Method, Readout, check_request
from aa_core.effects.estimate import estimate
from aa_core.errors import IntegrityError, RequestError
from aa_core.jobs.checks import calibration, replay
from aa_core.jobs.counterfactuals import counterfactual_run
from aa_core.jobs.estimating import effects
from aa_core.jobs.outcome import Kind, Outcome, read_request, spec_of
from aa_core.jobs.spec import JobSpec, Report, in_part, no_report
from aa_core.problem import Problem
from aa_core.registry import load_problem
from aa_core.run_performance import run_performance
from aa_core.runs.header import Count, Model, StageName
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.version import __version__


class WhatIfRequest(Model):
    """The request of kinds "whatif" and "estimate": a counterfactual in plain values, and how to judge it."""

    skip: tuple[StageName, ...]
    scale: float
    semantics: Semantics
    performance: str
    examples: tuple[Count, ...] | None
    """Rows of the evaluation set; None for all."""
    readout: Readout
    curvature: Curvature
    method: Method = "boundary"
    steps: tuple[Count, ...] = ()
    """Single steps beside the stages of `skip`."""
    without: tuple[Count, ...] = ()
    """Rows of training examples."""
    changes: dict[str, str] = Field(default_factory=dict)
    """{hyperparameter: what it is instead}, as `Counterfactual.change` takes them."""

    @property
    def counterfactual(self) -> Counterfactual:
        changes = tuple(parse_change(hyper, how) for hyper, how in self.changes.items())
        return Counterfactual(self.skip, self.scale, self.semantics, self.steps, self.without, changes)

    @property
    def how(self) -> dict[str, Any]:
        """By what it is estimated."""
        return {"method": self.method, "readout": self.readout, "curvature": self.curvature}


def whatif_spec(
    run: Trajectory,
    what: Counterfactual,
    performance_name: str = "log-likelihood",
    examples: Sequence[int] | None = None,
    *,
    method: Method | None = None,
    readout: Readout | None = None,
    curvature: Curvature | None = None,
    problem: str | None = None,
) -> JobSpec:
    """The job that estimates and retrains `what`. The order of stages, steps and examples makes no difference.

    Raises:
        UnknownStageError, EmptyStageError, RequestError: before anything is started.
    """
    intervene(run, what)
    rows = None if examples is None else sorted(set(examples))
    judged = run_performance(run, performance_name, rows)
    chosen = (method, curvature, readout)
    method, curvature, readout = prefer(run, judged.basis, what.semantics, chosen, *what.methods)
    check_request(method, curvature, readout, what.semantics)
    what.check_method(method)
    request: dict[str, Any] = {
        "skip": [s.name for s in what.resolve(run.stages)],
        "scale": float(what.scale),
        "semantics": what.semantics,
        "performance": performance_name,
        "examples": rows,
        "readout": readout,
        "curvature": curvature,
        **({} if method == "boundary" else {"method": method}),
        "steps": sorted(set(what.steps)),
        "without": sorted(set(what.examples)),
        "changes": {c.hyper: c.text for c in sorted(what.changes)},
    }
    return spec_of("whatif", run, request, problem)


def estimate_spec(
    run: Trajectory, what: Counterfactual, performance_name: str = "log-likelihood", **how: Any
) -> JobSpec:
    """The job that estimates `what` and retrains nothing, on all examples; arguments and errors as of `whatif_spec`."""
    return whatif_spec(run, what, performance_name, **how).model_copy(update={"kind": "estimate"})


def perform(spec: JobSpec, report: Report = no_report, kept: KeptState = NOT_KEPT) -> Outcome:
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
    return KINDS[spec.kind](run, load_problem(asked.name, asked.config, spec.problem), spec.request, report, kept)


def whatif(run: Trajectory, problem: Problem, request: Mapping[str, Any], report: Report, kept: KeptState) -> Outcome:
    """Estimate, retrain, compare; see `WhatIfRequest`. The table "examples" has one row a value."""
    asked = read_request(WhatIfRequest, request)
    what, began = asked.counterfactual, time.perf_counter()
    judged = run_performance(run, asked.performance, asked.examples)
    steps = run.steps - min(intervene(run, what).steps)
    found = what_if(
        run,
        problem,
        what,
        judged,
        **asked.how,
        estimating=in_part(report, "estimating", (0, steps), 2 * steps),
        progress=in_part(report, "retraining", (steps, 2 * steps), 2 * steps),
        kept=kept,
    )
    summary = {**_summary(found, asked), "seconds": time.perf_counter() - began}
    return Outcome(summary, {"examples": found.to_frame()})


def estimation(
    run: Trajectory, problem: Problem, request: Mapping[str, Any], report: Report, _: KeptState = NOT_KEPT
) -> Outcome:
    """Estimate alone; see `WhatIfRequest`. The table "examples" has one row a value: example, recorded, estimate."""
    asked = read_request(WhatIfRequest, request)
    what, judged = asked.counterfactual, run_performance(run, asked.performance, asked.examples)
    recorded = final_model(run, problem).performance(judged).double().cpu()
    found = estimate(
        run,
        problem,
        what,
        judged,
        **asked.how,
        progress=in_part(report, "estimating", (0, run.steps), run.steps),
    )
    columns = {"example": list(found.labels), "recorded": recorded.numpy(), "estimate": found.effects[0].numpy()}
    summary = {
        "counterfactual": what.name,
        "performance": asked.performance,
        "unit": found.unit,
        "n": len(found.labels),
        "mean_recorded": float(recorded.mean()),
        "mean_estimate": float(found.effects.mean()),
        "reliability": found.reliability.to_dict(),
        "provenance": found.provenance,
    }
    return Outcome(summary, {"examples": pd.DataFrame(columns)})


def _summary(found: WhatIf, asked: WhatIfRequest) -> dict[str, Any]:
    """Means over the examples, and how estimate and retraining agree. Effects: positive = as recorded did better."""
    what = found.counterfactual
    return {
        "counterfactual": what.name,
        "skip": what.stages if what.skips_stages else (),
        "scale": what.scale,
        "semantics": what.manner,
        "meaning": what.meaning,
        "performance": asked.performance,
        "unit": found.unit,
        "n": len(found.labels),
        "mean_recorded": float(found.recorded.mean()),
        "mean_retrained": float((found.recorded - found.truth).mean()),
        "mean_estimate": float(found.estimate.mean()),
        "mean_truth": float(found.truth.mean()),
        "noise": found.noise,
        "within_noise": found.within_noise,
        "agreement": found.agreement._asdict(),
        "reliability": None if found.reliability is None else found.reliability.to_dict(),
        "steps_replayed": found.model.steps_replayed,
        "provenance": {**found.provenance, "code": __version__},
    }


KINDS: dict[str, Kind] = {
    "whatif": whatif,
    "estimate": estimation,
    "effects": effects,
    "calibrate": calibration,
    "replay": replay,
    "run": counterfactual_run,
}


def asked_counterfactual(spec: JobSpec) -> Counterfactual:
    """What a job of kind "whatif" or "estimate" changes."""
    return read_request(WhatIfRequest, spec.request).counterfactual
