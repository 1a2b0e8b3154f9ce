"""What retraining said of effects on all evaluation examples, brought to effects on some of them and to their parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from aa_core.confidence.calibration import Calibration, find_calibration
from aa_core.effects.attribution import Attribution
from aa_core.records import RunLike
from aa_core.run_performance import Judged, run_performance

ADDED_UP = {"step": "additive", "examples": "additive", "boundary": "boundary"}
"""Which method's effect of a stage they add up to: steps and causes, training examples, layers."""


class JudgedRun(RunLike, Judged, Protocol):
    """A run with an evaluation set."""


def with_calibration(found: Attribution, run: JudgedRun, performance: str) -> Attribution:
    """The same effects; where no retraining was judged on their very examples, with what it said of all examples.

    Single steps and their training examples were never retrained. What was is their sum over a stage, of the very same
    sweep: where that is not to be trusted, neither are they.

    Args:
        performance: its name; the effects are on some examples of the run's evaluation set, or on their mean.
    """
    known, asked = found.reliability, found.provenance
    believed = replace(
        known,
        judged=asked["n"],
        calibration=known.calibration or _calibration(run, performance, asked),
        estimator=known.estimator or (ADDED_UP[asked["method"]], asked["curvature"], "linear"),
    )
    return replace(found, reliability=believed)


def _calibration(run: JudgedRun, performance: str, asked: Mapping[str, Any]) -> Calibration | None:
    """Training examples are worth what the steps are that they are part of, and those are asked about by freezing."""
    semantics = "freeze" if asked["method"] == "examples" else asked["semantics"]
    return find_calibration(run, run_performance(run, performance).digest, semantics, asked["problem"])
