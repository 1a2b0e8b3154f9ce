"""What the recorder's thread does beside a training loop: as if the loop had done it, and nothing of it unsaid."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.errors import EmptyStageError, RunError
from aa_core.recording.writer import RunWriter
from aa_core.runs.integrity import check_integrity
from tests.recorded import data, make, train

LOSS = nn.functional.cross_entropy


def journal_of(run: Path) -> Path:
    return max((run / "journal").glob("*.jsonl"))


def seen_in(loss_fn: Callable[[Tensor, Tensor], Tensor], path: Path) -> tuple[set[str], list[float]]:
    """The threads in which a loss is computed to be recorded, and the losses that are."""
    model, optimizer = make()
    threads, (x, y) = set[str](), data(8)

    def watched(original: Any) -> Any:
        def forward(self: Any, outputs: Tensor, targets: Tensor) -> Tensor:
            if not torch.is_grad_enabled():  # else it is the check of a gradient
                threads.add(threading.current_thread().name)
            return original(self, outputs, targets)

        return forward

    with pytest.MonkeyPatch.context() as patch:
        if isinstance(loss_fn, nn.Module):
            patch.setattr(type(loss_fn), "forward", watched(type(loss_fn).forward))
        with aa.Recorder(path, model, optimizer, loss_fn) as recorder, recorder.stage("a"):
            for _ in range(3):
                recorder.batch(x, y)
                optimizer.zero_grad()
                outputs = model(x)
                loss = LOSS(outputs, y)
                loss.backward()
                with torch.no_grad():
                    outputs.zero_()
                optimizer.step()
    return threads, aa.open_run(path).log_frame()["loss"].tolist()


class Own(nn.CrossEntropyLoss):
    """The user's."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().forward(outputs, targets)


def test_a_loss_of_torch_is_computed_beside_the_loop_and_any_other_within_it(tmp_path: Path) -> None:
    hooked = nn.CrossEntropyLoss()
    hooked.register_forward_hook(lambda *_: None)
    expected = seen_in(LOSS, tmp_path / "function")[1]
    threads, losses = seen_in(nn.CrossEntropyLoss(), tmp_path / "torch's")
    assert len(threads) == 1 and "MainThread" not in threads and losses == expected
    for name, loss in (("own", Own()), ("hooked", hooked)):
        threads, losses = seen_in(loss, tmp_path / name)
        assert threads == {"MainThread"} and losses == expected
    assert seen_in(lambda a, b: LOSS(a, b), tmp_path / "lambda")[1] == expected


def test_a_loss_beside_the_loop_is_computed_in_the_precision_of_the_loop(tmp_path: Path) -> None:
    (x, y), recorded = data(8), []
    for name, loss in (("torch's", LOSS), ("own", lambda a, b: LOSS(a, b))):
        model, optimizer = make()
        with aa.Recorder(tmp_path / name, model, optimizer, loss) as recorder, recorder.stage("a"):
            recorder.batch(x, y)
            with torch.autocast("cpu", torch.bfloat16):
                loss(model(x), y).backward()
            optimizer.step()
        recorded.append(aa.open_run(tmp_path / name).log_frame()["loss"].tolist())
    assert recorded[0] == recorded[1]


