"""What an experiment does, read from its experiment.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from aa_core.errors import RequestError
from aa_core.runs.header import Model

ROOT = Path(__file__).resolve().parents[1]
PLAN = "experiment.toml"


class Optimizer(Model):
    """The optimizer; `cosine` lets the learning rate fall to zero over the run."""

    name: Literal["SGD", "AdamW"]
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    cosine: bool = False


class Stage(Model):
    """One stage: how long it trains, and what the experiment's script needs to know of its data."""

    name: str
    steps: int
    note: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    optimizer: Optimizer | None = None
    """A new one from this stage on, and the model that the problem ends with, where it begins with another."""


class Judged(Model):
    """A performance: the mean of a score over the evaluation examples with these metadata."""

    name: str
    where: dict[str, str | int] = Field(default_factory=dict)
    confounder: str | None = None
    """A metadata column: the score is the likelihood of its class, not of the label."""


class Finding(Model):
    """What is to be found: a claim on the stages' effects on one performance."""

    says: str
    performance: str
    kind: Literal["highest", "lowest", "negative", "positive"]
    """The k stages named have the k highest (lowest) effects; or each of them is negative (positive)."""
    stages: tuple[str, ...]


class Case(Model):
    """One training and what is asked about it."""

    name: str
    question: str
    problem: str
    config: dict[str, Any] = Field(default_factory=dict)
    optimizer: Optimizer
    batch: int = 64
    stages: tuple[Stage, ...]
    data: dict[str, Any] = Field(default_factory=dict)
    """What the experiment's script needs to know for all stages and the evaluation."""
    performances: tuple[Judged, ...] = ()
    findings: tuple[Finding, ...] = ()
    together: str | None = None
    """A performance: the stages that an estimate puts highest on it are skipped together, then those it puts lowest."""
    left_out: str | None = None
    """Id of a training example that is left out as well."""
    optional: bool = False
    """Left out where its data are not at hand."""
    baseline: str | None = None
    """The case that this one varies."""


class Plan(Model):
    """An experiment."""

    title: str
    question: str
    data: str
    """The data set, its source and licence, in a sentence."""
    tuned: str
    """What was tried before the settings were fixed, in a sentence."""
    seeds: tuple[int, ...]
    shipped: str
    """The case whose first seed is shipped as a run."""
    cases: tuple[Case, ...]

    def case(self, name: str) -> Case:
        """The case of that name."""
        found = next((c for c in self.cases if c.name == name), None)
        if found is None:
            raise RequestError(f"no case {name!r}; there are {', '.join(c.name for c in self.cases)}")
        return found


def experiments(root: Path = ROOT) -> tuple[str, ...]:
    """The names of all experiments."""
    return tuple(path.parent.name for path in sorted(root.glob(f"*/{PLAN}")))


def read_plan(name: str, root: Path = ROOT) -> Plan:
    """The plan of an experiment; a case with `like = "other"` is that case with some tables replaced.

    Raises:
        RequestError: there is no such experiment, or its plan makes no sense; all problems at once.
    """
    if name not in experiments(root):
        raise RequestError(f"no experiment {name!r}; there are {', '.join(experiments(root)) or 'none'}")
    path = root / name / PLAN
    try:
        content = tomllib.loads(path.read_text("utf-8"))
        content["cases"] = _inherited(content.get("cases", []))
        return Plan.model_validate(content, strict=False)
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{path}: {error}") from None


def _inherited(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each case with what it takes over from the one that it is like, which stands above it."""
    found: dict[str, dict[str, Any]] = {}
    for case in cases:
        other = case.pop("like", None)
        if other is not None and other not in found:
            raise RequestError(f"case {case.get('name')!r} is like {other!r}, which does not stand above it")
        found[str(case.get("name"))] = {**found.get(other, {}), **case}
    return list(found.values())
