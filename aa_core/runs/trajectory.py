"""A recorded run, opened: what was in force at each step, the examples, the checkpoints. Never writes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from aa_core.errors import RequestError, RunFormatError
from aa_core.records import Batch, Groups, MicroBatch, Phase, StepInput, StepRecord
from aa_core.runs.chain import Chain, read_chain
from aa_core.runs.columns import Columns, StepTable, column_problems, concat_columns, decode_columns, encode_columns
from aa_core.runs.commits import number_of
from aa_core.runs.curves import Measured, in_order, is_curve, log_frame
from aa_core.runs.evaluation import Evaluation, decode_evaluation
from aa_core.runs.examples import Examples, Fields, Ids, concat, decode_examples, fetch_verified, to_batch
from aa_core.runs.header import Environment, FileEntry, Header, PhaseEntry, listed, partition_errors
from aa_core.runs.journal import extend
from aa_core.runs.phases import read_phases
from aa_core.runs.remote import local_folder
from aa_core.runs.store import Spec, decode, layout
from aa_core.runs.verified import read_verified
from aa_core.stages import Stage, stage_of_steps
from aa_core.state import Snapshot, State


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A run on disk, as `records.RunLike`. States and examples are read, and their digests verified, when asked for."""

    path: Path
    header: Header = field(repr=False)
    stages: tuple[Stage, ...]
    steps: int
    digest: str
    """sha256 of the log's head (with the journal's intact tail while unsealed): it pins every file of the run."""
    sealed: bool
    warnings: tuple[str, ...]
    chain: Chain = field(repr=False)
    tables: tuple[StepTable, ...] = field(repr=False)
    """The recorded steps, phase by phase."""
    datasets: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _on_device: dict[torch.device, Fields] = field(default_factory=dict, repr=False)
    _loaded: dict[int, Snapshot] = field(default_factory=dict, repr=False)
    """The snapshots that were read last, at most two: a sweep meets each checkpoint once more from its other side."""
    _one_reader: Lock = field(default_factory=Lock, repr=False)
    """Held while examples are read, for two threads that take steps of the run: a dataset may not bear two."""

    @property
    def title(self) -> str:
        return self.header.title

    @property
    def optimizer(self) -> str:
        """In words: the update rules in the order of training."""
        return ", then ".join(phase.optimizer for phase in self.phases)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """What was trained by which optimizer, from which step on."""
        return read_phases(self.chain.phases, self.tables)

    @cached_property
    def _starts(self) -> list[int]:
        return [start for start, _ in self.chain.phases]

    def _phase_of(self, step: int) -> int:
        return bisect_right(self._starts, step) - 1

    @cached_property
    def _owner(self) -> list[str]:
        """The stage of each step."""
        return stage_of_steps(self.stages, self.steps)

    @property
    def environment(self) -> Environment:
        return self.header.environment

    @cached_property
    def _states(self) -> dict[int, FileEntry]:
        return {number_of(file): file for file in self.chain.files("state")}

    @cached_property
    def checkpoints(self) -> tuple[int, ...]:
        return tuple(sorted(self._states))

    def files(self, role: str) -> tuple[FileEntry, ...]:
        return self.chain.files(role)

    def record(self, step: int) -> StepRecord:
        """What was in force at `step`."""
        if not 0 <= step < self.steps:
            raise RequestError(f"step {step}: the run has steps 0 to {self.steps - 1}")
        phase = self._phase_of(step)
        return self.tables[phase].record(step - self._starts[phase], step, self._owner[step])

    def step_input(self, step: int, device: torch.device) -> StepInput:
        """The recorded examples of `step` on a device; MissingDataError if they are only referenced and not at hand."""
        record = self.record(step)
        dtype, scale = record.precision.dtype, record.precision.scale

        def batch(micro: MicroBatch) -> Batch:
            return self._batch(micro.rows, device)._replace(rng=micro.rng, autocast=dtype)

        return StepInput(
            step,
            record.hyper,
            tuple((batch(m), m.weight) for m in record.micro_batches),
            record.training,
            record.clip,
            record.idle,
            scale,
            record.averaging,
            tuple(map(batch, record.passed)),
        )

    def load(self, step: int) -> Snapshot:
        """The stored snapshot before `step`, on the CPU; IntegrityError if it is not the one that was recorded."""
        if step not in self._states:
            raise RequestError(f"no checkpoint before step {step}; there are checkpoints at {list(self.checkpoints)}")
        found = self._loaded.get(step) or self._read_state(step)
        for other in [k for k in self._loaded if k != step][:-1]:
            self._loaded.pop(other, None)
        return self._loaded.setdefault(step, found)

    def _read_state(self, step: int) -> Snapshot:
        file, phase = self._states[step], self._phase_of(step)
        entry = self.chain.phases[phase][1]
        return _decode_state(read_verified(self.path, file), step, entry, self.phases[phase].clocks, file.name)

    def examples(self, rows: Tensor) -> Batch:
        """Stored training examples, to show them."""
        return self._batch(rows, torch.device("cpu"))

    def example_ids(self, rows: Tensor) -> Ids | None:
        """The ids that the training loop gave these examples; None if it gave none."""
        ids = self.stored_examples.ids
        return None if ids is None else [ids[row] for row in self.check_rows(rows).tolist()]

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """The evaluation set, if one was recorded."""
        files = {f.name: f for f in self.chain.files("evaluation")}
        if not files:
            return None
        names = ("data/evaluation.safetensors", "data/evaluation.json")
        if set(files) != set(names):
            raise RunFormatError(f"the log names {', '.join(files)}, expected {' and '.join(names)}")
        tensors, text = (read_verified(self.path, files[n]) for n in names)
        return decode_evaluation(tensors, text, "data/evaluation")

    @cached_property
    def first_nonfinite(self) -> int | None:
        """The first step with an infinite loss or a gradient that is not finite."""
        if not self.steps:
            return None
        bad = (~self.column("grad_norm").isfinite() | self.column("loss").isinf()).nonzero()
        return int(bad[0]) if len(bad) else None

    def column(self, name: str) -> Tensor:
        """One column over all phases."""
        return torch.cat([table.columns[name] for table in self.tables if len(table)])

    def log_frame(self) -> pd.DataFrame:
        """One row a step, as of `curves.log_frame`."""
        measured = [{n: c.numpy() for n, c in table.columns.items() if is_curve(n)} for table in self.tables]
        trained = [len(table.names) for table in self.tables]
        return log_frame(self.stages, [Measured(*phase) for phase in zip(trained, measured, strict=True)])

    @cached_property
    def stored_examples(self) -> Examples:
        """All training examples, in the order of their rows; only digests and ids where they are referenced."""
        parts = [_read_examples(self.path, file) for file in self.chain.files("examples")]
        parts += [step.new for step in self.chain.journal.steps if step.new is not None]
        problems = _example_problems([number_of(f) for f in self.chain.files("examples")], parts)
        if problems:
            raise RunFormatError(f"{self.path}/data: " + listed(problems))
        return concat(parts)

    def check_rows(self, rows: Tensor) -> Tensor:
        """The rows themselves; RunFormatError if there are no such examples."""
        count = len(self.stored_examples.digests)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
            found = f"rows {int(rows.min())} to {int(rows.max())} of {count} stored examples"
            raise RunFormatError(f"{self.path}: {found}, expected 0 to {count - 1}")
        return rows

    def _batch(self, rows: Tensor, device: torch.device) -> Batch:
        with self._one_reader:
            self.check_rows(rows)
            if self.stored_examples.dataset is not None:
                fields = fetch_verified(self.stored_examples, rows, self.datasets)
                return to_batch({n: t.to(device) for n, t in fields.items()})
            if device not in self._on_device:
                self._on_device[device] = {n: t.to(device) for n, t in self.stored_examples.fields.items()}
            index = rows.to(device)
            return to_batch({n: t.index_select(0, index) for n, t in self._on_device[device].items()})


