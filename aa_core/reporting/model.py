"""A report as a frozen value: what report.json holds, no more and no less. Its digest, and the check of it."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from aa_core.errors import IntegrityError, RunFormatError, RunVersionError
from aa_core.header import read_json

SCHEMA: Literal["aa-report/1"] = "aa-report/1"
DIGITS = 10
"""Significant digits of a number in a report: more than any estimate deserves, fewer than rounding spoils."""


def _tidy(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


Number = Annotated[float | None, BeforeValidator(_tidy)]
"""A finite number, or None where there is none: JSON knows neither NaN nor infinity."""
Status = Literal["estimate", "confirmed", "partly", "refuted"]


class Section(BaseModel):
    """A JSON object with exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Answer(Section):
    """The answer in three lines, computed from the results."""

    lines: tuple[str, str, str]
    status: Status


class RunStage(Section):
    """A stage of the training, as it was recorded."""

    name: str
    blocks: tuple[tuple[int, int], ...]
    note: str
    metadata: dict[str, JsonValue]


class Log(Section):
    """The training's own curves; above 2,000 steps the means of neighbouring ones."""

    step: tuple[int, ...]
    stage: tuple[str, ...]
    loss: tuple[Number, ...]
    lr: tuple[Number, ...]
    steps_per_row: int


class RunSection(Section):
    """Which recorded run this is about."""

    digest: str
    title: str
    optimizer: str
    steps: int
    sealed: bool
    warnings: tuple[str, ...]
    environment: dict[str, JsonValue]
    stages: tuple[RunStage, ...]
    log: Log | None = None


class Selection(Section):
    """On which examples, and by what, the model was judged."""

    n: int
    examples: Literal["all"] | tuple[int | str, ...]
    performance: str
    unit: str
    evaluation: str
    """Digest of performance and examples."""


class MethodSection(Section):
    """How the effects were estimated."""

    method: str
    curvature: str
    readout: str
    semantics: str
    formula: tuple[str, ...]
    words: tuple[str, ...]
    assumptions: tuple[str, ...]


class ReliabilitySection(Section):
    """Figures that were measured along with the estimate, and what they say."""

    growth: Number
    effective_lr: Number
    stiff_share: Number
    readout_spread: Number
    signs_agree: Number
    words: str


class StageRow(Section):
    """Effect of one stage: its mean over n examples; the interval is over the examples."""

    stage: str
    steps: int
    note: str
    mean: Number
    low: Number
    high: Number
    share_helped: Number
    n: int
    readouts: dict[str, Number]
    """The mean by each readout; where they lie far apart, first order is not enough."""


class StepTable(Section):
    """Effect of each step on the mean; `steps_per_row` neighbours are summed where there are very many."""

    step: tuple[int, ...]
    stage: tuple[str, ...]
    effect: tuple[Number, ...]
    steps_per_row: int
    reliability: ReliabilitySection


class ExampleTable(Section):
    """Effect of each stage on each example: effect[stage][example]."""

    example: tuple[int | str, ...]
    stage: tuple[str, ...]
    effect: tuple[tuple[Number, ...], ...]


class Check(Section):
    """One retraining beside its estimate; `status` says "done", or why there is no result."""

    counterfactual: str
    skip: tuple[str, ...]
    """The stages that were left out; empty if something else was changed."""
    semantics: str
    status: str
    performance: str | None
    evaluation: str | None
    """Digest of performance and examples, where the result names it."""
    unit: str
    n: int | None
    mean_recorded: Number
    mean_retrained: Number
    mean_estimate: Number
    mean_truth: Number
    agreement: dict[str, Number]
    seconds: Number


class Report(Section):
    """All of a report. Every file format is written from this value alone."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    version: Literal["aa-report/1"] = Field(default=SCHEMA, validation_alias="schema", serialization_alias="schema")
    title: str
    date: str | None
    question: str
    answer: Answer
    run: RunSection
    selection: Selection
    method: MethodSection
    stages: tuple[StageRow, ...]
    steps: StepTable | None
    examples: ExampleTable | None
    checks: tuple[Check, ...]
    reliability: ReliabilitySection
    limitations: tuple[str, ...]
    provenance: dict[str, JsonValue]
    reproduce: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON without its digests."""
        return _sealed(self.model_dump(mode="json"))["digest"]


def to_json(report: Report) -> str:
    """The canonical report.json: sorted keys, ASCII, no "<" (it is embedded in HTML as it is), with its digests."""
    return canonical(_sealed(report.model_dump(mode="json"))) + "\n"


def canonical(value: Any) -> str:
    """One text for one value."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).replace("<", "\\u003c")


def verify(data: bytes) -> None:
    """Check a report.json against its own digests; IntegrityError names the section that was changed.

    A digest says that nothing was changed by accident or by hand. Who wrote the report, a signature has to say.
    """
    _verified(data)


def read_report(data: bytes) -> Report:
    """A verified report from the bytes of its report.json."""
    try:
        return Report.model_validate_json(json.dumps(_verified(data)))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)[:10])
        raise RunFormatError(f"report.json: {wrong}") from None


def _verified(data: bytes) -> dict[str, Any]:
    found = read_json(data, "report.json")
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        kind = RunVersionError if str(schema).startswith("aa-report/") else RunFormatError
        raise kind(f"report.json: schema is {schema!r}, this package reads {SCHEMA!r}")
    content = {k: v for k, v in found.items() if k not in ("digest", "digests")}
    expected = _sealed(content)
    digests = found.get("digests")
    digests = digests if isinstance(digests, dict) else {}
    changed = sorted(k for k in {*digests, *expected["digests"]} if digests.get(k) != expected["digests"].get(k))
    if changed:
        raise IntegrityError(
            f"report.json: {', '.join(changed)} differ from their digests: the report was changed after it was written"
        )
    if found.get("digest") != expected["digest"]:
        raise IntegrityError(
            f"report.json: the digest is {str(found.get('digest'))[:64]!r}, the content has {expected['digest']!r}"
        )
    if data != (canonical(found) + "\n").encode():
        raise IntegrityError(
            "report.json: same values, but not the bytes that were written (a number or the layout was edited)"
        )
    return content


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    digests = {name: _sha256(value) for name, value in content.items()}
    return {**content, "digests": digests, "digest": _sha256(content)}


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()
