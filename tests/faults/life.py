"""The life of a recording as a state machine: begun, stepped, committed, killed, resumed, sealed, damaged, verified."""

from __future__ import annotations

import contextlib
import copy
import functools
import shutil
import tempfile
import warnings
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aa_core.errors import EmptyStageError, RunBusyError, RunError, RunExistsError
from aa_core.recording.recorder import Recorder
from aa_core.runs.integrity import check_integrity
from aa_core.runs.trajectory import Trajectory, open_run
from tests.core.resume_case import Kind, Training
from tests.faults.forge import named_files
from tests.recorded import as_killed

KIND = Kind(lambda p: torch.optim.AdamW(p, lr=0.01), augment=False)
MOST = 40


class Plain:
    """Stands where the recorder does, and records nothing."""

    def batch(self, *_: object, **__: object) -> None: ...


@functools.cache
def truth() -> list[dict[str, torch.Tensor]]:
    """The weights before each step, of the same training in plain torch."""
    training, found = Training(KIND, seed=0), []
    for k in range(MOST + 1):
        found.append(copy.deepcopy(training.model.state_dict()))
        training.step(Plain(), k)  # type: ignore[arg-type]
    return found


def commits(path: Path) -> list[Path]:
    return sorted((path / "log").iterdir())


def is_sound(warning: str) -> bool:
    """Whether it tells of what a killed recorder leaves, and of no damage."""
    return "torn" in warning or "nothing is committed" in warning


