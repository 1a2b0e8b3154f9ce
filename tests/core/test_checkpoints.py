"""Runs of checkpoints on disk: written in full or not at all, pinned by one digest, refused in words."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import aa_core as aa
from aa_core.checkpoints_only.checkpoints import open_any
from aa_core.errors import (
    AuditError,
    IntegrityError,
    NonFiniteError,
    ProblemError,
    RequestError,
    RunExistsError,
    RunFormatError,
    RunNotFoundError,
    RunVersionError,
    UnsupportedError,
)
from tests import recorded, zoo
from tests.core.cases import squares
from tests.core.checkpoint_case import LENGTHS, build, data


def stage(**changes: Any) -> aa.SegmentStage:
    model = zoo.linear().double()
    known: dict[str, Any] = {
        "name": "a",
        "checkpoints": {3: model.state_dict()},
        "optimizer": "SGD",
        "hyper": {"lr": 0.1},
        "data": data(0),
    }
    return aa.SegmentStage(**(known | changes))


def written(path: Path, *stages: aa.SegmentStage, initial: Any = None) -> aa.CheckpointRun:
    model = zoo.linear().double()
    return aa.from_checkpoints(path, model, squares, initial or model.state_dict(), stages or (stage(),))


def changed(run: aa.CheckpointRun, **fields: Any) -> Path:
    """The run with other words in its header."""
    file = run.path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return run.path


# ---- what is written is what is read ---------------------------------------------------------------------------------


def test_a_run_is_what_was_said_of_it(tmp_path: Path) -> None:
    run = build(tmp_path / "run", "AdamW", lr=0.01, betas=(0.8, 0.9), every=4, stage={"note": "words"})
    again = aa.open_checkpoints(tmp_path / "run")
    assert again.digest == run.digest and again.title == "kept" and aa.check_checkpoints(again) == ()
    assert [(s.name, len(s), s.note) for s in again.stages] == [(n, k, "words") for n, k in LENGTHS.items()]
    assert again.checkpoints == (0, 4, 6, 10, 14, 18, 22, 24) and again.steps == 24
    entry = again.header.stages[1]
    assert (entry.optimizer, entry.resumes, entry.checkpoints) == ("AdamW", True, (10, 14))
    assert (entry.hyper["beta1"], entry.hyper["weight_decay"]) == (0.8, 0.01)  # torch's own default completes it
    assert float(again.load(10).state.count) == 10 and again.header.states[0].slots == ()
    assert set(again.load(24).state.slots) == {"exp_avg", "exp_avg_sq"}
    assert again.evaluation is not None and torch.equal(again.evaluation.x, data(9, 5)[0])
    assert torch.equal(again.stage_examples("b").fields["x"], data(1)[0])
    assert list(again.log_frame().groupby("stage")["lr"].count()) == list(LENGTHS.values())


def test_the_same_checkpoints_are_the_same_run(tmp_path: Path) -> None:
    a, b, other = (build(tmp_path / name, lr=lr) for name, lr in (("a", 0.1), ("b", 0.1), ("c", 0.2)))
    assert a.digest == b.digest != other.digest


def test_states_may_be_safetensors_files_and_nothing_else_is_read(tmp_path: Path) -> None:
    model = zoo.linear().double()
    save_file(model.state_dict(), tmp_path / "end.safetensors")
    run = written(tmp_path / "run", stage(checkpoints={3: tmp_path / "end.safetensors"}))
    assert all(torch.equal(t, run.load(3).state.params[n]) for n, t in model.state_dict().items())
    (tmp_path / "end.pt").write_bytes(pickle.dumps({"0.weight": 1}))
    with pytest.raises(RequestError, match=r"not a safetensors file.*give the tensors"):
        written(tmp_path / "other", stage(checkpoints={3: tmp_path / "end.pt"}))


def test_buffers_frozen_parameters_and_tied_weights_are_carried(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = recorded.Net()
    x, y = recorded.data()
    first = aa.SegmentStage("a", {2: model.state_dict()}, "SGD", {"lr": 0.1}, (x, y))
    run = aa.from_checkpoints(tmp_path / "run", model, recorded.LOSS, model.state_dict(), [first])
    assert "frozen" in run.load(0).buffers and "body.1.running_mean" in run.load(2).buffers
    aa.segment_effects(run, aa.Problem(model, recorded.LOSS, device="cpu"), aa.log_likelihood(x, y))

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = self.b = nn.Linear(6, 6)

    tied = Tied()
    first = aa.SegmentStage("a", {2: tied.state_dict()}, "SGD", {"lr": 0.1}, data(0))
    known = aa.from_checkpoints(tmp_path / "tied", tied, squares, tied.state_dict(), [first])
    assert list(known.load(0).state.params) == ["a.weight", "a.bias"]


def test_a_recorded_run_is_forgotten_with_all_that_stages_and_examples_say(tmp_path: Path) -> None:
    run = recorded.record(tmp_path / "run")
    known = aa.forget_steps(run, tmp_path / "known")
    assert [(s.name, s.blocks, s.note, s.metadata) for s in known.stages] == [
        (s.name, s.blocks, s.note, s.metadata) for s in run.stages
    ]
    assert known.checkpoints == (0, 7, 12) and known.header.stages[1].resumes
    assert known.header.stages[0].batch_size == 8 and len(known.stage_examples("first").digests) == 32
    for k in known.checkpoints:
        ours, theirs = known.load(k), run.load(k)
        assert all(
            torch.equal(t, theirs.state.slots["exp_avg_sq"][n]) for n, t in ours.state.slots["exp_avg_sq"].items()
        )
        assert all(torch.equal(t, theirs.buffers[n]) for n, t in ours.buffers.items())
    assert known.evaluation is not None and known.evaluation.class_names == ("p", "q", "r")


# ---- opening ---------------------------------------------------------------------------------------------------------


def test_each_kind_of_run_is_opened_by_its_own_function(tmp_path: Path) -> None:
    known, run = build(tmp_path / "known", lr=0.1), recorded.record(tmp_path / "run")
    with pytest.raises(RunFormatError, match=r"only checkpoints.*aa\.open_checkpoints"):
        aa.open_run(known.path)
    with pytest.raises(RunFormatError, match=r"steps of this run were recorded.*aa\.open_run"):
        aa.open_checkpoints(run.path)
    assert [type(open_any(r.path)) for r in (known, run)] == [aa.CheckpointRun, aa.Trajectory]
    with pytest.raises(RunNotFoundError, match="runs nearby"):
        aa.open_checkpoints(tmp_path)


def test_a_changed_file_is_found(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1)
    for name in ("states/14.safetensors", "data/1.safetensors", "data/evaluation.json"):
        file = run.path / name
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert [name in found for found in aa.check_checkpoints(run)] == [True]
        with pytest.raises(IntegrityError, match="intact copy"):
            _ = aa.open_checkpoints(run.path).evaluation, run.load(14), build_examples(run)
        file.write_bytes(good)
    changed(run, title="other")
    assert "changed since it was opened" in aa.check_checkpoints(run)[0]


def build_examples(run: aa.CheckpointRun) -> Any:
    return aa.open_checkpoints(run.path).stage_examples("b")


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"version": 2}, RunVersionError, "newer version"),
        ({"version": "1"}, RunFormatError, "version"),
        ({"states": []}, RunFormatError, "the stages name"),
        ({"stages": []}, RunFormatError, "stages"),
        ({"files": []}, RunFormatError, "do not fit"),
        ({"surprise": 1}, RunFormatError, "surprise"),
        ({"format": "other"}, RunFormatError, "format"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, fields: Any, error: Any, said: str) -> None:
    path = changed(build(tmp_path / "run", lr=0.1), **fields)
    with pytest.raises(error, match=said):
        aa.open_checkpoints(path)


def test_stages_of_a_header_must_ascend_and_have_one_name_each(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1)
    stages = json.loads((run.path / "run.json").read_text())["stages"]
    with pytest.raises(RunFormatError, match=r"'a' is listed twice.*do not ascend"):
        aa.open_checkpoints(changed(run, stages=[stages[0], stages[0], stages[2]]))


def test_a_path_that_leads_out_of_the_run_is_refused(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1)
    files = json.loads((run.path / "run.json").read_text())["files"]
    files[0]["name"] = "../states/0.safetensors"
    with pytest.raises(RunFormatError, match=r"files\.0\.name"):
        aa.open_checkpoints(changed(run, files=files))


# ---- what cannot be written ------------------------------------------------------------------------------------------


def with_nan() -> dict[str, torch.Tensor]:
    return {n: t * torch.nan for n, t in zoo.linear().double().state_dict().items()}


ADAM = {"optimizer": "Adam", "hyper": {"lr": 0.1}}
REFUSED: list[tuple[dict[str, Any], type[AuditError], str]] = [
    ({"checkpoints": {}}, RequestError, "expected at least the state at the end"),
    ({"checkpoints": {0: zoo.linear().double().state_dict()}}, RequestError, "expected at least"),
    ({"checkpoints": {3: zoo.mlp().double().state_dict()}}, ProblemError, "stage 'a', step 3 does not fit"),
    ({"checkpoints": {3: zoo.linear().state_dict()}}, ProblemError, "found .* float32, the model has .* float64"),
    ({"checkpoints": {3: {}}}, ProblemError, "found nothing"),
    ({"checkpoints": {3: with_nan()}}, NonFiniteError, "before step 3 holds NaN"),
    ({"optimizer": "RMSprop"}, UnsupportedError, "no segment-wise form for optimizer 'RMSprop'"),
    ({"hyper": {"lr": 0.1, "speed": 1}}, RequestError, "speed"),
    ({"hyper": {"lr": -1.0}}, RequestError, "learning rate"),
    ({"hyper": {"lr": float("inf")}}, RequestError, "stage 'a': hyper.lr"),
    ({"hyper": {"lr": 0.1, "momentum": 1.0}}, UnsupportedError, "SGD with momentum of 1"),
    ({"hyper": {"lr": 0.1, "maximize": True}}, UnsupportedError, "maximize"),
    (ADAM, RequestError, "divides by its second moment"),
    (ADAM | {"hyper": {"lr": 0.1, "amsgrad": True}, "batch_size": 4}, UnsupportedError, "(?i)amsgrad"),
    ({"name": "a\nb"}, RequestError, "printable"),
    ({"metadata": {"x": object()}}, RequestError, "metadata"),
    ({"ids": [1, 2]}, AuditError, "2 ids for 12 examples"),
]


@pytest.mark.parametrize(("changes", "error", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_a_stage_that_makes_no_sense_is_refused_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], error: type[AuditError], said: str
) -> None:
    with pytest.raises(error, match=said):
        written(tmp_path / "run", stage(**changes))
    assert list(tmp_path.iterdir()) == []


def test_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'a' is listed twice"):
        written(tmp_path / "run", stage(), stage())
    assert list(tmp_path.iterdir()) == []


def test_an_optimizer_of_other_parameters_is_refused(tmp_path: Path) -> None:
    model = zoo.linear().double()
    other = torch.optim.SGD(zoo.mlp().parameters(), lr=0.1, momentum=0.9)
    kept = aa.Checkpoint(model.state_dict(), other.state_dict())
    with pytest.raises(ProblemError, match=r"optimizer has 4 parameters, the model trains 2"):
        written(tmp_path / "run", stage(checkpoints={3: kept}))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(RunExistsError, match="not overwritten"):
        written(tmp_path / "run")
    assert (run.path / "run.json").read_bytes() == before
    with pytest.raises(RequestError, match="at least one stage"):
        aa.from_checkpoints(tmp_path / "none", zoo.linear(), squares, {}, [])
    with pytest.raises(RequestError, match="nothing that the first could resume"):
        written(tmp_path / "none", stage(resumes=True))


def test_a_stage_in_two_blocks_cannot_be_forgotten(tmp_path: Path) -> None:
    model, optimizer = recorded.make()
    with aa.Recorder(tmp_path / "run", model, optimizer, recorded.LOSS) as recorder:
        for name in ("first", "second", "first"):
            with recorder.stage(name):
                recorded.train(recorder, model, optimizer, 2)
    with pytest.raises(RequestError, match="'first' has the blocks"):
        aa.forget_steps(aa.open_run(tmp_path / "run"), tmp_path / "known")


def test_averaged_weights_cannot_be_forgotten(tmp_path: Path) -> None:
    model, optimizer = recorded.make()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaging = aa.Averaging(average, 0.9)
    recorder = aa.Recorder(tmp_path / "run", model, optimizer, recorded.LOSS, averaging=averaging)
    with recorder, recorder.stage("only"):
        x, y = recorded.data()
        recorder.batch(x, y)
        optimizer.zero_grad()
        recorded.LOSS(model(x), y).backward()
        optimizer.step()
        average.update_parameters(model)
    with pytest.raises(UnsupportedError, match="averaged weights"):
        aa.forget_steps(aa.open_run(tmp_path / "run"), tmp_path / "known")
