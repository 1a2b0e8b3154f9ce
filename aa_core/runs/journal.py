"""The journal: one line a live step, readable up to the last complete one after a crash."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic_core import to_json
from torch import Tensor

from aa_core.errors import RunFormatError
from aa_core.records import Clip, MicroBatch, Precision, StepRecord
from aa_core.runs.examples import Examples, New, concat, decode_examples
from aa_core.runs.header import Count, Digest, Model, StageEntry, StageName, TensorName, parse
from aa_core.runs.verified import sha256
from aa_core.stages import Stage

Number = float | Literal["inf", "-inf"] | None
"""A float in JSON; None for NaN (the loss was not observed, or is not a number)."""
Base64 = Annotated[str, Field(min_length=4)]
"""At least one byte."""
Generators = tuple[Tensor, ...]
"""States of torch's random number generators: that of the CPU, then that of the device if it is another."""
TORN = "the last step is torn (the recorder was stopped while writing it); it is not used"
DAMAGED = "step {} of it is damaged; it and what follows ({} bytes) is not used"


class MicroLine(Model):
    """One micro-batch of a journaled step."""

    rows: tuple[Count, ...]
    weight: float
    rng: Base64 | None
    """Of the generator's state."""


class ClipLine(Model):
    """Gradient clipping at a journaled step."""

    kind: Literal["norm", "value"]
    limit: float


class Following(Model):
    """The bytes between a line and the next: safetensors of newly seen examples, and a newline.

    On a line of its own before the step that uses them first; in journals of before 2026-11-30 on the step's."""

    size: Annotated[int, Field(ge=1, le=2**53)]
    """Without the newline."""
    sha256: Digest


class StepLine(Model):
    """A step as the journal holds it; in journals of before 2026-11-29 `examples` is base64 of their safetensors."""

    step: Count
    stage: StageName
    loss: Number
    grad_norm: Number
    training: bool
    hyper: tuple[dict[str, float], ...]
    micro: tuple[MicroLine, ...]
    clip: ClipLine | None
    idle: tuple[TensorName, ...] = ()
    autocast: Literal["bfloat16", "float16"] | None = None
    scale: float = 1.0
    averaging: float | None = None
    generators: tuple[Base64, ...] = ()
    """Of the states of torch's generators after the step; empty where they are those of the line before."""
    examples: Following | str | None = None


class CommitUnderway(Model):
    """journal/NUMBER.json: what commit NUMBER holds beside its files, noted before it is written.

    Steps after `stop` are in the journal of the commit after it."""

    stop: Count
    stages: tuple[StageEntry, ...]


class JournalStep(NamedTuple):
    """A journaled step and the examples that it used first."""

    record: StepRecord
    new: Examples | None
    generators: Generators = ()
    """After the step; empty where they are those of the step before."""
    stop: int = 0
    """Where it ends in its file, in bytes."""


class Journal(NamedTuple):
    """The intact part of a journal."""

    steps: tuple[JournalStep, ...]
    intact: bytes
    warnings: tuple[str, ...]
    underway: CommitUnderway | None = None
    """The commit that was not there yet when some of these steps were taken: those from its `stop` on."""

    @property
    def generators(self) -> Generators:
        """Those after the last step; empty where they were not noted."""
        return next((s.generators for s in reversed(self.steps) if s.generators), ())


def extend(stage: Stage, step: int) -> Stage:
    """The stage with one more step, which comes after all that it has."""
    before, last = stage.blocks[:-1], stage.blocks[-1:]
    if last and last[0][1] == step:
        return Stage(stage.name, (*before, (last[0][0], step + 1)), stage.note, stage.metadata)
    return Stage(stage.name, (*stage.blocks, (step, step + 1)), stage.note, stage.metadata)


def encode_new(new: New) -> Sequence[bytes | memoryview[Any]]:
    """A line that says what follows: the examples, and a newline. They come before the step that uses them first."""
    return _line({"size": new.size, "sha256": new.sha256}), *new.data, b"\n"


def encode_step(record: StepRecord, generators: Generators = ()) -> bytes:
    """ "<first 16 hex digits of sha256 of the json> <json>" and a newline."""
    line = {
        "step": record.step,
        "stage": record.stage,
        "loss": _number(record.loss),
        "grad_norm": _number(record.grad_norm),
        "training": record.training,
        "hyper": record.hyper,
        "micro": [
            {"rows": m.rows.tolist(), "weight": m.weight, "rng": None if m.rng is None else _text(m.rng)}
            for m in record.stored
        ],
        "clip": None if record.clip is None else record.clip._asdict(),
        "idle": record.idle,
        **record.precision._asdict(),
        "averaging": record.averaging,
        "generators": [_text(g) for g in generators],
    }
    return _line(line)