class LifeOfARun(RuleBasedStateMachine):
    """What was acknowledged is there and is what plain torch trains; a check finds what was changed, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        truth()
        self.folder = Path(tempfile.mkdtemp(prefix="life-"))
        self.path, self.copies = self.folder / "0", 0
        self.training: Training | None = None
        self.recorder: Recorder | None = None
        self.stage: AbstractContextManager[None] | None = None
        self.acknowledged, self.sealed = 0, False

    def teardown(self) -> None:
        self._abandon()
        shutil.rmtree(self.folder)

    # ---- recording ----

    @precondition(lambda self: not self.recorder and not self.sealed)
    @rule()
    def start(self) -> None:
        """The script, for the first time or again; what it draws matters only while nothing is recorded."""
        self.training = Training(KIND, seed=self.acknowledged)
        self.recorder = self.training.recorder(self.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a torn line is told
            self.recorder.__enter__()
        assert self.recorder.steps == self.acknowledged

    @precondition(lambda self: self.recorder and self.acknowledged < MOST)
    @rule(name=st.sampled_from(["a", "b", "c"]), count=st.integers(0, 6), more=st.booleans())
    def train(self, name: str, count: int, more: bool) -> None:
        """Steps in the stage that is open, or in one of this name; with `more` to come it stays open."""
        assert self.training is not None and self.recorder is not None
        if self.stage is None:
            self.stage = self.recorder.stage(name)
            self.stage.__enter__()
        for _ in range(min(count, MOST - self.acknowledged)):
            self.training.step(self.recorder, self.acknowledged)
            self.acknowledged += 1
        if not more:
            self._close()

    def _close(self) -> None:
        stage, self.stage = self.stage, None
        with contextlib.suppress(EmptyStageError):
            if stage is not None:
                stage.__exit__(None, None, None)

    @precondition(lambda self: self.recorder and self.acknowledged > 6)
    @rule()
    def seal(self) -> None:
        self._close()
        self._exit(None)
        self.sealed = True

    @precondition(lambda self: self.recorder)
    @rule()
    def fail(self) -> None:
        """An exception ends the script: what is recorded is committed."""
        error = KeyboardInterrupt()
        with contextlib.suppress(KeyboardInterrupt):
            if self.stage is not None:
                self.stage.__exit__(KeyboardInterrupt, error, None)
        self._exit(error)

    @precondition(lambda self: self.recorder)
    @rule(torn=st.binary(max_size=40), left=st.booleans())
    def die(self, torn: bytes, left: bool) -> None:
        """As kill -9 leaves it: at most a line without an end, and files that no commit names."""
        self.copies += 1
        path = as_killed(self.path, self.folder / str(self.copies))
        self._abandon()
        self.path = path
        journals = sorted((path / "journal").iterdir())
        if journals and torn.replace(b"\n", b"") and not self._is_committed(journals[-1]):
            with journals[-1].open("ab") as file:
                file.write(torn.replace(b"\n", b""))
        if left:
            (path / "states" / f"{self.acknowledged}.safetensors.left").write_bytes(torn)

    def _is_committed(self, journal: Path) -> bool:
        return (self.path / "log" / f"{journal.stem}.json").exists()

    @precondition(lambda self: self.recorder or self.sealed)
    @rule()
    def another_recorder_is_refused(self) -> None:
        with torch.random.fork_rng(), pytest.raises(RunExistsError if self.sealed else RunBusyError):
            Training(KIND, 0).recorder(self.path).__enter__()

    # ---- reading ----

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        if not self.path.exists():
            return
        run = open_run(self.path)
        assert (run.steps, run.sealed) == (self.acknowledged, self.sealed)
        found = check_integrity(run)
        assert all(map(is_sound, found)), found
        assert sum(map(len, run.stages)) == run.steps
        for step in run.checkpoints:
            at, expected = run.load(step), truth()[step]
            for name, value in (at.state.params | at.buffers).items():
                assert torch.equal(value, expected[name]), f"{name} before step {step}"

    @precondition(lambda self: self.path.exists() and not self.recorder)
    @rule(place=st.floats(0, 1, exclude_max=True), bit=st.floats(0, 1, exclude_max=True))
    def a_flipped_bit_is_found(self, place: float, bit: float) -> None:
        run = open_run(self.path)
        files = named_files(self.path)
        file = files[int(place * len(files))]
        intact = file.read_bytes()
        at = int(bit * len(intact) * 8)
        file.write_bytes(intact[: at // 8] + bytes([intact[at // 8] ^ 1 << at % 8]) + intact[at // 8 + 1 :])
        try:
            assert self._tells(run), f"bit {at} of {file.name}"
        finally:
            file.write_bytes(intact)
        assert open_run(self.path).digest == run.digest

    @precondition(lambda self: self.path.exists() and not self.recorder)
    @rule(place=st.floats(0, 1, exclude_max=True), kept=st.none() | st.floats(0, 1, exclude_max=True))
    def a_removed_or_cut_file_is_found(self, place: float, kept: float | None) -> None:
        run, files = open_run(self.path), named_files(self.path)
        file = files[int(place * len(files))]
        intact = file.read_bytes()
        if kept is None:
            file.unlink()
        else:
            file.write_bytes(intact[: int(kept * len(intact))])
        try:
            assert self._tells(run), f"{file.name}, of which {kept} is left"
        finally:
            file.write_bytes(intact)

    @precondition(lambda self: self.path.exists() and not self.recorder and len(commits(self.path)) > 1)
    @rule(first=st.floats(0, 1, exclude_max=True))
    def swapped_commits_are_found(self, first: float) -> None:
        run, names = open_run(self.path), commits(self.path)
        at = int(first * (len(names) - 1))
        one, two = (name.read_bytes() for name in names[at : at + 2])
        names[at].write_bytes(two)
        names[at + 1].write_bytes(one)
        try:
            assert self._tells(run), f"{names[at].name} and the next"
        finally:
            names[at].write_bytes(one)
            names[at + 1].write_bytes(two)

    @precondition(lambda self: self.path.exists() and not self.recorder)
    @rule(folder=st.sampled_from(["log", "states", "data", "steps", "journal"]), content=st.binary(max_size=40))
    def a_commit_that_was_added_is_found_and_other_files_count_for_nothing(self, folder: str, content: bytes) -> None:
        run, more = open_run(self.path), len(commits(self.path))
        added = self.path / folder / (f"{more:010d}.json" if folder == "log" else "999.safetensors")
        there = added.parent.exists()
        added.parent.mkdir(exist_ok=True)
        added.write_bytes(content)
        try:
            assert self._tells(run) == (folder == "log"), added
        finally:
            added.unlink()
            if not there:
                added.parent.rmdir()

    def _tells(self, run: Trajectory) -> bool:
        """Whether somebody who knows the digest is told that something changed."""
        try:
            changed = open_run(self.path)
        except RunError:
            return True
        return changed.digest != run.digest or not all(map(is_sound, check_integrity(changed)))

    # ---- the script's end ----

    def _exit(self, error: BaseException | None) -> None:
        assert self.recorder is not None
        recorder, self.recorder, self.stage = self.recorder, None, None
        recorder.__exit__(type(error) if error else None, error, None)

    def _abandon(self) -> None:
        """The process is gone: its hooks and its lock with it."""
        if self.recorder is not None:
            self.recorder._detach()
            self.recorder._active().close()
        self.recorder, self.stage = None, None
