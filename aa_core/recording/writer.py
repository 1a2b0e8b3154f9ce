"""The writing half of a run: one locked folder, a journal line a step, and commits chained by digest."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from aa_core.errors import RunBusyError, RunError, RunExistsError
from aa_core.files import MODE, sync_folder, write_atomic, write_new
from aa_core.records import StepRecord
from aa_core.runs.chain import number_of, read_chain
from aa_core.runs.columns import encode_columns
from aa_core.runs.evaluation import Evaluation, encode_evaluation
from aa_core.runs.examples import Examples, concat, decode_examples, encode_examples
from aa_core.runs.header import Commit, FileEntry, Header, PhaseEntry, Role, StageEntry, parse, parse_header
from aa_core.runs.journal import Generators, Journal, decode_journal, encode_line, extend
from aa_core.runs.remote import Upload, is_remote, outgoing
from aa_core.runs.store import encode, read_file, read_verified, sha256
from aa_core.stages import Stage
from aa_core.state import Snapshot

IfExists = Literal["refuse", "resume"]
LOCK = ".lock"
FOLDERS = ("log", "steps", "states", "data", "journal")


def state_tensors(snapshot: Snapshot) -> dict[str, Tensor]:
    """The names under which states/*.safetensors keeps a snapshot."""
    state = snapshot.state
    return {
        **{f"params/{n}": t for n, t in state.params.items()},
        **{f"buffers/{n}": t for n, t in snapshot.buffers.items()},
        **{f"slots/{slot}/{n}": t for slot, tensors in state.slots.items() for n, t in tensors.items()},
        "count": state.count,
    }


class RunWriter:
    """Creates a run, or goes on with one, and adds to it; the only writer as long as it is not closed.

    With an address of object storage it writes to a folder of the workspace, and uploads what it commits.

    Raises RunBusyError if another recorder is writing this run, RunExistsError if the path is taken, or the run sealed.
    """

    def __init__(self, path: str | Path, header: Header, if_exists: IfExists = "refuse") -> None:
        text = header.to_bytes()
        parse_header(text)
        self._upload = Upload(outgoing(path), path) if is_remote(path) else None
        self.path = Path(path) if self._upload is None else self._upload.folder
        (_claim if if_exists == "refuse" else _enter)(self.path)
        self._lock = _lock(self.path)
        try:
            self._begin(text)
        except BaseException:
            os.close(self._lock)
            raise

    def _begin(self, text: bytes) -> None:
        """Make what is missing, and take up what is there: the last commit, and the journal up to its intact end."""
        for folder in FOLDERS:
            (self.path / folder).mkdir(exist_ok=True)
        if not (self.path / "run.json").exists():
            write_new(self.path / "run.json", text)
        chain = read_chain(self.path)
        if chain.sealed:
            raise RunExistsError(f"{self.path}: sealed, its training has ended; record to another path")
        self._last = chain.commits[-1] if chain.commits else None
        self._head, self._number, self._start = chain.head, len(chain.commits), chain.committed
        self._groups = chain.phases[-1][1].groups
        self._stages = {e.name: e.to_stage() for e in (self._last.stages if self._last else ())}
        self.checkpoints = [number_of(file) for file in chain.files("state")]
        self._committed_rows = _rows(self.path, chain.files("examples"))
        self._records = [step.record for step in chain.journal.steps]
        self._examples = [step.new for step in chain.journal.steps if step.new is not None]
        for record in self._records:
            self._stages[record.stage] = extend(self._stages.get(record.stage, Stage(record.stage, ())), record.step)
        self._journal: BinaryIO | None = self._reopen(chain.journal) if self._records else None
        self.generators = chain.journal.generators or _generators_before(self.path, chain.commits)
        """After the last step; empty where they were not noted."""
        self.warnings = chain.journal.warnings
        self._publish()

    @property
    def _journal_path(self) -> Path:
        return self.path / "journal" / f"{self._number:010d}.jsonl"

    def _reopen(self, journal: Journal) -> BinaryIO:
        os.truncate(self._journal_path, len(journal.intact))
        return open(self._journal_path, "ab")

    @property
    def steps(self) -> int:
        """How many steps are complete."""
        return self._start + len(self._records)

    def declare(self, name: str, note: str, metadata: Mapping[str, Any]) -> None:
        """Enter a stage into the table that the next commit carries; a known stage keeps its blocks."""
        old = self._stages.get(name, Stage(name, ()))
        self._stages[name] = Stage(name, old.blocks, note or old.note, {**old.metadata, **metadata})

    def steps_of(self, stage: str) -> int:
        """How many of them are of this stage."""
        return len(self._stages.get(stage, Stage(stage, ())))

    def append(self, record: StepRecord, new: Examples | None, generators: Generators = ()) -> None:
        """Acknowledge a complete step: its line is with the operating system when this returns."""
        first, before = self._journal is None, self.generators
        if self._journal is None:
            self._journal = _create(self._journal_path)
        told = not first and len(generators) == len(before) and all(map(torch.equal, generators, before))
        self._journal.write(encode_line(record, new, () if told else generators))
        self._journal.flush()
        if first:
            self._drop_journals(but=self._journal_path)
        self.generators = generators
        self._records.append(record)
        self._stages[record.stage] = extend(self._stages[record.stage], record.step)
        if new is not None:
            self._examples.append(new)

    def commit(
        self,
        snapshot: Snapshot | None,
        evaluation: Evaluation | None = None,
        *,
        phase: PhaseEntry | None = None,
        sealed: bool = False,
    ) -> None:
        """Make everything since the last commit durable, with a checkpoint if there is a snapshot.

        Where nothing is new, nothing is committed. `phase` is what begins with the next step; the
        snapshot is then the state as it finds it.
        """
        files = [self._write(name, data, role) for name, data, role in self._contents(snapshot, evaluation)]
        stages = tuple(
            StageEntry(name=s.name, blocks=s.blocks, note=s.note, metadata=s.metadata) for s in self._stages.values()
        )
        if self._last is not None and not (files or phase or sealed) and stages == self._last.stages:
            return
        commit = Commit(
            number=self._number,
            previous=self._head,
            start=self._start,
            stop=self.steps,
            stages=stages,
            files=tuple(files),
            phase=phase,
            sealed=sealed,
        )
        text = commit.to_bytes()
        parse(Commit, text, f"log/{self._number:010d}.json")
        if self._journal is not None:
            os.fsync(self._journal.fileno())
        write_new(self.path / "log" / f"{self._number:010d}.json", text)
        self._advance(commit, text, snapshot)
        if sealed:
            self._drop_journals()
        self._publish(sealed)
        self._groups = self._groups if phase is None else phase.groups

    def _publish(self, sealed: bool = False) -> None:
        """Upload what is committed. Training goes on without the network; only the seal insists."""
        if self._upload is None:
            return
        try:
            self._upload.push(files_of)
        except RunBusyError:
            raise
        except RunError as error:
            if sealed:
                raise RunError(f"{error}. Nothing is lost: aa push {self.path} {self._upload.url}") from None
            warnings.warn(f"{error}; recording goes on at {self.path}", RuntimeWarning, stacklevel=5)

    def _contents(self, snapshot: Snapshot | None, evaluation: Evaluation | None) -> list[tuple[str, bytes, Role]]:
        files: list[tuple[str, bytes, Role]] = []
        if self._records:
            columns = encode_columns(self._records, self._groups)
            files.append((f"steps/{self._start}-{self.steps}.safetensors", encode(columns), "steps"))
        if self._examples:
            examples = encode_examples(concat(self._examples))
            files.append((f"data/{self._committed_rows}.safetensors", examples, "examples"))
        if snapshot is not None:
            files.append((f"states/{snapshot.step}.safetensors", encode(state_tensors(snapshot)), "state"))
        if evaluation is not None:
            tensors, described = encode_evaluation(evaluation)
            files.append(("data/evaluation.safetensors", tensors, "evaluation"))
            files.append(("data/evaluation.json", described, "evaluation"))
        return files

    def _write(self, name: str, data: bytes, role: Role) -> FileEntry:
        write_atomic(self.path / name, data)
        return FileEntry(name=name, sha256=sha256(data), size=len(data), role=role)

    def _advance(self, commit: Commit, text: bytes, snapshot: Snapshot | None) -> None:
        if self._journal is not None:
            self._journal.close()
        if snapshot is not None:
            self.checkpoints.append(snapshot.step)
        self._last, self._journal = commit, None
        self._head, self._number, self._start = sha256(text), self._number + 1, self.steps
        self._committed_rows += sum(len(e.digests) for e in self._examples)
        self._records, self._examples = [], []

    def _drop_journals(self, but: Path | None = None) -> None:
        """What was committed is kept until the next step: its last line alone knows the generators' states."""
        for path in (self.path / "journal").glob("*.jsonl"):
            if path != but:
                path.unlink()

    def close(self) -> None:
        """Release the run; what was committed or journaled stays."""
        if self._journal is not None:
            self._journal.close()
        os.close(self._lock)


def files_of(commit: bytes, name: str) -> list[str]:
    """The files that a commit names."""
    return [file.name for file in parse(Commit, commit, f"log/{name}").files]


def _rows(path: Path, files: Sequence[FileEntry]) -> int:
    """How many examples these files hold."""
    last = max(files, key=number_of, default=None)
    return 0 if last is None else number_of(last) + len(decode_examples(read_verified(path, last), last.name).digests)


def _generators_before(path: Path, commits: Sequence[Commit]) -> Generators:
    """The generators' states after the last committed step, from the journal that is left of it."""
    last = next((c for c in reversed(commits) if c.stop > c.start), None)
    name = f"journal/{last.number if last else 0:010d}.jsonl"
    if last is None or not (path / name).exists():
        return ()
    return decode_journal(read_file(path, name, limit=2**40), last.start, name).generators


def _enter(path: Path) -> None:
    """The folder of a run to go on with, or of a new one; RunExistsError if it holds something else."""
    path.mkdir(parents=True, exist_ok=True)
    known = {LOCK, *FOLDERS, "run.json"}
    strangers = sorted(n for n in os.listdir(path) if n not in known and not n.startswith(".run.json."))
    if strangers and not (path / "run.json").exists():
        raise RunExistsError(f"{path}: no run, but it holds {strangers[0]!r}; record to another path")
    sync_folder(path.parent)


def _claim(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        if _is_locked(path):
            raise RunBusyError(f"{path}: another recorder is writing this run; record to another path") from None
        raise RunExistsError(
            f"{path}: exists already and is not overwritten; record to another path or move this one away"
        ) from None
    sync_folder(path.parent)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(path: Path) -> int:
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunBusyError(f"{path}: another recorder is writing this run; record to another path") from None
    return descriptor


def _create(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, MODE)
    os.fchmod(descriptor, MODE)
    return open(descriptor, "wb")
