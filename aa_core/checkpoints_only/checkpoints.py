"""A training of which only checkpoints, hyperparameters and data are known: its format, and such a run opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import pandas as pd
import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from aa_core.errors import (
    MissingStepsError,
    RequestError,
    RunError,
    RunFormatError,
    RunVersionError,
)
from aa_core.records import Batch, Phase, StepInput, StepRecord
from aa_core.runs.commits import header_bytes
from aa_core.runs.evaluation import Evaluation, decode_evaluation
from aa_core.runs.examples import Examples, decode_examples, fetch_verified, to_batch
from aa_core.runs.header import CHECKPOINTS_FORMAT as FORMAT
from aa_core.runs.header import FORMAT as RECORDED
from aa_core.runs.header import (
    Count,
    FileEntry,
    FileName,
    Model,
    ProblemEntry,
    StageName,
    TensorName,
    TensorSpec,
    parse,
    read_json,
)
from aa_core.runs.integrity import silent
from aa_core.runs.remote import local_folder
from aa_core.runs.store import Spec, decode
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.runs.verified import read_verified, sha256
from aa_core.stages import Stage
from aa_core.state import Snapshot, State

VERSION = 1
SEGMENTED = ("SGD", "Adam", "AdamW")
"""Optimizers that have a segment-wise form."""
EVALUATION = ("data/evaluation.safetensors", "data/evaluation.json")
Finite = Annotated[float, Field(allow_inf_nan=False)]
Steps = Annotated[int, Field(gt=0, le=2**53)]


class StateEntry(Model):
    """A stored state, before step `step`."""

    step: Count
    slots: tuple[TensorName, ...]
    """The optimizer slots that are known at this state."""

    @property
    def file(self) -> str:
        return f"states/{self.step}.safetensors"


class SegmentEntry(Model):
    """One stage: what is known of it in place of its steps."""

    name: StageName
    note: str
    metadata: dict[str, JsonValue]
    optimizer: Literal["SGD", "Adam", "AdamW"]
    hyper: dict[str, Finite]
    """In force over the whole stage; where they followed a schedule, their means."""
    resumes: bool
    """Whether the optimizer went on with the state that it had at the end of the stage before."""
    batch_size: Steps | None
    checkpoints: tuple[Steps, ...]
    """Before which steps of the run its states are stored, ascending; the last is the end of the stage."""
    data: FileName


class CheckpointHeader(Model):
    """run.json: all that is known, with the digest of every file. Written last, never changed."""

    format: Literal["aa-checkpoints"]
    version: Literal[1]
    title: str
    problem: ProblemEntry
    model_class: str
    parameters: tuple[TensorSpec, ...]
    buffers: tuple[TensorSpec, ...]
    loss: str
    stages: tuple[SegmentEntry, ...] = Field(min_length=1)
    states: tuple[StateEntry, ...]
    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _consistent(self) -> CheckpointHeader:
        if problems := [*self._stage_problems(), *self._file_problems()]:
            raise ValueError("; ".join(problems))
        return self

    def _stage_problems(self) -> list[str]:
        names, steps = [s.name for s in self.stages], [0, *(k for s in self.stages for k in s.checkpoints)]
        problems = [f"stage {name!r} is listed twice" for name in sorted({n for n in names if names.count(n) > 1})]
        problems += [f"stage {s.name!r} has no checkpoint" for s in self.stages if not s.checkpoints]
        if steps != sorted(set(steps)):
            problems.append(f"the checkpoints {steps} do not ascend")
        if [s.step for s in self.states] != steps:
            problems.append(f"states are stored before steps {[s.step for s in self.states]}, the stages name {steps}")
        return problems

    def _file_problems(self) -> list[str]:
        found = [f.name for f in self.files]
        needed = {*(s.file for s in self.states), *(s.data for s in self.stages)}
        allowed = [needed, needed | set(EVALUATION)]
        return [] if len(found) == len(set(found)) and set(found) in allowed else [f"the files {found} do not fit"]


@dataclass(frozen=True, eq=False)
class CheckpointRun:
    """A run of checkpoints, as far as `records.RunLike` goes: whatever asks for a step gets MissingStepsError."""

    path: Path
    header: CheckpointHeader = field(repr=False)
    digest: str
    """sha256 of run.json, which pins every file of the run."""
    datasets: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sealed: bool = True
    warnings: tuple[str, ...] = ()
    first_nonfinite: int | None = None
    """None: a run of checkpoints is only written of finite ones."""

    @property
    def title(self) -> str:
        return self.header.title

    @property
    def optimizer(self) -> str:
        """Of the last stage; `header.stages` has that of each."""
        return self.header.stages[-1].optimizer

    @property
    def environment(self) -> Mapping[str, Any]:
        """Of the machine that trained nothing is known."""
        return {}

    @property
    def phases(self) -> tuple[Phase, ...]:
        names = (tuple(t.name for t in self.header.parameters),)
        return (Phase(0, self.optimizer, names, names),)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        starts = [0, *(s.checkpoints[-1] for s in self.header.stages)]
        return tuple(
            Stage(s.name, ((start, s.checkpoints[-1]),), s.note, dict(s.metadata))
            for start, s in zip(starts, self.header.stages, strict=False)
        )

    @property
    def steps(self) -> int:
        return self.checkpoints[-1]

    @property
    def checkpoints(self) -> tuple[int, ...]:
        return tuple(s.step for s in self.header.states)

    def record(self, step: int) -> StepRecord:
        self.refuse(f"step {step} was not recorded")

    def step_input(self, step: int, device: torch.device) -> StepInput:
        self.refuse(f"the batch of step {step} was not recorded")

    def example_ids(self, rows: Tensor) -> None:
        """Stages have data of their own here: see `stage_examples`."""
        self.refuse("which examples a step used was not recorded")

    def examples(self, rows: Tensor) -> Batch:
        """As `example_ids`."""
        self.refuse("which examples a step used was not recorded")

    def refuse(self, found: str) -> NoReturn:
        """Raise MissingStepsError."""
        raise MissingStepsError(
            f"{self.path}: {found}: only checkpoints of this training are known, so it cannot be replayed, trained "
            "again or attributed step by step. Ask for aa.segment_effects (aa effects --by stage), an approximation "
            "from the checkpoints; to ask for more, train with an aa.Recorder"
        )

    def files(self, role: str) -> tuple[FileEntry, ...]:
        return tuple(f for f in self.header.files if f.role == role)

    def load(self, step: int) -> Snapshot:
        """The stored state before `step`, on the CPU, with the slots that are known; IntegrityError if it changed."""
        found = next((s for s in self.header.states if s.step == step), None)
        if found is None:
            raise RequestError(f"no checkpoint before step {step}; there are checkpoints at {list(self.checkpoints)}")
        return _decode_state(read_verified(self.path, self._file(found.file)), found, self.header)

    def stage_examples(self, stage: str) -> Examples:
        """The training examples of a stage, or their ids and digests where they are only referenced."""
        entry = next(s for s in self.header.stages if s.name == stage)
        return self._examples(entry.data)

    def stage_batch(self, stage: str, rows: Tensor) -> Batch:
        """Some training examples of a stage; MissingDataError if they are only referenced, and not at hand."""
        found = self.stage_examples(stage)
        if found.dataset is not None:
            return to_batch(fetch_verified(found, rows, self.datasets))
        return to_batch({n: t[rows] for n, t in found.fields.items()})

    def _examples(self, name: str) -> Examples:
        if name not in self._read:
            self._read[name] = decode_examples(read_verified(self.path, self._file(name)), name)
        return self._read[name]

    @cached_property
    def _read(self) -> dict[str, Examples]:
        return {}

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """The evaluation set, if there is one."""
        if not any(f.name in EVALUATION for f in self.header.files):
            return None
        tensors, text = (read_verified(self.path, self._file(name)) for name in EVALUATION)
        return decode_evaluation(tensors, text, "data/evaluation")

    def log_frame(self) -> pd.DataFrame:
        """One row a step: step, stage, and the stage's lr, momentum and so on. No losses: they are not known."""
        of_stage = zip(self.stages, self.header.stages, strict=True)
        rows = [{"step": k, "stage": stage.name, **entry.hyper} for stage, entry in of_stage for k in stage.steps]
        return pd.DataFrame(rows)

    def _file(self, name: str) -> FileEntry:
        return next(f for f in self.header.files if f.name == name)


