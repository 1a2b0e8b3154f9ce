"""An opened run says what was recorded, and nothing that was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from aa_core.errors import RequestError, RunNotFoundError
from aa_core.recording.recorder import Recorder
from aa_core.runs.header import Header, partition_errors
from aa_core.runs.integrity import check_integrity
from aa_core.runs.journal import decode_journal, encode_step, extend
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.stages import Stage
from tests.recorded import LOSS, evaluation, make, record, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    return record(tmp_path_factory.mktemp("runs") / "r", problem="net", config={"width": 5})


def test_the_header_says_what_was_trained(run: Trajectory) -> None:
    header = run.header
    assert (run.title, run.optimizer, header.slots) == ("small", "Adam", ("exp_avg", "exp_avg_sq"))
    assert [t.name for t in header.parameters] == list(run.phases[0].groups[0])
    assert {"frozen", "body.1.running_mean", "body.1.num_batches_tracked"} <= {t.name for t in header.buffers}
    assert (header.problem.name, header.problem.config) == ("net", {"width": 5})
    assert header.model_class == "tests.recorded.Net" and header.loss == "CrossEntropyLoss()"


def test_stages_partition_the_steps_and_keep_their_notes(run: Trajectory) -> None:
    assert [(s.name, s.blocks, s.note, s.metadata) for s in run.stages] == [
        ("first", ((0, 7),), "the first", {"k": [1, 2]}),
        ("second", ((7, 12),), "", {}),
    ]


def test_the_log_frame_agrees_with_every_record(run: Trajectory) -> None:
    frame = run.log_frame()
    assert list(frame.columns[:4]) == ["step", "stage", "loss", "grad_norm"] and len(frame) == run.steps == 12
    for step, row in frame.iterrows():
        at = run.record(int(step))
        assert (row["step"], row["stage"], row["loss"], row["grad_norm"]) == (at.step, at.stage, at.loss, at.grad_norm)
        assert {n: row[n] for n in at.hyper[0]} == dict(at.hyper[0])


def test_the_evaluation_set_comes_back_as_it_was(run: Trajectory) -> None:
    found, expected = run.evaluation, evaluation()
    assert found is not None and expected.metadata is not None and found.metadata is not None
    assert torch.equal(found.x, expected.x) and torch.equal(found.y, expected.y)
    assert found.class_names == expected.class_names and len(found) == 4
    assert found.metadata.to_dict("list") == expected.metadata.to_dict("list")


def test_requests_outside_the_run_say_what_there_is(run: Trajectory) -> None:
    with pytest.raises(RequestError, match="steps 0 to 11"):
        run.record(12)
    with pytest.raises(RequestError, match=r"checkpoints at \[0, 3, 6, 7, 10, 12\]"):
        run.load(1)


def test_a_missing_run_names_the_runs_nearby(run: Trajectory) -> None:
    with pytest.raises(RunNotFoundError, match=f"runs nearby: {run.path}"):
        open_run(run.path.with_name("typo"))


def test_opening_writes_nothing_and_works_on_a_read_only_copy(run: Trajectory, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "r")
    for path in (tmp_path / "r").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path / "r").rglob("*")}
    copy = open_run(tmp_path / "r")
    assert check_integrity(copy) == () and copy.digest == run.digest
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path / "r").rglob("*")} == before


def test_a_reader_sees_every_complete_step_while_recording(tmp_path: Path) -> None:
    model, optimizer = make()
    digests = set()
    with Recorder(tmp_path / "r", model, optimizer, LOSS, checkpoint_every=4) as recorder:
        assert open_run(tmp_path / "r").steps == 0
        with recorder.stage("a"):
            for steps in range(1, 11):
                train(recorder, model, optimizer, 1)
                seen = open_run(tmp_path / "r")
                digests.add(seen.digest)
                assert (seen.steps, seen.sealed, seen.stages[0].blocks) == (steps, False, ((0, steps),))
                assert check_integrity(seen) == ()
                last = seen.step_input(steps - 1, torch.device("cpu"))
                assert last.batches[0][0].inputs.shape == (8, 6)
    assert len(digests) == 10


def test_a_journaled_step_reads_the_same_as_a_committed_one(tmp_path: Path) -> None:
    model, optimizer = make()
    with Recorder(tmp_path / "r", model, optimizer, LOSS, checkpoint_every=100) as recorder, recorder.stage("a"):
        train(recorder, model, optimizer, 6)
        live = open_run(tmp_path / "r")
        before = live.log_frame(), live.stored_examples.digests, live.stored_examples.fields["x"]
    run = open_run(tmp_path / "r")
    assert run.sealed and live.chain.journal.steps
    assert run.log_frame().equals(before[0])
    assert torch.equal(run.stored_examples.digests, before[1]) and torch.equal(
        run.stored_examples.fields["x"], before[2]
    )


def test_the_journal_survives_non_finite_numbers(run: Trajectory) -> None:
    for value in ("nan", "inf", "-inf", "0.1"):
        record_ = run.record(3)._replace(step=0, loss=float(value))
        ((again, *_),) = decode_journal(encode_step(record_), 0, "journal").steps
        assert str(again.loss) == str(float(value)) and again.hyper == record_.hyper


def test_a_stage_extended_step_by_step_has_contiguous_blocks() -> None:
    stage = Stage("a", ())
    for step in (0, 1, 2, 5, 6, 9):
        stage = extend(stage, step)
    assert stage.blocks == ((0, 3), (5, 7), (9, 10)) and stage.steps == (0, 1, 2, 5, 6, 9)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([((0, 2),), ((3, 5),)], "steps 2 to 2 belong to no stage"),
        ([((0, 3),), ((2, 5),)], "overlaps"),
        ([((0, 5), (5, 5))], "empty block"),
        ([((0, 4),)], "end at step 4"),
    ],
)
def test_stages_that_are_no_partition_are_explained(blocks: list, message: str) -> None:
    problems = partition_errors([Stage(str(i), b) for i, b in enumerate(blocks)], 5)
    assert any(message in p for p in problems)


def test_the_header_round_trips_through_json(run: Trajectory) -> None:
    text = (run.path / "run.json").read_bytes()
    assert Header.model_validate_json(text) == run.header and json.loads(text)["version"] == 1
