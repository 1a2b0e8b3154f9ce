"""Whatever happens to the files of a run: it opens as recorded, or an error says which file and why."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from aa_core.errors import IntegrityError, RunBusyError, RunError, RunFormatError, RunVersionError
from aa_core.files import write_new
from aa_core.recording.recorder import Recorder
from aa_core.runs.header import MAX_JSON_BYTES, read_json
from aa_core.runs.integrity import check_integrity
from aa_core.runs.journal import _seal
from aa_core.runs.store import decode, layout
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.runs.verified import read_file
from tests.core.job_run import wait
from tests.faults.forge import entry, file_with, named_files, replace_file, reseal
from tests.faults.victims import kill, record_three_stages, start
from tests.recorded import LOSS, as_killed, make, record, steps_of, train


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("runs") / "r").path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "r")


def findings(path: Path, digest: str) -> tuple[str, ...]:
    """What an auditor who knows the digest of the run is told of these files."""
    try:
        run = open_run(path)
    except RunError as error:
        return (str(error),)
    changed = () if run.digest == digest else ("digest differs",)
    return changed + check_integrity(run)


@pytest.mark.parametrize("kind", ["run.json", "log/*", "steps/*", "states/*", "data/*"])
def test_every_flipped_bit_is_detected(original: Path, path: Path, kind: str) -> None:
    rng = random.Random(kind)
    digest = open_run(original).digest
    files = [file for file in named_files(path) if file.relative_to(path).match(kind)]
    assert findings(path, digest) == ()
    for _ in range(200):
        file = rng.choice(files)
        intact = file.read_bytes()
        bit = rng.randrange(len(intact) * 8)
        file.write_bytes(intact[: bit // 8] + bytes([intact[bit // 8] ^ 1 << bit % 8]) + intact[bit // 8 + 1 :])
        assert findings(path, digest), f"bit {bit} of {file}"
        file.write_bytes(intact)


def test_every_flipped_bit_of_a_journal_is_detected(tmp_path: Path) -> None:
    path, rng = live_copy(tmp_path), random.Random(0)
    digest, (journal,) = open_run(path).digest, (path / "journal").iterdir()
    intact = journal.read_bytes()
    for _ in range(200):
        bit = rng.randrange(len(intact) * 8)
        journal.write_bytes(intact[: bit // 8] + bytes([intact[bit // 8] ^ 1 << bit % 8]) + intact[bit // 8 + 1 :])
        assert findings(path, digest), f"bit {bit}"


@pytest.mark.parametrize("kept", [0.0, 0.5, -1])
def test_every_truncated_file_is_detected(original: Path, path: Path, kept: float) -> None:
    digest = open_run(original).digest
    for file in named_files(path):
        intact = file.read_bytes()
        file.write_bytes(intact[: int(len(intact) * kept) if kept >= 0 else -1])
        assert findings(path, digest), file
        file.write_bytes(intact)


def test_every_missing_file_is_named(original: Path, path: Path) -> None:
    digest = open_run(original).digest
    last = max((path / "log").iterdir())
    for file in named_files(path):
        intact = file.read_bytes()
        file.unlink()
        found = findings(path, digest)
        assert found and (file == last or file.name in found[0]), file
        file.write_bytes(intact)
    assert findings(path, digest) == ()


def test_an_altered_state_is_refused_before_it_is_used(path: Path) -> None:
    run = open_run(path)
    file = path / "states" / "3.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"states/3\.safetensors: sha256"):
        run.load(3)
    assert run.load(6).step == 6


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_broken_chain_is_refused(path: Path, number: int) -> None:
    file = path / "log" / f"{number:010d}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sealed": False}, indent=3))
    with pytest.raises(IntegrityError, match="does not continue"):
        open_run(path)


def test_swapped_commits_are_refused(path: Path) -> None:
    a, b = path / "log" / "0000000001.json", path / "log" / "0000000002.json"
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)
    with pytest.raises(IntegrityError, match="does not continue"):
        open_run(path)


def test_a_newer_version_is_named_as_such(path: Path) -> None:
    header = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(header | {"version": 2, "novelty": True}))
    with pytest.raises(RunVersionError, match="version 2"):
        open_run(path)


def test_all_wrong_fields_of_a_header_are_listed(path: Path) -> None:
    header = json.loads((path / "run.json").read_text())
    header |= {"title": 3, "slots": "x", "extra": 1}
    del header["loss"]
    (path / "run.json").write_text(json.dumps(header))
    with pytest.raises(RunFormatError) as caught:
        open_run(path)
    assert all(part in str(caught.value) for part in ("run.json: 4 problems", "title", "slots", "extra", "loss"))


FORGERIES: dict[str, Callable[[dict], None]] = {
    "belong to no stage": lambda c: c["stages"][0].update(blocks=[[0, 2], [3, 7]]),
    "overlaps": lambda c: c["stages"][1].update(blocks=[[5, 12]]),
    "starts at step": lambda c: c.update(start=c["start"] - 1),
    "is named twice": lambda c: c["files"].append(c["files"][0]),
    "cannot have the role": lambda c: c["files"][0].update(role="state"),
    "String should match pattern": lambda c: c["files"][0].update(name="../outside.safetensors"),
    "files.0.name": lambda c: c["files"][0].update(name="/etc/passwd"),
    "files.0.sha256": lambda c: c["files"][0].update(sha256="0"),
    "Extra inputs": lambda c: c.update(surprise=1),
    "printable": lambda c: c["stages"][0].update(name="a\u202eb"),
}


@pytest.mark.parametrize("message", FORGERIES)
def test_a_forged_commit_with_a_sound_chain_is_still_checked(path: Path, message: str) -> None:
    reseal(path, FORGERIES[message])
    with pytest.raises(RunFormatError, match=message):
        open_run(path)


def test_forged_columns_are_explained_all_at_once(path: Path) -> None:
    name = "steps/0-3.safetensors"
    columns = safetensors.torch.load((path / name).read_bytes())
    columns["hyper.0.lr"] = -columns["hyper.0.lr"]
    columns["micro.size"] = columns["micro.size"] + 1
    replace_file(path, name, safetensors.torch.save(columns))
    with pytest.raises(RunFormatError, match=r"(?s)2 problems.*lr is negative at step 0.*micro\.size"):
        open_run(path)


def test_rows_beyond_the_stored_examples_are_refused(path: Path) -> None:
    name = "steps/0-3.safetensors"
    columns = safetensors.torch.load((path / name).read_bytes())
    columns["rows"] = columns["rows"] + 1000
    replace_file(path, name, safetensors.torch.save(columns))
    run = open_run(path)
    assert any("of 32 stored examples" in f for f in check_integrity(run))
    with pytest.raises(RunFormatError, match="of 32 stored examples"):
        run.step_input(0, torch.device("cpu"))


def test_exchanged_examples_differ_from_their_digests(path: Path) -> None:
    name = "data/0.safetensors"
    fields = safetensors.torch.load((path / name).read_bytes())
    fields["y"] = (fields["y"] + 1) % 3
    replace_file(path, name, safetensors.torch.save(fields))
    assert any("differs from its digest" in f for f in check_integrity(open_run(path)))


@pytest.mark.parametrize("change", ["missing", "extra", "dtype", "shape"])
def test_a_state_that_does_not_fit_the_header_is_explained(path: Path, change: str) -> None:
    name = "states/0.safetensors"
    tensors = safetensors.torch.load((path / name).read_bytes())
    key = "params/body.0.weight"
    if change == "missing":
        del tensors[key]
    else:
        other = {"extra": torch.zeros(1), "dtype": tensors[key].double(), "shape": tensors[key][:2].clone()}[change]
        tensors["params/more" if change == "extra" else key] = other
    replace_file(path, name, safetensors.torch.save(tensors))
    expected = {
        "missing": "is missing",
        "extra": "not expected",
        "dtype": "float64",
        "shape": r"expected float32\[5, 6\]",
    }
    with pytest.raises(RunFormatError, match=expected[change]):
        open_run(path).load(0)


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_only_regular_files_are_read(path: Path, tmp_path: Path, kind: str) -> None:
    file = path / "states" / "0.safetensors"
    moved = file.rename(tmp_path / "elsewhere")
    if kind == "symlink":
        file.symlink_to(moved)
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.mkdir()
    with pytest.raises((RunFormatError, IntegrityError), match=r"states/0\.safetensors"):
        open_run(path).load(0)


def test_a_symlinked_folder_is_refused(path: Path, tmp_path: Path) -> None:
    (path / "states").rename(tmp_path / "elsewhere")
    (path / "states").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFormatError, match="symbolic link"):
        open_run(path).load(0)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\0b", "a\\b", ""])
def test_a_name_that_leads_out_of_the_run_is_never_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunFormatError, match="not a relative path"):
        read_file(tmp_path, name)


def test_files_that_no_commit_names_do_not_exist(path: Path) -> None:
    before = open_run(path)
    (path / "states" / "1.safetensors").write_bytes(b"planted")
    (path / "steps" / "12-20.safetensors").write_bytes(b"planted")
    (path / "log" / "notes.txt").write_text("planted")
    (path / "torch.py").write_text("raise SystemExit('executed')")
    (path / "journal" / f"{99:010d}.jsonl").write_text("planted")
    after = open_run(path)
    assert (after.digest, after.checkpoints, after.steps) == (before.digest, before.checkpoints, before.steps)
    assert check_integrity(after) == ()


# ---- JSON and safetensors --------------------------------------------------------------------------------------------

BAD_JSON = {
    "twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "too deeply": b"[" * 200 + b"]" * 200,
    "nested too deeply": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "NaN": b'{"a": NaN}',
    "not the JSON": b'{"a": 1',
    "utf-8": b'{"a": "\xff"}',
}


@pytest.mark.parametrize("message", BAD_JSON)
def test_json_that_no_recorder_writes_is_refused(message: str) -> None:
    with pytest.raises(RunFormatError, match=f"here: .*{message}"):
        read_json(BAD_JSON[message], "here")


def test_oversized_json_is_refused_unread() -> None:
    with pytest.raises(RunFormatError, match="at most"):
        read_json(bytes(MAX_JSON_BYTES + 1), "here")


BAD_TENSORS = {
    "empty": b"",
    "absurd header length": (2**62).to_bytes(8, "little") + b"{}",
    "not an object": file_with([]),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "repeated names": file_with(b'{"a":%s,"a":%s}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2), bytes(4)),
    "overlap": file_with({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "gap": file_with({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "trailing data": file_with({"a": entry([1], 0, 4)}, bytes(5)),
    "beyond the end": file_with({"a": entry([9], 0, 36)}, bytes(4)),
    "shape of other size": file_with({"a": entry([3], 0, 4)}, bytes(4)),
    "negative shape": file_with({"a": entry([-1, -1], 0, 4)}, bytes(4)),
    "boolean shape": file_with({"a": entry([True], 0, 4)}, bytes(4)),
    "overflow": file_with({"a": entry([2**40, 2**40], 0, 4)}, bytes(4)),
    "unknown dtype": file_with({"a": entry([1], 0, 4, "F1")}, bytes(4)),
    "unhashable dtype": file_with({"a": entry([1], 0, 4) | {"dtype": []}}, bytes(4)),
    "name with newline": file_with({"a\nb": entry([1], 0, 4)}, bytes(4)),
    "entry of other kind": file_with({"a": 1}),
    "metadata of other kind": file_with({"__metadata__": {"a": 1}}),
    "three offsets": file_with({"a": entry([1], 0, 4) | {"data_offsets": [0, 4, 8]}}, bytes(4)),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_safetensors_file_that_is_not_sound_is_refused_by_its_header(case: str) -> None:
    with pytest.raises(RunFormatError, match="here: "):
        layout(BAD_TENSORS[case], "here")


def test_every_truncation_of_a_safetensors_file_is_refused() -> None:
    data = safetensors.torch.save({"a": torch.arange(3), "b": torch.ones(2, 2)})
    expected = {"a": (torch.int64, (None,)), "b": (torch.float32, (2, None))}
    assert decode(data, "here", expected)["a"].tolist() == [0, 1, 2]
    for length in range(len(data)):
        with pytest.raises(RunFormatError):
            decode(data[:length], "here", expected)


def test_a_new_file_never_replaces_another_one(tmp_path: Path) -> None:
    write_new(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


# ---- the journal, and recorders that die ----------------------------------------------------------------------------


def live_copy(tmp_path: Path, steps: int = 5) -> Path:
    """The files of a run as they are on disk while its recorder is at work."""
    model, optimizer = make()
    with Recorder(tmp_path / "live", model, optimizer, LOSS, checkpoint_every=100) as recorder, recorder.stage("a"):
        train(recorder, model, optimizer, steps)
        return as_killed(tmp_path / "live", tmp_path / "copy")


def test_a_journal_cut_anywhere_gives_its_complete_lines(tmp_path: Path) -> None:
    path = live_copy(tmp_path)
    (journal,) = (path / "journal").iterdir()
    data, steps = journal.read_bytes(), steps_of(journal)
    ends = list(accumulate(map(len, steps)))
    lines = list(accumulate(len(part) for step in steps for part in parts_of(step)))
    begun = [range(a, b + 1) for a, b in zip(lines[::3], lines[1::3], strict=True)]
    """From the line that announces examples to their end: nothing of a step is missing."""
    for cut in sorted({*range(0, len(data), 97), *lines, *(e - 1 for e in lines), *(e + 1 for e in lines[:-1])}):
        journal.write_bytes(data[:cut])
        run = open_run(path)
        complete = sum(e <= cut for e in ends)
        assert run.steps == complete == sum(map(len, run.stages))
        whole = cut in (0, *ends) or any(cut in examples for examples in begun)
        assert bool(run.warnings) != whole and all("torn" in w for w in run.warnings)


def test_what_follows_a_damaged_journal_line_is_reported_and_not_used(tmp_path: Path) -> None:
    path = live_copy(tmp_path)
    (journal,) = (path / "journal").iterdir()
    steps = steps_of(journal)
    left = sum(map(len, steps[2:]))
    journal.write_bytes(b"".join([*steps[:2], steps[2].replace(b"a", b"b", 1), *steps[3:]]))
    run = open_run(path)
    assert run.steps == 2 and "step 3 of it is damaged" in run.warnings[0] and f"({left} bytes)" in run.warnings[0]
    assert check_integrity(run) == run.warnings


@pytest.mark.parametrize("as_text", [True, False])
def test_journals_of_before_that_hold_examples_with_or_behind_their_step_are_read(
    as_text: bool, tmp_path: Path
) -> None:
    path = live_copy(tmp_path)
    (journal,) = (path / "journal").iterdir()
    expected, old = open_run(path), b""
    for step in steps_of(journal):
        announced, examples, line = parts_of(step)
        as_before = base64.b64encode(examples[:-1]).decode() if as_text else json.loads(announced[17:] or "null")
        text = json.dumps(json.loads(line[17:]) | {"examples": as_before or None}).encode()
        old += _seal(text) + b" " + text + b"\n" + (b"" if as_text else examples)
    journal.write_bytes(old)
    found = open_run(path)
    assert found.steps == expected.steps and not found.warnings
    for name, tensor in expected.stored_examples.fields.items():
        assert torch.equal(found.stored_examples.fields[name], tensor)


def parts_of(step: bytes) -> tuple[bytes, bytes, bytes]:
    """A line, the examples that it announces (nothing twice where none are new), and the line of the step."""
    stop = step.index(b"\n") + 1
    size = json.loads(step[17:stop]).get("size")
    end = 0 if size is None else stop + size + 1
    return step[: min(stop, end)], step[min(stop, end) : end], step[end:]


def test_journal_lines_out_of_order_are_refused(tmp_path: Path) -> None:
    path = live_copy(tmp_path)
    (journal,) = (path / "journal").iterdir()
    steps = steps_of(journal)
    journal.write_bytes(b"".join([steps[0], steps[2], steps[1]]))
    with pytest.raises(RunFormatError, match="line 2: step 2, expected step 1"):
        open_run(path)


def kill_after(process: Any, told: Path, steps: int, delay: float) -> int:
    """SIGKILL `delay` seconds after the step was acknowledged; how many were in the end."""
    wait(lambda: acknowledged(told) >= steps)
    assert kill(process, delay)
    return acknowledged(told)


def acknowledged(told: Path) -> int:
    return told.stat().st_size if told.exists() else 0


@pytest.mark.parametrize(("steps", "delay"), [(1, 0.0), (20, 0.0013), (45, 0.0171), (90, 0.05)])
def test_no_acknowledged_step_is_lost_when_the_recorder_is_killed(tmp_path: Path, steps: int, delay: float) -> None:
    told = tmp_path / "told"
    known = kill_after(start(record_three_stages, tmp_path / "r", told), told, steps, delay)
    run = open_run(tmp_path / "r")
    assert known <= run.steps <= known + 1 and not run.sealed
    assert all("torn" in w for w in run.warnings) and check_integrity(run) == run.warnings
    assert [s.name for s in run.stages] == [n for n, start in (("a", 0), ("b", 40), ("c", 80)) if run.steps > start]
    assert_same_prefix(run, tmp_path / "unbroken")


def assert_same_prefix(run: Trajectory, path: Path) -> None:
    model, optimizer = make()
    with Recorder(path, model, optimizer, LOSS, checkpoint_every=7) as recorder, recorder.stage("all"):
        for _ in range(run.steps):
            train(recorder, model, optimizer, 1)
    expected = open_run(path)
    for step in (0, run.steps - 1):
        a, b = run.step_input(step, torch.device("cpu")), expected.step_input(step, torch.device("cpu"))
        assert torch.equal(a.batches[0][0].inputs, b.batches[0][0].inputs)
    assert run.log_frame()["loss"].to_numpy() == pytest.approx(expected.log_frame()["loss"].to_numpy(), rel=1e-3)


def test_the_second_recorder_is_refused_and_the_first_unharmed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    process = start(record_three_stages, tmp_path / "r", told)
    wait(lambda: acknowledged(told))
    with pytest.raises(RunBusyError, match="another recorder"), Recorder(tmp_path / "r", *make(), LOSS):
        pass
    known = kill_after(process, told, 30, 0.0)
    assert open_run(tmp_path / "r").steps >= known


def test_a_disk_that_fails_ends_the_run_with_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = make()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(OSError, match="No space left"),
        Recorder(tmp_path / "r", model, optimizer, LOSS, checkpoint_every=3) as recorder,
        recorder.stage("a"),
    ):
        train(recorder, model, optimizer, 5)
        recorder._active().wait()
        monkeypatch.setattr("aa_core.recording.contents.write_pieces", full)
        train(recorder, model, optimizer, 5)
    run = open_run(tmp_path / "r")
    assert (run.checkpoints, run.sealed, check_integrity(run)) == ((0, 3), False, ())
    assert 6 <= run.steps <= 9, "it is told at the next commit at the latest"