AnyRun = Trajectory | CheckpointRun


def open_checkpoints(path: str | Path, datasets: Mapping[str, Any] | None = None) -> CheckpointRun:
    """Open a run of checkpoints; `datasets` gives what it references by name.

    States and examples are read, and their digests verified, when asked for.
    Raises RunNotFoundError, RunVersionError or RunFormatError.
    """
    root = local_folder(path)
    text = header_bytes(root)
    return CheckpointRun(root, _parse(text), sha256(text), datasets or {})


def open_any(path: str | Path) -> AnyRun:
    """A recorded run, or one of checkpoints: as its header says."""
    root = local_folder(path)
    text = header_bytes(root)
    value = read_json(text, "run.json") if FORMAT.encode() in text else None  # parsed twice only where it may be one
    known = isinstance(value, dict) and value.get("format") == FORMAT
    return open_checkpoints(root) if known else open_run(root)


def check_checkpoints(run: CheckpointRun, progress: Callable[[int, int], None] = silent) -> tuple[str, ...]:
    """Read all of the run from disk again; what is wrong, in words. Empty if it is intact. progress counts files."""
    try:
        fresh = open_checkpoints(run.path)
    except RunError as error:
        return (str(error),)
    changed = [f"{run.path}: changed since it was opened"] if fresh.digest != run.digest else []
    for done, file in enumerate(fresh.header.files, 1):
        if found := _failure(run.path, file):
            changed.append(found)
        progress(done, len(fresh.header.files))
    return tuple(changed)


