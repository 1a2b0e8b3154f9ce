"""A report as a frozen value: what report.json holds, no more and no less. Every other format is written from it."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from aa_core.errors import RunFormatError
from aa_core.reporting.about import About, Section, Signature
from aa_core.reporting.asked import Attempt, Picks, Request
from aa_core.reporting.recorded import DataSection, Number, RunSection
from aa_core.reporting.seal import SCHEMA, canonical, sealed, verified
from aa_core.reporting.shown import GroupTable, Shown
from aa_core.runs.header import listed

Status = Literal["estimate", "confirmed", "partly", "refuted"]


class Answer(Section):
    """The answer in three lines, computed from the results, and how sure it is."""

    lines: tuple[str, str, str]
    status: Status
    confidence: str


class Selection(Section):
    """On which examples, and by what, the model was judged."""

    n: int
    examples: Literal["all"] | tuple[int | str, ...]
    performance: str
    unit: str
    evaluation: str
    """Digest of performance and examples."""
    picks: Picks | None = None
    """What picked the examples; None for all, and for those that were picked one by one."""
    named: bool = True
    """Whether dashboard and command line know this performance by its name, on these rows of the run's own set."""


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
    trust: str
    """size, rank, sign or nothing."""
    words: str
    noise_of_mean: Number = None
    """How far the true mean effect on these examples moves by itself, at most; None where that was not measured."""
    moved: Number = None
    """The largest distance that a stage moved the weights, over the norm of the final ones; None where not known."""


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
    within_noise: bool | None
    """Whether the mean is no larger than the noise floor of the truth; None where none was measured."""
    readouts: dict[str, Number]
    """The mean by each readout; where they lie far apart, first order is not enough."""

    @property
    def unsure(self) -> bool:
        """Whether the readouts disagree in the sign of the mean."""
        return len({(mean > 0) - (mean < 0) for mean in self.readouts.values() if mean is not None}) > 1


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


class Points(Section):
    """Estimated and retrained effects on single examples."""

    example: tuple[int | str, ...]
    estimate: tuple[Number, ...]
    truth: tuple[Number, ...]
    of: int
    """How many there are; above 400 they are thinned evenly."""


class Check(Section):
    """One retraining beside its estimate; `status` says "done", or why there is no result."""

    counterfactual: str
    skip: tuple[str, ...]
    """The stages that were left out; empty if something else was changed."""
    semantics: str
    status: str
    job: str
    asked: str
    """When it was asked for, where that is known."""
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
    points: Points | None
    kind: Literal["what-if", "calibration", "run"] = "what-if"
    """"calibration" left out every stage once, "run" was recorded as a run of its own."""
    request: Request | None = None
    """The question in full; None where that was not recorded."""
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    """What the result itself says it was computed from: not all of it need be as in the rest of the report."""
    reliability: str = ""
    """How far its estimate could be believed before the retraining, in words."""
    earlier: tuple[Attempt, ...] = ()
    """Oldest first."""


class Estimator(Section):
    """How one estimator did against the retraining of every stage."""

    name: str
    used: bool
    pearson: Number
    spearman: Number
    sign: Number
    error: Number
    """Over stage x example pairs: relative error."""
    stage_sign: Number
    stage_error: Number


class CalibrationSection(Section):
    """Every stage really left out once, and what that said of every estimator."""

    same_question: bool
    """Whether it was measured on the performance and the examples of this report."""
    performance: str
    evaluation: str
    values: int
    unit: str
    stages: tuple[str, ...]
    truth: tuple[Number, ...]
    estimate: tuple[Number, ...]
    """By the estimator of this report; empty if it was not among those that were tried."""
    here: bool
    """Whether it was measured here; else it came with the run, and is a claim."""
    where: str
    """The machine that it says it was measured on."""
    noise_of_mean: Number
    noise_of_value: Number
    below_noise: int
    estimators: tuple[Estimator, ...]
    preferred: str
    rule: str
    code: str


class Comparison(Section):
    """The same question put to another run."""

    digest: str
    title: str
    n: int
    evaluation: str = ""
    """Digest of performance and examples there; that of the selection, if both runs were judged on the same."""
    stage: tuple[str, ...]
    here: tuple[Number, ...]
    there: tuple[Number, ...]
    words: str
    """How far the other run's effects can be believed."""


class ReportedFinding(Section):
    """A finding of the ledger, as it stood when the report was built."""

    id: str
    claim: str
    severity: str
    status: str
    rule: str
    """What its status rests on."""
    evidence: dict[str, JsonValue]
    changed: tuple[str, ...]
    """Inputs that are not those it was made from any more; empty: it reopens."""
    recommendation: str
    by: str
    at: str
    sign_off: tuple[Signature, ...]
    checked_by: str = ""
    checked_at: str = ""
    """Who entered what a retraining said, and when; empty where none is entered."""


class Ledger(Section):
    """The findings, and the digest of the ledger that they were read from."""

    findings: tuple[ReportedFinding, ...] = ()
    entries: int = 0
    head: str = ""


class Event(Section):
    """Something that was done, when, by whom."""

    at: str
    who: str
    what: str
    how: str
    """How it ended."""


class Process(Section):
    """What was done on the way to this report, as far as the workspace knows."""

    events: tuple[Event, ...]
    comparisons: str
    questions: int | None = None
    """How many different ones about the run took a job in this workspace; None where no workspace was asked."""


class Report(Section):
    """All of a report. Every file format is written from this value alone."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    version: Literal["aa-report/1", "aa-report/2"] = Field(
        default=SCHEMA, validation_alias="schema", serialization_alias="schema"
    )
    """What the second added has a default: a report of the first is read as one that holds none of it."""
    title: str
    date: str | None
    dashboard: str
    """Where the links of the figures lead: the address of a dashboard that has the run."""
    question: str
    answer: Answer
    about: About
    run: RunSection
    data: DataSection
    selection: Selection
    method: MethodSection
    stages: tuple[StageRow, ...]
    steps: StepTable | None
    groups: GroupTable | None
    examples: ExampleTable | None
    comparison: Comparison | None
    shown: Shown = Shown()
    checks: tuple[Check, ...]
    calibration: CalibrationSection | None
    ledger: Ledger
    reliability: ReliabilitySection
    limitations: tuple[str, ...]
    process: Process
    provenance: dict[str, JsonValue]
    reproduce: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON without its digests."""
        return sealed(self.model_dump(mode="json"))["digest"]


def to_json(report: Report) -> str:
    """The canonical report.json, with its digests."""
    return canonical(sealed(report.model_dump(mode="json"))) + "\n"


def read_report(data: bytes, where: str = "report.json") -> Report:
    """A verified report from the bytes of its report.json."""
    try:
        return Report.model_validate_json(json.dumps(verified(data, where)))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise RunFormatError(f"{where}: {listed(wrong)}") from None


def json_schema() -> str:
    """The JSON Schema of report.json as it is written today, committed beside this file."""
    schema = Report.model_json_schema(by_alias=True, mode="serialization")
    text = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    seals = {"digest": text, "digests": {"type": "object", "additionalProperties": text}}
    schema["properties"] |= {**seals, "schema": {"const": SCHEMA, "type": "string"}}
    schema["required"] = sorted({*schema["required"], *seals})
    return canonical({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}) + "\n"
