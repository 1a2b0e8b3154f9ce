"""Jobs in words, and where their results are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dashboard.light import glossary
from dashboard.selection import NOTHING, Selection
from dashboard.service import Job, retraining
from dashboard.words import performance_words, plural

SIGN = "positive = training as recorded did better"
"""How the rows of retrainings are signed."""
ESTIMATES = {
    "stages": "Effects of the stages",
    "steps": "Effects of the steps",
    "layers": "Effects by layer",
    "causes": "Effects by cause",
    "batches": "Effects of training examples",
    "shares": "Path shares",
}


def describe(job: Job) -> tuple[str, str]:
    """What a job was asked, and what it found or how it stands."""
    request: Mapping[str, Any] = job.spec.request
    match job.spec.kind:
        case "whatif":
            return retraining.words_of(job), _whatif(job)
        case "estimate":
            return f"{retraining.words_of(job)}, estimated only", _estimate(job)
        case "run":
            title = job.result()["title"] if job.status == "done" else job.status
            return "Counterfactual training, recorded as a run", title
        case "calibrate":
            return "Verify all stages by retraining", f"{performance_words(request['performance'])} on all examples"
        case "replay":
            return "Replay of the whole run", job.result()["words"] if job.status == "done" else job.status
        case "effects":
            return ESTIMATES[request["by"]], _subject(request)
        case kind:
            return kind.capitalize(), job.status


def place_of(job: Job, s: Selection) -> tuple[str, Selection]:
    """The screen and the selection that show a job's result."""
    match job.spec.kind:
        case "whatif" | "estimate":
            return "What-if", retraining.asked(job, s)
        case "effects":
            return "Explore", s
        case "run":
            return "Overview", replace(NOTHING, run=job.result()["run"])
        case _:
            return "Reliability", s


def effect(found: Mapping[str, Any], which: str) -> str:
    """One of the means, with as many decimals as the other."""
    return glossary.fmt_effect(found[which], glossary.scale_of([found["mean_estimate"], found["mean_truth"]]))


def _whatif(job: Job) -> str:
    if job.status != "done":
        return f"{_subject(job.spec.request)}: {job.status}"
    found = job.result()
    means = f"estimated {effect(found, 'mean_estimate')}, retrained {effect(found, 'mean_truth')} {found['unit']}"
    return f"{_subject(job.spec.request, found['n'])}: {means}"


def _estimate(job: Job) -> str:
    if job.status != "done":
        return f"{_subject(job.spec.request)}: {job.status}"
    found = job.result()
    estimated = f"estimated {glossary.fmt_effect(found['mean_estimate'])} {found['unit']}"
    return f"{_subject(job.spec.request, found['n'])}: {estimated}"


def _subject(request: Mapping[str, Any], total: int = 0) -> str:
    """By what and on which examples; total: how many there are, where that is known."""
    every = f"all {plural(total, 'example')}" if total else "all examples"
    examples = plural(len(request["examples"]), "example") if request["examples"] else every
    return f"{performance_words(request['performance'])} on {examples}"
