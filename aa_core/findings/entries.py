"""What the ledger of findings holds: one act an entry, each pinned to the one before by its digest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from aa_core.counterfactuals.change import parse
from aa_core.counterfactuals.counterfactual import Counterfactual, Semantics
from aa_core.curvature import Curvature
from aa_core.effects.embedding import Method, Readout
from aa_core.lines import Line
from aa_core.runs.header import Count, Digest, Model, StageName

Severity = Literal["low", "medium", "high", "critical"]
Extent = Literal["sign", "size"]
"""How far a claim goes: that stages helped or hurt, or also by how much."""
Standing = Literal["estimate only", "confirmed by retraining", "refuted by retraining"]
ShortText = Annotated[str, Field(max_length=200)]
LongText = Annotated[str, Field(max_length=5_000)]


class Signature(Model):
    """Who answers for a finding or a report. A name is no proof: a signature with a key is."""

    name: ShortText
    role: ShortText
    date: ShortText
    statement: LongText = ""

    @property
    def words(self) -> str:
        """Name, role, date, and what was said with it."""
        said = f"{self.name}, {self.role}, {self.date}"
        return f"{said}: {self.statement}" if self.statement else said


class Evidence(Model):
    """An estimated effect with all that it was computed from, so that it can be computed again."""

    run: Digest
    stages: tuple[StageName, ...]
    """What was left out, scaled or changed; the effect is that of all of it together."""
    semantics: Semantics
    performance: ShortText
    examples: tuple[Count, ...] | None
    """Rows of the evaluation set; None for all."""
    n: Count
    evaluation: Digest
    """Digest of performance and examples."""
    method: Method
    curvature: Curvature
    readout: Readout
    effect: float
    """Mean over the examples; positive = training as recorded did better: what was left out helped."""
    unit: ShortText
    reliability: LongText
    """The verdict on the estimate, in words."""
    query: LongText = ""
    """The dashboard's view that it was pinned from, as a query string."""
    code: ShortText
    steps: tuple[Count, ...] = ()
    """Single steps beside the stages."""
    without: tuple[Count, ...] = ()
    """Rows of training examples that were left out."""
    scale: float = 0.0
    """How much of it was left; 1 with changes."""
    changes: dict[ShortText, LongText] = Field(default_factory=dict)
    """{hyperparameter: what it was instead}, as `Counterfactual.change` takes them."""

    @model_serializer(mode="wrap")
    def _as_written(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without those of the last fields that say nothing: lines from before there were any keep their bytes."""
        return {name: value for name, value in fields(self).items() if value or name not in _LATER}

    @property
    def counterfactual(self) -> Counterfactual:
        changes = tuple(parse(hyper, how) for hyper, how in self.changes.items())
        return Counterfactual(self.stages, self.scale, self.semantics, self.steps, self.without, changes)


_LATER = ("steps", "without", "scale", "changes")


class Added(Model):
    """A claim is entered, as an estimate."""

    kind: Literal["added"] = "added"
    claim: Annotated[str, Field(min_length=1, max_length=1_000)]
    severity: Severity
    extent: Extent
    evidence: Evidence
    recommendation: LongText = ""


class Checked(Model):
    """A stored retraining confirms or refutes the claim."""

    kind: Literal["confirmed", "refuted"]
    job: ShortText
    result: Digest
    """sha256 of the job's result, as it is stored."""
    effect: float
    """The true mean effect."""
    noise: float | None
    """The noise floor of that effect; None where none is stored."""


class Signed(Model):
    """Somebody answers for the finding, as it stands at this entry."""

    kind: Literal["signed off"] = "signed off"
    signature: Signature


Act = Annotated[Added | Checked | Signed, Field(discriminator="kind")]


class Entry(Line):
    """One line of the ledger."""

    number: Count
    previous: Digest
    """sha256 of the line before; of nothing for the first."""
    at: ShortText
    by: ShortText
    finding: Count
    """Findings are counted from 1: F1, F2, ..."""
    act: Act
