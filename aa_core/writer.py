"""The writing half of a run: one locked folder, a journal line a step, and commits chained by digest."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from aa_core.columns import encode_columns
from aa_core.errors import RunBusyError, RunError, RunExistsError
from aa_core.evaluation import Evaluation, encode_evaluation
from aa_core.examples import Examples, concat, encode_examples
from aa_core.files import MODE, sync_folder, write_atomic, write_new
from aa_core.header import Commit, FileEntry, Header, PhaseEntry, Role, StageEntry, parse, parse_header
from aa_core.journal import encode_line, extend
from aa_core.records import StepRecord
from aa_core.remote import Upload, is_remote, outgoing
from aa_core.stages import Stage
from aa_core.state import Snapshot
from aa_core.store import encode, sha256

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
    """Creates a run and adds to it; the only writer as long as it is not closed.

    With an address of object storage it writes to a folder of the workspace, and uploads what it commits.

    Raises RunBusyError if another recorder is writing this run, RunExistsError if the path is taken.
    """

    def __init__(self, path: str | Path, header: Header) -> None:
        text = header.to_bytes()
        parse_header(text)
        upload = Upload(outgoing(path), path) if is_remote(path) else None
        path = Path(path) if upload is None else upload.folder
        _claim(path)
        self.path, self._upload = path, upload
        self._lock = _lock(path)
        for folder in FOLDERS:
            (path / folder).mkdir()
        write_new(path / "run.json", text)
        self._publish()
        self._head, self._number, self._start = sha256(text), 0, 0
        self._groups = header.groups
        self._stages: dict[str, Stage] = {}
        self._records: list[StepRecord] = []
        self._examples: list[Examples] = []
        self._committed_rows = 0
        self._journal: BinaryIO | None = None
        self.checkpoints: list[int] = []

    @property
    def steps(self) -> int:
        """How many steps are complete."""
        return self._start + len(self._records)

    def declare(self, name: str, note: str, metadata: Mapping[str, Any]) -> None:
        """Enter a stage into the table that the next commit carries; a known stage keeps its blocks."""
        old = self._stages.get(name, Stage(name, ()))
        self._stages[name] = Stage(name, old.blocks, note or old.note, {**old.metadata, **metadata})

    def append(self, record: StepRecord, new: Examples | None) -> None:
        """Acknowledge a complete step: its line is with the operating system when this returns."""
        if self._journal is None:
            self._journal = _create(self.path / "journal" / f"{self._number:010d}.jsonl")
        self._journal.write(encode_line(record, new))
        self._journal.flush()
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

        `phase` is what begins with the next step; the snapshot is then the state as it finds it.
        """
        files = [self._write(name, data, role) for name, data, role in self._contents(snapshot, evaluation)]
        stages = tuple(
            StageEntry(name=s.name, blocks=s.blocks, note=s.note, metadata=s.metadata) for s in self._stages.values()
        )
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
        self._advance(text, snapshot)
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

    def _advance(self, text: bytes, snapshot: Snapshot | None) -> None:
        if self._journal is not None:
            self._journal.close()
            (self.path / "journal" / f"{self._number:010d}.jsonl").unlink()
        if snapshot is not None:
            self.checkpoints.append(snapshot.step)
        self._head, self._number, self._start, self._journal = sha256(text), self._number + 1, self.steps, None
        self._committed_rows += sum(len(e.digests) for e in self._examples)
        self._records, self._examples = [], []

    def close(self) -> None:
        """Release the run; what was committed or journaled stays."""
        if self._journal is not None:
            self._journal.close()
        os.close(self._lock)


def files_of(commit: bytes, name: str) -> list[str]:
    """The files that a commit names."""
    return [file.name for file in parse(Commit, commit, f"log/{name}").files]


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
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    os.fchmod(descriptor, MODE)
    return open(descriptor, "wb")