def test_examples_are_in_the_journal_before_their_step_and_are_no_step(tmp_path: Path) -> None:
    model, optimizer = make()
    x, y = data(8)
    with aa.Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
        train(recorder, model, optimizer, 2)
        before = aa.open_run(tmp_path / "r")
        recorder.batch(x + 1, y, ids=range(100, 108))
        recorder._thread.submit(int).result()
        journal = journal_of(tmp_path / "r")
        assert journal.stat().st_size > len(before.chain.journal.intact) + x.nbytes
        during = aa.open_run(tmp_path / "r")
        assert (during.steps, during.digest, during.warnings) == (2, before.digest, ())
        shutil.copytree(tmp_path / "r", tmp_path / "killed")
        written = journal.read_bytes().count(b'{"size":')
        LOSS(model(x + 1), y).backward()
        optimizer.step()
        assert journal.read_bytes().count(b'{"size":') == written == 3, "they are not written again"
    whole = aa.open_run(tmp_path / "r")
    assert check_integrity(whole) == () and len(whole.stored_examples.digests) == 24
    model, optimizer = make()
    recorder = aa.Recorder(tmp_path / "killed", model, optimizer, LOSS, if_exists="resume")
    with recorder, recorder.stage("a"):
        assert recorder.steps == 2
        train(recorder, model, optimizer, 1)
    resumed = aa.open_run(tmp_path / "killed")
    assert check_integrity(resumed) == () and (resumed.steps, len(resumed.stored_examples.digests)) == (3, 16)


def test_examples_of_a_batch_that_no_step_was_taken_with_are_not_lost_in_the_journal_before(tmp_path: Path) -> None:
    """They are journaled, then comes a commit, and the next step may use them."""
    model, optimizer = make()
    x, y = data(16)
    with aa.Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder:
        with recorder.stage("a"):
            train(recorder, model, optimizer, 2)
            recorder.batch(x + 1, y, ids=range(16))
            recorder._thread.submit(int).result()
            recorder.discard()
        with recorder.stage("b"):
            recorder.batch(x + 1, y, ids=range(16))
            optimizer.zero_grad()
            LOSS(model(x + 1), y).backward()
            optimizer.step()
            during = aa.open_run(tmp_path / "r")
            assert (during.steps, during.warnings) == (3, ())
            assert torch.equal(during.step_input(2, torch.device("cpu")).batches[0][0].inputs, x + 1)
    assert check_integrity(aa.open_run(tmp_path / "r")) == ()


def assert_goes_on(path: Path) -> None:
    """A recording that stopped before its first step is resumed to its end."""
    model, optimizer = make()
    recorder = aa.Recorder(path, model, optimizer, LOSS, if_exists="resume")
    with recorder, recorder.stage("a"):
        train(recorder, model, optimizer, 2)
    resumed = aa.open_run(path)
    assert (resumed.steps, resumed.sealed, check_integrity(resumed)) == (2, True, ())


def test_nothing_is_written_behind_what_was_written_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A disk with no room for examples."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def writelines(self, lines: Iterable[Any]) -> None:
            for line in lines:
                if isinstance(line, memoryview):
                    self.file.write(bytes(line)[:10])
                    raise OSError(28, "No space left on device")
                self.file.write(line)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    model, optimizer = make()
    x, y = data(8)
    put = RunWriter._put
    monkeypatch.setattr(RunWriter, "_put", lambda self, journal, lines: put(self, Full(journal), lines))
    recorder = aa.Recorder(tmp_path / "r", model, optimizer, LOSS)
    with pytest.raises(EmptyStageError), recorder, recorder.stage("a"):
        for error in (OSError, RunError):
            recorder.batch(x, y)
            LOSS(model(x), y).backward()
            with pytest.raises(error, match="No space left" if error is OSError else 'if_exists="resume"'):
                optimizer.step()
    found = aa.open_run(tmp_path / "r")
    assert (found.steps, found.sealed, found.warnings) == (0, False, ())
    monkeypatch.setattr(RunWriter, "_put", put)
    assert_goes_on(tmp_path / "r")


def test_a_disk_that_is_full_to_the_last_does_not_hold_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file could not write it tries once more when it is closed, and fails again."""
    model, optimizer = make()
    with monkeypatch.context() as full:
        full.setattr("aa_core.recording.writer.create", lambda path: BufferedWriter(FileIO("/dev/full", "w")))
        recorder = aa.Recorder(tmp_path / "r", model, optimizer, LOSS)
        with pytest.raises(OSError, match="No space left"), recorder, recorder.stage("a"):
            train(recorder, model, optimizer, 1)
    assert_goes_on(tmp_path / "r")
