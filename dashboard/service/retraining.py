"""What-ifs that are really retrained, as jobs: the same question is the same job, in every session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from aa_core.counterfactuals.counterfactual import Counterfactual, Semantics
from aa_core.counterfactuals.intervention import intervene
from aa_core.errors import RequestError
from aa_core.jobs import Job, JobSpec, all_jobs, asked_counterfactual, run_spec, whatif_spec
from aa_core.reporting import glossary
from dashboard.selection import Selection
from dashboard.service.desk import Desk
from dashboard.service.engine import CHOSEN
from dashboard.service.estimates import picked


def counterfactual(s: Selection) -> Counterfactual:
    """What the selection changes; RequestError if it does not go together, or names nothing."""
    steps = () if s.leave is None else tuple(range(s.leave[0], s.leave[1] + 1))
    if s.change:
        return Counterfactual.change(*s.skip, steps=steps, **dict(s.change))
    semantics: Semantics = "zero_gradient" if s.without else s.semantics
    return Counterfactual(s.skip, s.scale / 100, semantics, steps, s.without)


def without(s: Selection, stage: str) -> Counterfactual:
    """A whole stage left out, under the semantics that are picked."""
    return Counterfactual.skip(stage, semantics=s.semantics)


def question(desk: Desk, s: Selection) -> JobSpec:
    """The what-if that is picked, as a job."""
    examples = picked(desk, s)
    what = counterfactual(s)
    how: dict[str, Any] = {"method": what.method_like(s.method), "readout": s.readout, "curvature": s.curvature}
    return whatif_spec(desk.recorded, what, s.performance, examples, problem=CHOSEN, **how)


def recording(desk: Desk, s: Selection) -> JobSpec | None:
    """The job that records the picked counterfactual as a run; None where it is none that could be recorded."""
    try:
        return run_spec(desk.recorded, counterfactual(s), CHOSEN)
    except RequestError:
        return None


def asked(job: Job, s: Selection) -> Selection:
    """The selection that asks the question of a past what-if again."""
    request, what = job.spec.request, asked_counterfactual(job.spec)
    chosen: dict[str, Any] = {name: request[name] for name in ("performance", "curvature", "readout")}
    chosen["method"] = request.get("method", "boundary")
    examples: Any = request["examples"] or ()
    return replace(s.everything, **chosen, examples=tuple(examples), **asking(what))


def asking(what: Counterfactual) -> dict[str, Any]:
    """The settings of a selection that ask what a counterfactual asks."""
    return {
        "skip": what.stages,
        "leave": (what.steps[0], what.steps[-1]) if what.steps else None,
        "without": what.examples,
        "scale": 0 if what.changes else round(100 * what.scale),
        "change": tuple(sorted((c.hyper, c.text) for c in what.changes)),
        **({} if what.examples or what.changes else {"semantics": what.semantics}),
    }


def words(what: Counterfactual) -> str:
    """A counterfactual at the head of a line."""
    if what.skips_stages:
        return f"Without {glossary.listed(what.stages)}"
    name = what.name.removeprefix("skip ")
    return name if what.changes or what.scale else f"Without {name}"


def words_of(job: Job) -> str:
    """What a past what-if asked."""
    return words(asked_counterfactual(job.spec))


def past(desk: Desk) -> list[Job]:
    """All what-ifs of this run, newest first."""
    return [job for job in all_jobs() if job.spec.kind == "whatif" and job.spec.digest == desk.run.digest]


def effort(desk: Desk, what: Counterfactual) -> tuple[int, float | None]:
    """(steps that retraining takes again, seconds at the pace of the newest that is done; None where none is)."""
    steps = desk.recorded.steps - min(intervene(desk.recorded, what).steps)
    done = (job.result() for job in past(desk) if job.status == "done")
    pace = next((found["seconds"] / found["steps_replayed"] for found in done if found["steps_replayed"]), None)
    return steps, None if pace is None else steps * pace


def comparison(found: Mapping[str, Any]) -> pd.DataFrame:
    """The means of a retraining, as bars."""
    return pd.DataFrame({"stage": ["Estimated", "Retrained"], "effect": [found["mean_estimate"], found["mean_truth"]]})


def verdict(found: Mapping[str, Any], noise: float = 0.0) -> Literal["noise", "refuted", "sign", "confirmed"]:
    """Whether the retraining bears the estimated mean out: its sign, and its size to a factor of two."""
    estimate, truth = found["mean_estimate"], found["mean_truth"]
    if max(abs(estimate), abs(truth)) <= noise:
        return "noise"
    if estimate * truth <= 0:
        return "refuted"
    return "confirmed" if 0.5 <= truth / estimate <= 2 else "sign"