def _failure(path: Path, file: FileEntry) -> str:
    try:
        read_verified(path, file)
    except RunError as error:
        return str(error)
    return ""


def _parse(text: bytes) -> CheckpointHeader:
    value = read_json(text, "run.json")
    known = isinstance(value, dict) and value.get("format")
    if known == RECORDED:
        raise RunFormatError("run.json: the steps of this run were recorded; open it with aa.open_run")
    if known == FORMAT and isinstance(version := value.get("version"), int) and version > VERSION:
        raise RunVersionError(
            f"run.json: written in version {version} of the format, this package reads up to {VERSION}; install a "
            "newer version of this package"
        )
    return parse(CheckpointHeader, text, "run.json")


def _decode_state(data: bytes, entry: StateEntry, header: CheckpointHeader) -> Snapshot:
    params = {t.name: _spec(t) for t in header.parameters}
    expected: dict[str, Spec] = {f"params/{n}": s for n, s in params.items()}
    expected |= {f"buffers/{t.name}": _spec(t) for t in header.buffers}
    expected |= {f"slots/{slot}/{n}": s for slot in entry.slots for n, s in params.items()}
    found = decode(data, entry.file, {**expected, "count": (torch.float64, (1,))})
    slots = {slot: {n: found[f"slots/{slot}/{n}"] for n in params} for slot in entry.slots}
    state = State({n: found[f"params/{n}"] for n in params}, slots, found["count"])
    return Snapshot(entry.step, state, {t.name: found[f"buffers/{t.name}"] for t in header.buffers})


def _spec(tensor: TensorSpec) -> Spec:
    return getattr(torch, tensor.dtype), tensor.shape
