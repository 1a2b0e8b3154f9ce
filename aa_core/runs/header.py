"""The JSON of a run as strict, frozen models: the header run.json, and the commits of its log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from aa_core.errors import RunFormatError, RunVersionError
from aa_core.stages import Stage

FORMAT, VERSION = "aa-run", 1
CHECKPOINTS_FORMAT = "aa-checkpoints"
"""What `aa_core.checkpoints_only.checkpoints` reads."""
MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 64
MAX_JSON_VALUES, MAX_FIELDS = 2**21, 2**20
"""A byte of hostile JSON can cost fifty of memory, more with fields to validate: the number of values bounds it."""
MAX_STAGE_NAME = 200
_MAX_SHOWN = 50
_MAX_EXPLAINED = 10_000


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"must consist of printable characters on one line, found {_shorten(repr(text))}")
    return text


Count = Annotated[int, Field(ge=0, le=2**53)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
TensorName = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]
StageName = Annotated[str, Field(min_length=1, max_length=MAX_STAGE_NAME), AfterValidator(_printable)]
FileName = Annotated[
    str,
    Field(
        pattern=r"^(?:steps/\d{1,15}-\d{1,15}|states/\d{1,15}|data/(?:\d{1,15}|evaluation))\.safetensors$|^data/evaluation\.json$"
    ),
]
Role = Literal["steps", "state", "examples", "evaluation"]
Dtype = Literal[
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"
]


class Model(BaseModel):
    """A JSON object with exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def to_bytes(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()


class TensorSpec(Model):
    """Name, shape and dtype of one tensor of the model."""

    name: TensorName
    shape: tuple[Count, ...]
    dtype: Dtype


class ProblemEntry(Model):
    """Which problem of the *auditor's* registry fits the run; a name, never an import path to follow."""

    name: str | None
    config: dict[str, JsonValue]


class Environment(Model):
    """What the run was recorded on; bit-exact replay is promised inside one such class."""

    python: str
    torch: str
    platform: str
    device: str
    threads: Count
    cpu: str = ""
    """Empty in runs recorded before it was noted."""
    cpu_capability: str
    deterministic: bool


class Header(Model):
    """run.json: all that is known before the first step. Immutable."""

    format: Literal["aa-run"]
    version: Literal[1]
    run_id: str
    title: str
    created: str
    problem: ProblemEntry
    model_class: str
    parameters: tuple[TensorSpec, ...]
    groups: tuple[tuple[TensorName, ...], ...]
    buffers: tuple[TensorSpec, ...]
    optimizer: str
    slots: tuple[TensorName, ...]
    loss: str
    evaluation: bool
    environment: Environment

    @model_validator(mode="after")
    def _consistent(self) -> Header:
        _check_names(self.parameters, self.buffers, self.groups)
        if len(self.parameters) != sum(map(len, self.groups)):
            raise ValueError("groups must list all parameters")
        return self


class PhaseEntry(Model):
    """From the commit's stop on, another optimizer, other trained parameters, another model or loss."""

    model_class: str
    parameters: tuple[TensorSpec, ...]
    """All that were trained so far and that the model has: those of the groups in their order, then those at rest."""
    groups: tuple[tuple[TensorName, ...], ...]
    buffers: tuple[TensorSpec, ...]
    optimizer: str
    slots: tuple[TensorName, ...]
    loss: str
    sources: dict[TensorName, TensorName | None]
    """Former names of parameters and buffers that had another one; None for those that are new."""
    fresh: bool
    """Whether the optimizer begins anew."""
    problem: Count
    """How often model or loss were replaced so far."""

    @model_validator(mode="after")
    def _consistent(self) -> PhaseEntry:
        _check_names(self.parameters, self.buffers, self.groups)
        return self


def first_phase(header: Header) -> PhaseEntry:
    """What the header says of the training, as the phase that begins at step 0."""
    shared = {n: getattr(header, n) for n in ("model_class", "parameters", "groups", "buffers", "optimizer", "slots")}
    return PhaseEntry(**shared, loss=header.loss, sources={}, fresh=True, problem=0)


def _check_names(
    parameters: Sequence[TensorSpec], buffers: Sequence[TensorSpec], groups: Sequence[Sequence[str]]
) -> None:
    if twice := repeated(t.name for t in (*parameters, *buffers)):
        raise ValueError(listed(f"the tensor name {name!r} is repeated, expected each once" for name in twice))
    trained = [n for group in groups for n in group]
    if trained != [t.name for t in parameters][: len(trained)]:
        raise ValueError("groups must list the names of the parameters in their order")


class StageEntry(Model):
    """One stage as the log knows it: blocks [start, stop), none if it has no complete step yet."""

    name: StageName
    blocks: tuple[tuple[Count, Count], ...]
    note: str
    metadata: dict[str, JsonValue]

    def to_stage(self) -> Stage:
        return Stage(self.name, self.blocks, self.note, dict(self.metadata))


class FileEntry(Model):
    """A file of the run: it exists because a commit names it."""

    name: FileName
    sha256: Digest
    size: Count
    role: Role


class Commit(Model):
    """One link of the log: the steps [start, stop) and the files that it adds, chained by digest."""

    number: Count
    previous: Digest
    start: Count
    stop: Count
    stages: tuple[StageEntry, ...]
    files: tuple[FileEntry, ...]
    phase: PhaseEntry | None = None
    """The phase that begins at `stop`."""
    sealed: bool

    @model_validator(mode="after")
    def _consistent(self) -> Commit:
        problems = partition_errors([s.to_stage() for s in self.stages], self.stop)
        if self.stop < self.start:
            problems.append(f"stop {self.stop} lies before start {self.start}")
        if problems:
            raise ValueError(listed(problems))
        return self


def partition_errors(stages: Sequence[Stage], steps: int) -> list[str]:
    """Why the blocks of the stages are not a partition of [0, steps) into non-empty ranges; empty if they are."""
    problems = [f"stage {name!r} is listed twice" for name in repeated(s.name for s in stages)]
    blocks = sorted((start, stop, s.name) for s in stages for start, stop in s.blocks)
    problems += [
        f"stage {name!r} has the empty block [{a}, {b}), expected a step at least" for a, b, name in blocks if b <= a
    ]
    at = 0
    for start, stop, name in blocks:
        if start > at:
            problems.append(f"steps {at} to {start - 1} belong to no stage, expected each in one")
        elif start < at:
            problems.append(f"stage {name!r} overlaps its predecessor at step {start}, expected each step in one stage")
        at = max(at, stop)
    if at != steps:
        problems.append(f"the stages end at step {at}, the steps at {steps}; expected the same")
    return problems


def repeated(names: Iterable[str]) -> list[str]:
    """Those that occur more than once, sorted."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def read_json(data: bytes, where: str, most: int = MAX_JSON_VALUES) -> Any:
    """Parse JSON of at most so many values.

    Raises RunFormatError for repeated keys, NaN, excessive depth or size, and anything that is not JSON.
    """
    if len(data) > MAX_JSON_BYTES:
        raise RunFormatError(f"{where}: {len(data)} bytes of JSON, at most {MAX_JSON_BYTES} are read")
    if (values := sum(map(data.count, b"[{,"))) > most:
        raise RunFormatError(f"{where}: up to {values} values of JSON, at most {most} are read")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise RunFormatError(f"{where}: JSON nested too deeply, at most {MAX_JSON_DEPTH} levels are read") from None
    except ValueError as error:
        raise RunFormatError(f"{where}: not the JSON that a recorder writes: {error}") from None
    if _deeper_than(value, MAX_JSON_DEPTH):
        raise RunFormatError(f"{where}: JSON nested too deeply, at most {MAX_JSON_DEPTH} levels are read")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError(f"the key {_shorten(repr(repeated(k for k, _ in pairs)[0]))} occurs twice in one object")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"the constant {text} is not JSON")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            child for v in level if isinstance(v, dict | list) for child in (v.values() if isinstance(v, dict) else v)
        ]
        if not level:
            return False
    return True


M = TypeVar("M", bound=Model)


def parse(model: type[M], data: bytes, where: str) -> M:
    """Validate JSON against a model; RunFormatError names the file and lists every field that is wrong."""
    read_json(data, where, MAX_FIELDS)
    return _validated(model, data, where)


def _validated(model: type[M], data: bytes, where: str) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        if error.error_count() > _MAX_EXPLAINED:
            raise RunFormatError(f"{where}: {error.error_count()} fields are not what a recorder writes") from None
        raise RunFormatError(f"{where}: " + listed(map(_explain, error.errors(include_url=False)))) from None


def listed(problems: Iterable[str]) -> str:
    """Problems as one text, one a line when there are several."""
    lines = list(problems)
    more = [f"... and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
    return lines[0] if len(lines) == 1 else f"{len(lines)} problems\n  " + "\n  ".join(lines[:_MAX_SHOWN] + more)


def _explain(error: Any) -> str:
    field = ".".join(map(str, error["loc"])) or "content"
    found = "" if error["type"] in ("missing", "value_error") else f", found {_shorten(repr(error['input']))}"
    return f"{field}: {error['msg'].removeprefix('Value error, ')}{found}"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def parse_header(data: bytes) -> Header:
    """run.json as a Header; RunVersionError if a newer version wrote it."""
    value = read_json(data, "run.json", MAX_FIELDS)
    version = value.get("version") if isinstance(value, dict) and value.get("format") == FORMAT else None
    if isinstance(version, int) and version > VERSION:
        raise RunVersionError(
            f"run.json: written in version {version} of the run format, this package reads up to {VERSION}; "
            "install a newer version of this package"
        )
    if isinstance(value, dict) and value.get("format") == CHECKPOINTS_FORMAT:
        raise RunFormatError(
            "run.json: only checkpoints of this training are known, not its steps, so it cannot be replayed or trained "
            "again. `aa info` and `aa effects --by stage` work; in Python aa.open_checkpoints and aa.segment_effects"
        )
    return _validated(Header, data, "run.json")
