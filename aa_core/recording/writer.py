"""The writing half of a run: one locked folder, a journal line a step, and commits chained by digest.

Commits are written by a thread of their own, one at a time, while training goes on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal

import torch

from aa_core.errors import RunBusyError, RunError, RunExistsError
from aa_core.files import write_atomic, write_new
from aa_core.recording.claim import FOLDERS, claim, create, enter, lock
from aa_core.recording.contents import Contents, files_of, write_file
from aa_core.records import StepRecord
from aa_core.runs.chain import read_chain
from aa_core.runs.commits import number_of
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.examples import Examples, New, decode_examples
from aa_core.runs.header import Commit, FileEntry, Header, PhaseEntry, StageEntry, parse, parse_header
from aa_core.runs.journal import (
    CommitUnderway,
    Generators,
    JournalStep,
    decode_journal,
    encode_new,
    encode_step,
    extend,
)
from aa_core.runs.remote import Upload, is_remote, outgoing
from aa_core.runs.verified import read_file, read_verified, sha256
from aa_core.stages import Stage
from aa_core.state import Snapshot

IfExists = Literal["refuse", "resume"]


class RunWriter:
    """Creates a run, or goes on with one, and adds to it; the only writer as long as it is not closed.

    With an address of object storage it writes to a folder of the workspace, and uploads what it commits.

    What the thread that writes commits fails at is raised by the next call of any method, and by all that follow.

    Raises RunBusyError if another recorder is writing this run, RunExistsError if the path is taken, or the run sealed.
    """

    def __init__(self, path: str | Path, header: Header, if_exists: IfExists = "refuse") -> None:
        text = header.to_bytes()
        parse_header(text)
        self._upload = Upload(outgoing(path), path) if is_remote(path) else None
        self.path = Path(path) if self._upload is None else self._upload.folder
        (claim if if_exists == "refuse" else enter)(self.path)
        self._lock = lock(self.path)
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._underway: Future[tuple[Commit, str]] | None = None
        """The commit that is being written, or that failed."""
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
        self._records, self._examples = list[StepRecord](), list[Examples]()
        self._journal: BinaryIO | None = None
        self._kept = list[New]()
        """What was written to it, and not yet with a step that uses it."""
        self._torn = False
        """Whether something was written to it in part: then nothing else is."""
        self._writing = Lock()
        self.unfinished = chain.journal.underway
        """A commit that was underway when the recording stopped: `finish` it before anything else is written."""
        split = len(chain.journal.steps) if self.unfinished is None else self.unfinished.stop - chain.committed
        self._meanwhile = chain.journal.steps[split:]
        self._take_up(chain.journal.steps[:split])
        self.generators = chain.journal.generators or _generators_before(self.path, chain.commits)
        """After the last step; empty where they were not noted."""
        self.warnings = chain.journal.warnings
        self._publish()

    def _take_up(self, steps: Sequence[JournalStep]) -> None:
        """Go on behind the steps of the journal that is written to, and behind its last whole one."""
        self._records = [step.record for step in steps]
        self._examples = [step.new for step in steps if step.new is not None]
        for record in self._records:
            self._stages[record.stage] = extend(self._stages.get(record.stage, Stage(record.stage, ())), record.step)
        if steps:
            os.truncate(self._journal_path, steps[-1].stop)
            self._journal = self._journal_path.open("ab")

    def finish(self, snapshot: Snapshot | None) -> None:
        """Write the unfinished commit, with the state before its stop unless that is known, and go on behind it."""
        assert self.unfinished is not None
        self._stages = {e.name: e.to_stage() for e in self.unfinished.stages}
        self.commit(snapshot)
        self.wait()
        self.unfinished = None
        self._take_up(self._meanwhile)

    @property
    def _journal_path(self) -> Path:
        return self.path / "journal" / f"{self._number:010d}.jsonl"

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

    def keep(self, new: Sequence[New]) -> None:
        """Write examples before the step that uses them first is made; from another thread, while the model runs."""
        with self._writing:
            self._keep(new)

    def _keep(self, new: Sequence[New]) -> BinaryIO:
        """Those that are not in the journal yet, which is returned."""
        if self._journal is None:
            self._journal = create(self._journal_path)
        for each in new:
            if not any(each is kept for kept in self._kept):
                self._put(self._journal, encode_new(each))
                self._kept.append(each)
        return self._journal

    def _put(self, journal: BinaryIO, lines: Iterable[bytes | memoryview[Any]]) -> None:
        if self._torn:
            raise RunError(
                f"{self.path}: writing to its journal failed before, so nothing more is recorded; mend what failed, "
                'and go on behind the last acknowledged step with Recorder(..., if_exists="resume")'
            )
        self._torn = True
        journal.writelines(lines)
        journal.flush()
        self._torn = False

    def append(self, record: StepRecord, new: Sequence[New] = (), generators: Generators = ()) -> None:
        """Acknowledge a complete step: it is with the operating system when this returns."""
        if self._underway is not None and self._underway.done():
            self.wait()
        first, before = not self._records, self.generators
        told = not first and len(generators) == len(before) and all(map(torch.equal, generators, before))
        with self._writing:
            self._put(self._keep(new), [encode_step(record, () if told else generators)])
            self._kept = []
        if first:
            self._drop_journals(but=self._number - (self._underway is not None))
        self.generators = generators
        self._records.append(record)
        self._stages[record.stage] = extend(self._stages[record.stage], record.step)
        self._examples += [each.examples for each in new]

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
        snapshot is then the state as it finds it, and nobody changes it. Returns before all is written, but for what
        the steps that follow could not be read without: the first commit, a phase, the evaluation set. Waits
        for the commit before.
        """
        self.wait()
        stages = tuple(
            StageEntry(name=s.name, blocks=s.blocks, note=s.note, metadata=s.metadata) for s in self._stages.values()
        )
        old = snapshot is None and evaluation is None and phase is None and not (self._records or sealed)
        if self._last is not None and old and stages == self._last.stages:
            return
        commit = Commit(
            number=self._number,
            previous=self._head,
            start=self._start,
            stop=self.steps,
            stages=stages,
            files=(),
            phase=phase,
            sealed=sealed,
        )
        at_once = self._last is None or phase is not None or evaluation is not None or sealed
        if not at_once and self.unfinished is None:
            note = CommitUnderway(stop=commit.stop, stages=stages)
            write_atomic(self.path / "journal" / f"{self._number:010d}.json", note.to_bytes())
        with self._writing:
            contents = Contents(
                commit,
                self._records,
                self._groups,
                self._examples,
                self._committed_rows,
                snapshot,
                evaluation,
                self._journal,
            )
            self._underway = self._thread.submit(self._write, contents)
            self._advance(contents)
        if at_once:
            self.wait()

    def wait(self) -> None:
        """Until all commits are written."""
        if self._underway is not None:
            self._last, self._head = self._underway.result()
            self._underway = None

    def _write(self, contents: Contents) -> tuple[Commit, str]:
        """In the thread: the files, then the commit that names them. The commit and its digest."""
        with contents.journal or nullcontext():
            files = tuple(write_file(self.path, *file) for file in contents.files())
            commit = contents.commit.model_copy(update={"files": files})
            text, name = commit.to_bytes(), f"log/{commit.number:010d}.json"
            parse(Commit, text, name)
            if contents.journal is not None:
                os.fsync(contents.journal.fileno())
            write_new(self.path / name, text)
        if commit.sealed:
            self._drop_journals()
        self._publish(commit.sealed)
        return commit, sha256(text)

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

    def _advance(self, contents: Contents) -> None:
        """What comes now belongs to the next commit."""
        commit, snapshot = contents.commit, contents.snapshot
        if snapshot is not None:
            self.checkpoints.append(snapshot.step)
        self._number, self._start, self._journal = self._number + 1, commit.stop, None
        self._kept = []
        self._committed_rows += sum(len(e.digests) for e in self._examples)
        self._records, self._examples = [], []
        self._groups = self._groups if commit.phase is None else commit.phase.groups

    def _drop_journals(self, but: int | None = None) -> None:
        """What was committed is kept until the next step: its last line alone knows the generators' states.

        `but`: the number of the first commit whose journal is still needed.
        """
        for path in (self.path / "journal").glob("*.json*"):
            if but is None or path.stem < f"{but:010d}":
                path.unlink()

    def close(self) -> None:
        """Release the run, once nothing writes to it any more; what was committed or journaled stays.

        Raises OSError if what a full disk had refused is refused again; the run is released nonetheless.
        """
        self._thread.shutdown()
        try:
            if self._journal is not None:
                self._journal.close()
        finally:
            os.close(self._lock)


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
