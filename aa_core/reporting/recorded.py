"""Sections of a report on what was recorded: the run, its stages, curves and data; and what a number in a report is."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, JsonValue

from aa_core.reporting.about import Section

DIGITS = 10
"""Significant digits of a number in a report: more than any estimate deserves, fewer than rounding spoils."""


def _tidy(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


Number = Annotated[float | None, BeforeValidator(_tidy)]
"""A finite number, or None where there is none: JSON knows neither NaN nor infinity."""


class RunStage(Section):
    """A stage of the training, as it was recorded."""

    name: str
    blocks: tuple[tuple[int, int], ...]
    note: str
    metadata: dict[str, JsonValue]
    examples: int
    """Distinct training examples that its steps used."""
    uses: int | None
    """How often it used one; None where its steps are not known."""
    optimizer: str = ""
    """The update rules of its steps, in their order."""


class Log(Section):
    """The training's own curves; above 2,000 steps the means of neighbouring ones."""

    step: tuple[int, ...]
    stage: tuple[str, ...]
    loss: tuple[Number, ...]
    lr: tuple[Number, ...]
    grad_norm: tuple[Number, ...] = ()
    """Length of the gradient over all trained parameters, as the optimizer got it; empty where that is not known."""
    steps_per_row: int


class StoredFile(Section):
    """A file of the run as the run's own log names it."""

    name: str
    sha256: str
    size: int


class Replay(Section):
    """What taking every recorded step again found, in a job of this workspace."""

    words: str
    sound: bool
    """Whether every checkpoint was met."""
    job: str


class RunSection(Section):
    """Which recorded run this is about."""

    digest: str
    title: str
    created: str
    model: str
    loss: str
    parameters: int | None
    optimizer: str
    steps: int
    sealed: bool
    integrity: str
    """What a check of the files said, in words."""
    replay: Replay | None = None
    """None: no replay of this run came to an end in this workspace."""
    warnings: tuple[str, ...]
    environment: dict[str, JsonValue]
    stages: tuple[RunStage, ...]
    checkpoints: tuple[StoredFile, ...]
    known: Literal["steps", "checkpoints"] = "steps"
    """What was recorded: every step, or some states only."""
    log: Log | None = None


class DataSection(Section):
    """What the model learnt from, and what it is judged on."""

    examples: int
    """Distinct training examples over the whole run."""
    uses: int | None
    evaluation: int
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    """Metadata of the evaluation examples, from which subgroups are made."""
    files: tuple[StoredFile, ...]