def open_run(path: str | Path, datasets: Mapping[str, Any] | None = None) -> Trajectory:
    """Open a recorded run, a folder or an address such as s3://bucket/run; `datasets` gives what it references by name.

    Reads the header, the log and the steps, and verifies their digests; the rest is read when asked for.
    Raises RunNotFoundError, RunVersionError, RunFormatError or IntegrityError.
    """
    root = local_folder(path)
    chain = read_chain(root)
    tables = _read_steps(root, chain)
    stages = _stages(chain)
    steps = chain.committed + len(chain.journal.steps)
    if problems := partition_errors(stages, steps):
        raise RunFormatError(f"{root}: " + listed(problems))
    notes = () if chain.commits else (f"{root}: nothing is committed yet",)
    return Trajectory(
        root,
        chain.header,
        stages,
        steps,
        chain.digest,
        chain.sealed,
        chain.journal.warnings + notes,
        chain,
        tables,
        datasets or {},
    )


def _read_steps(root: Path, chain: Chain) -> tuple[StepTable, ...]:
    """The steps of each phase; RunFormatError lists what is wrong in any of their files."""
    phases, problems = chain.phases, list[str]()
    parts: list[list[Columns]] = [[] for _ in phases]
    at = 0
    for commit in chain.commits:
        groups = phases[at][1].groups
        for file in (f for f in commit.files if f.role == "steps"):
            data = read_verified(root, file)
            try:
                parts[at].append(decode_columns(data, commit.start, commit.stop, groups, file.name))
            except RunFormatError as error:
                problems.append(str(error))
        at += commit.phase is not None
    if problems:
        raise RunFormatError(listed(problems))
    if chain.journal.steps:
        parts[at].append(_journal_columns(chain, phases[at][1].groups))
    return tuple(
        StepTable(concat_columns(found, str(root)), entry.groups)
        for found, (_, entry) in zip(parts, phases, strict=True)
    )