def _line(content: dict[str, Any]) -> bytes:
    text = to_json(content)
    return b"%b %b\n" % (_seal(text), text)


def _text(data: Tensor) -> str:
    return base64.b64encode(data.numpy().tobytes()).decode()


def _seal(text: bytes) -> bytes:
    return sha256(text)[:16].encode()


def _number(value: float) -> float | str | None:
    return value if math.isfinite(value) else None if math.isnan(value) else str(value)


def decode_journal(data: bytes, first: int, where: str) -> Journal:
    """The steps from `first` on up to the first torn or altered one; what follows it is reported, never used.

    Examples whose step is not there are not: it was not acknowledged."""
    steps: list[JournalStep] = []
    new: list[bytes] = []
    warnings: tuple[str, ...] = ()
    at = 0
    while at < len(data):
        number = len(steps) + 1
        here = f"{where} line {number}"
        found = _read(data, at, here)
        if isinstance(found, str):
            warnings = (f"{where}: {found.format(number, len(data) - at)}",) if found else ()
            break
        line, examples, at = found
        new += [] if examples is None else [examples]
        if line is not None:
            steps.append(_decode(line, new, first + len(steps), here)._replace(stop=at))
            new = []
    return Journal(tuple(steps), data[: steps[-1].stop] if steps else b"", warnings)


def _read(data: bytes, at: int, where: str) -> tuple[StepLine | None, bytes | None, int] | str:
    """A line that tells a step, examples that are new with it, and where the next line begins.

    Or what is the matter with it: nothing ("") where examples are being written."""
    stop = data.find(b"\n", at) + 1
    if not stop:
        return TORN
    seal, text = data[at : at + 17], data[at + 17 : stop - 1]
    if seal != _seal(text) + b" ":
        return DAMAGED
    line = None if text.startswith(b'{"size":') else parse(StepLine, text, where)
    examples = parse(Following, text, where) if line is None else line.examples
    if not isinstance(examples, Following):
        return line, None if examples is None else _data(examples, where), stop
    new, end = data[stop : stop + examples.size], stop + examples.size + 1
    if end > len(data):
        return TORN if line else ""
    return (line, new, end) if data[end - 1 : end] == b"\n" and sha256(new) == examples.sha256 else DAMAGED


def _decode(line: StepLine, examples: Sequence[bytes], expected_step: int, where: str) -> JournalStep:
    if line.step != expected_step:
        raise RunFormatError(f"{where}: step {line.step}, expected step {expected_step}")
    if not line.micro or not all(m.rows for m in line.micro):
        raise RunFormatError(f"{where}: a step needs micro-batches, and each of them examples")
    micro = tuple(_micro_batch(m, where) for m in line.micro if m.weight)
    if not micro and not line.idle:
        raise RunFormatError(f"{where}: all micro-batches have weight 0, expected one that has a say in the step")
    clip = None if line.clip is None else Clip(line.clip.kind, line.clip.limit)
    precision = Precision(line.autocast, line.scale)
    loss, grad_norm = (math.nan if v is None else float(v) for v in (line.loss, line.grad_norm))
    record = StepRecord(
        line.step,
        line.stage,
        tuple(map(dict, line.hyper)),
        micro,
        line.training,
        loss,
        grad_norm,
        clip,
        line.idle,
        precision,
        line.averaging,
        tuple(_micro_batch(m, where) for m in line.micro if not m.weight),
    )
    new = [decode_examples(data, f"{where}, examples") for data in examples]
    return JournalStep(record, concat(new) if new else None, tuple(_bytes(g, where) for g in line.generators))


def _micro_batch(line: MicroLine, where: str) -> MicroBatch:
    rng = None if line.rng is None else _bytes(line.rng, where)
    return MicroBatch(torch.tensor(line.rows, dtype=torch.int64), line.weight, rng)


def _bytes(text: str, where: str) -> Tensor:
    return torch.frombuffer(bytearray(_data(text, where)), dtype=torch.uint8)


def _data(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RunFormatError(f"{where}: not base64: {error}") from None
