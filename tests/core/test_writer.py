"""Commits are written while training goes on: the same bytes, nothing lost, and no failure unsaid."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import aa_core as aa
from aa_core.recording import contents, writer
from aa_core.runs.archive import export_run, import_run
from aa_core.runs.chain import read_chain
from aa_core.runs.integrity import check_integrity
from aa_core.runs.store import encode, pieces
from tests.core.resume_case import Kind, Training
from tests.recorded import LOSS, Late, as_killed, make, train

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)


@pytest.mark.parametrize("metadata", [None, {}, {"dataset": 'a"é\\\n\x7f'}])
def test_the_bytes_are_those_that_safetensors_writes(metadata: dict[str, str] | None) -> None:
    tensors = {
        f"{name}{i}": torch.ones(size, dtype=d) for i, d in enumerate(DTYPES) for name, size in (("b", 3), ("a", 1))
    }
    tensors |= {
        'é"\\/': torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "Z": torch.randn(3, 4).T,
        "ü": torch.randn(5)[::2],
    }
    contiguous = {n: t.contiguous() for n, t in tensors.items()}
    assert encode(tensors, metadata) == safetensors.torch.save(contiguous, metadata or None)
    assert encode({}) == safetensors.torch.save({})
    in_parts = tensors | {
        "Z": tensors["Z"].split(2),
        "b1": [tensors["b1"], tensors["b1"][:0]],
        "empty": torch.zeros(0, 3).split(1),
    }
    assert b"".join(pieces(in_parts, metadata)) == encode(tensors, metadata)


def test_training_goes_on_while_a_commit_is_written_and_closing_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, write = threading.Event(), contents.write_pieces

    def slowly(path: Path, pieces: contents.Content) -> None:
        assert path.name != "6.safetensors" or not gate.is_set()
        if path.name == "3.safetensors":
            assert gate.wait(60)
        write(path, pieces)

    monkeypatch.setattr(contents, "write_pieces", slowly)
    model, optimizer = make()
    with aa.Recorder(tmp_path / "r", model, optimizer, LOSS, checkpoint_every=3) as recorder, recorder.stage("a"):
        train(recorder, model, optimizer, 5)
        now = aa.open_run(tmp_path / "r")
        assert (now.steps, now.checkpoints) == (5, (0,)) and check_integrity(now) == ()
        gate.set()
    assert (aa.open_run(tmp_path / "r").checkpoints, check_integrity(aa.open_run(tmp_path / "r"))) == ((0, 3, 5), ())


def test_what_is_written_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every file and folder that appears: written, synced, named, and the folder that names it synced."""
    log: list[tuple[str, str]] = []

    def logged(act: str, place: Callable[..., str]) -> None:
        call = getattr(os, act)
        monkeypatch.setattr(os, act, lambda *args, **kw: (log.append((act, place(*args))), call(*args, **kw))[1])

    logged("fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    for act in ("replace", "link", "rename"):
        logged(act, lambda old, new: f"{old}\n{new}")
    Training(Kind(), 0).run(tmp_path / "r")
    export_run(aa.open_run(tmp_path / "r"), tmp_path / "r.zip")
    import_run(tmp_path / "r.zip", tmp_path / "again")
    named = [(i, act, *map(Path, place.split("\n"))) for i, (act, place) in enumerate(log) if act != "fsync"]
    for i, _, old, new in named:
        for part in (old, *(old / p.relative_to(new) for p in new.rglob("*"))):
            assert ("fsync", str(part)) in log[:i], f"{new} was named before {part} was on the disk"
        assert ("fsync", str(new.parent)) in log[i:], f"the name of {new} was not forced to the disk"
    at = {new: i for i, _, _, new in named}
    run = tmp_path / "r"
    chain = read_chain(run)
    assert {tmp_path / "r.zip", tmp_path / "again", run / "run.json"} <= at.keys()
    for commit in chain.commits:
        committed = at[run / "log" / f"{commit.number:010d}.json"]
        journal = ("fsync", str(run / "journal" / f"{commit.number:010d}.jsonl"))
        assert commit.start == commit.stop or journal in log[:committed], "steps are on the disk before their commit"
        for file in commit.files:
            folder = str((run / file.name).parent)
            assert ("fsync", folder) in log[at[run / file.name] : committed], "and so is every file that it names"
    assert at[run / "run.json"] < min(i for path, i in at.items() if path.parent == run / "log")


def test_what_the_thread_fails_at_is_raised_in_the_loop_and_the_recording_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    kind, write, done = Kind(), contents.write_pieces, list[int]()
    whole = Training(kind, 0).run(tmp_path / "whole")

    def full(path: Path, pieces: contents.Content) -> None:
        if path.parent.name == "states" and path.name != "0.safetensors":
            raise OSError(28, "No space left on device")
        write(path, pieces)

    monkeypatch.setattr(contents, "write_pieces", full)
    with pytest.raises(OSError, match="No space left"):
        Training(kind, 0).run(tmp_path / "r", done.append)
    stopped = aa.open_run(tmp_path / "r")
    assert len(done) <= stopped.steps <= len(done) + 1 and len(done) <= 6, "not later than at the next commit"
    assert (stopped.checkpoints, stopped.sealed, check_integrity(stopped)) == ((0,), False, ())
    monkeypatch.setattr(contents, "write_pieces", write)
    assert Training(kind, 1).run(tmp_path / "r") == whole


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two steps after a commit that is not written yet."""
    monkeypatch.setattr(writer, "ThreadPoolExecutor", Late)
    Training(Kind(), 0).run(
        tmp_path / "whole", lambda k: as_killed(tmp_path / "whole", tmp_path / "stopped") if k == 4 else None
    )
    return tmp_path / "stopped"


def test_a_run_whose_commit_was_underway_is_packed_whole(tmp_path: Path, stopped: Path) -> None:
    run = aa.open_run(stopped)
    assert (run.steps, run.checkpoints, run.warnings) == (5, (0,), ()) and run.chain.journal.underway is not None
    export_run(run, tmp_path / "r.zip")
    again = import_run(tmp_path / "r.zip", tmp_path / "again")
    assert (again.digest, again.steps, again.stages) == (run.digest, run.steps, run.stages)


def test_steps_behind_a_damaged_journal_are_not_used(tmp_path: Path, stopped: Path) -> None:
    first = stopped / "journal" / f"{1:010d}.jsonl"
    first.write_bytes(first.read_bytes()[:-9])
    run = aa.open_run(stopped)
    assert run.steps == 2 and len(run.warnings) == 1 and "torn" in run.warnings[0]
    with pytest.warns(RuntimeWarning, match="torn"):
        assert Training(Kind(), 1).run(stopped) == aa.open_run(tmp_path / "whole").digest


def test_without_the_note_of_the_commit_underway_only_the_first_journal_counts(stopped: Path) -> None:
    (stopped / "journal" / f"{1:010d}.json").unlink()
    assert (aa.open_run(stopped).steps, check_integrity(aa.open_run(stopped))) == (3, ())