def _journal_columns(chain: Chain, groups: Groups) -> Columns:
    records = [step.record for step in chain.journal.steps]
    where = f"journal/{len(chain.commits):010d}.jsonl"
    names = [tuple(map(frozenset, r.hyper)) for r in records]
    if len(set(names)) > 1 or len(names[0]) != len(groups):
        raise RunFormatError(f"{where}: hyperparameters change within a phase")
    trained = {n for group in groups for n in group}
    if strangers := {n for r in records for n in r.idle} - trained:
        raise RunFormatError(f"{where}: {sorted(strangers)[0]!r} is idle, but the optimizer does not have it")
    columns = encode_columns(records, groups)
    if problems := column_problems(columns, records[0].step, records[-1].step + 1, groups):
        raise RunFormatError(f"{where}: " + listed(problems))
    return columns


def _stages(chain: Chain) -> tuple[Stage, ...]:
    """The stages that have steps, in the order of their first step."""
    underway = chain.journal.underway
    entries = underway.stages if underway else chain.commits[-1].stages if chain.commits else ()
    stages = {e.name: e.to_stage() for e in entries}
    for step in chain.journal.steps[underway.stop - chain.committed if underway else 0 :]:
        record = step.record
        stages[record.stage] = extend(stages.get(record.stage, Stage(record.stage, ())), record.step)
    return in_order(stages.values())


def _read_examples(root: Path, file: FileEntry) -> Examples:
    return decode_examples(read_verified(root, file), file.name)


def _example_problems(first_rows: list[int], parts: list[Examples]) -> list[str]:
    if not parts:
        return ["the run has no examples"]
    problems, at = [], 0
    for index, part in enumerate(parts):
        if index < len(first_rows) and first_rows[index] != at:
            problems.append(f"data/{first_rows[index]}.safetensors: expected examples from row {at} on")
        at += len(part.digests)
        if _kind(part) != _kind(parts[0]):
            problems.append(f"the examples before row {at} have other fields, ids or dataset than the first ones")
    return problems


def _kind(part: Examples) -> Any:
    shapes = {n: (t.dtype, t.shape[1:]) for n, t in part.fields.items()}
    return shapes, type(part.ids[0]) if part.ids else None, part.dataset


def _decode_state(data: bytes, step: int, phase: PhaseEntry, clocks: Groups, where: str) -> Snapshot:
    params = {t.name: _spec(t) for t in phase.parameters}
    buffers = {t.name: _spec(t) for t in phase.buffers}
    trained = [n for names in phase.groups for n in names]
    expected: dict[str, Spec] = {f"params/{n}": s for n, s in params.items()}
    expected |= {f"buffers/{n}": s for n, s in buffers.items()}
    expected |= {f"slots/{slot}/{n}": params[n] for slot in phase.slots for n in trained}
    whole = layout(data, where)
    one_count = len(whole.tensors.get("count", (None, ()))[1]) == 0
    expected["count"] = (torch.float64, () if one_count else (len(trained),))
    found = decode(data, where, expected, whole)
    slots = {slot: {n: found[f"slots/{slot}/{n}"] for n in trained} for slot in phase.slots}
    counts = found["count"].expand(len(trained))
    count = torch.stack([counts[trained.index(names[0])] for names in clocks])
    state = State({n: found[f"params/{n}"] for n in params}, slots, count)
    return Snapshot(step, state, {n: found[f"buffers/{n}"] for n in buffers})


def _spec(tensor: Any) -> Spec:
    return getattr(torch, tensor.dtype), tensor.shape
