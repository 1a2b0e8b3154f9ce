"""The recorder writes down what happened, changes nothing of it, and stops a loop that could not be replayed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from aa_core.check import check_files, check_run
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.retrain import retrain
from aa_core.counterfactuals.whatif import estimate
from aa_core.effects.attribution import stage_effects, step_effects
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import (
    AuditError,
    EmptyStageError,
    MissingDataError,
    RecordingError,
    ReplayDriftError,
    RequestError,
    RunExistsError,
    UnsupportedError,
)
from aa_core.performance import log_likelihood
from aa_core.problem import Problem
from aa_core.recording.recorder import Recorder
from aa_core.replay import replay_drift
from aa_core.rules import rule_named
from aa_core.runs import examples
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.examples import DatasetReference, ExampleLog
from aa_core.runs.integrity import check_integrity
from aa_core.runs.store import layout
from aa_core.runs.trajectory import open_run
from tests.recorded import LOSS, Net, batches, data, make, record, train

CPU = torch.device("cpu")


def test_recording_leaves_the_training_bit_for_bit_as_it_is(tmp_path: Path) -> None:
    plain, recorded = make(), make()
    torch.manual_seed(5)
    train(None, *plain, steps=4)
    train(None, *plain, steps=2)
    after_plain = torch.rand(3)
    torch.manual_seed(5)
    with Recorder(tmp_path / "r", *recorded, LOSS, checkpoint_every=2) as recorder:
        with recorder.stage("a"):
            train(recorder, *recorded, steps=4)
        with recorder.stage("b"):
            train(recorder, *recorded, steps=2)
    assert torch.equal(torch.rand(3), after_plain)
    for (name, a), b in zip(plain[0].state_dict().items(), recorded[0].state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not recorded[1]._optimizer_step_pre_hooks and not recorded[0]._forward_hooks


class Drawing(nn.Linear):
    """Draws from the global RNG without using it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.rand(1)
        return super().forward(x)


def test_checking_the_gradient_takes_nothing_from_the_random_stream(tmp_path: Path) -> None:
    drawn = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = Drawing(6, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if recorded:
            with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
                train(recorder, model, optimizer, 2)
        else:
            train(None, model, optimizer, 2)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_each_recorded_step_replays_from_its_checkpoint_to_the_next(tmp_path: Path, optimizer: type) -> None:
    model, opt = make(optimizer, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {}))
    train(None, model, opt, 3)
    with Recorder(tmp_path / "r", model, opt, LOSS, checkpoint_every=1) as recorder, recorder.stage("a"):
        train(recorder, model, opt, 4)
    run = open_run(tmp_path / "r")
    for step in range(run.steps):
        at, after, given = run.load(step), run.load(step + 1), run.step_input(step, CPU)
        torch.nn.Module.load_state_dict(model, {**at.state.params, **at.buffers})
        ((batch, weight),) = given.batches
        model.zero_grad()
        loss = LOSS(model(batch.inputs), batch.targets) * weight
        loss.backward()
        assert math.isclose(loss.item(), run.record(step).loss, rel_tol=1e-6)
        for name, param in model.named_parameters():
            if name not in at.state.params:
                continue
            slots = {slot: tensors[name] for slot, tensors in at.state.slots.items()}
            count = at.state.count[0] + 1
            new, new_slots = rule_named(run.optimizer).update(
                at.state.params[name], param.grad, slots, count, given.hyper[0]
            )
            torch.testing.assert_close(new, after.state.params[name])
            for slot in slots:
                torch.testing.assert_close(new_slots[slot], after.state.slots[slot][name])
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer, after.buffers[name])
        assert float(after.state.count) == float(at.state.count) + 1


def test_accumulated_micro_batches_are_recorded_with_their_weights(tmp_path: Path) -> None:
    model, optimizer = make()
    x, y = data()
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
        for _ in range(2):
            optimizer.zero_grad()
            total = 0.0
            for part in (slice(0, 8), slice(8, 12)):
                recorder.batch(x[part], y[part], weight=0.5)
                loss = LOSS(model(x[part]), y[part]) * 0.5
                loss.backward()
                total += loss.item()
            optimizer.step()
    step = open_run(tmp_path / "r").record(1)
    assert [(len(m.rows), m.weight) for m in step.micro_batches] == [(8, 0.5), (4, 0.5)]
    assert math.isclose(step.loss, total, rel_tol=1e-6)


def test_hyperparameters_in_force_at_the_step_are_recorded(tmp_path: Path) -> None:
    model, _ = make()
    optimizer = torch.optim.SGD(
        [{"params": [model.body[0].weight]}, {"params": [model.body[3].weight], "lr": 0.5}], lr=0.1
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    x, y = data()
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
        for _ in range(3):
            recorder.batch(x, y)
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()
            schedule.step()
    frame = open_run(tmp_path / "r").log_frame()
    assert frame["lr"].tolist() == pytest.approx([0.1, 0.05, 0.025])
    assert frame["lr[1]"].tolist() == pytest.approx([0.5, 0.25, 0.125])


def test_a_distinct_example_is_stored_once(tmp_path: Path) -> None:
    run = record(tmp_path / "r")
    assert len(run.stored_examples.digests) == 32
    rows = run.record(5).micro_batches[0].rows
    x, y = data()
    ids = list(batches(6))[5]
    assert torch.equal(run.examples(rows).inputs, x[ids]) and torch.equal(run.examples(rows).targets, y[ids])
    assert run.example_ids(rows) == ids.tolist()


def test_an_example_twice_in_one_batch_has_one_row() -> None:
    x, y = data(3)
    log = ExampleLog()
    assert log.add({"x": x[[0, 1, 0]], "y": y[[0, 1, 0]]}, None).tolist() == [0, 1, 0]
    assert log.add({"x": x[[2, 1]], "y": y[[2, 1]]}, None).tolist() == [2, 1]
    first, second = log.take()
    assert torch.equal(torch.cat([first.examples.fields["x"], second.examples.fields["x"]]), x) and not log.take()


def test_a_training_loop_need_not_wait_for_all_digests_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), pauses = data(5), list[float]()
    fields = {"x": x, "y": y}
    monkeypatch.setattr(examples.time, "sleep", pauses.append)
    monkeypatch.setattr(examples, "TURN", 1)
    alone = examples.digest_rows(fields)
    assert not pauses
    assert examples.digest_rows(fields, 0.5) == alone and pauses == [0.5] * 4
    monkeypatch.setattr(examples, "LOOKED_UP", 2)
    log = ExampleLog()
    log.add(fields, None)
    (new,) = log.take()
    assert new.examples.digests.numpy().tobytes() == b"".join(alone)
    assert pauses[4:] == [examples.PAUSE] * 6


def test_examples_that_could_not_be_kept_have_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), log = data(3), ExampleLog()
    log.add({"x": x[:1], "y": y[:1]}, None)
    with monkeypatch.context() as full:
        full.setattr(ExampleLog, "_pick", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            log.add({"x": x, "y": y}, None)
    assert log.add({"x": x[[2, 0]], "y": y[[2, 0]]}, None).tolist() == [1, 0]


def test_the_loop_may_write_over_a_batch_once_it_is_announced(tmp_path: Path) -> None:
    model, optimizer = make()
    x, y = data(4000)
    shown = x.clone()
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
        recorder.batch(shown, y)
        shown.zero_()
        LOSS(model(x), y).backward()
        optimizer.step()
    run = open_run(tmp_path / "r")
    assert torch.equal(run.examples(run.record(0).micro_batches[0].rows).inputs, x)


def test_a_loss_may_write_into_its_targets(tmp_path: Path) -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets[targets == 0] = 1
        return LOSS(outputs, targets)

    model, optimizer = make()
    x, y = data(4000)
    with Recorder(tmp_path / "r", model, optimizer, loss) as recorder, recorder.stage("a"):
        for _ in range(3):
            recorder.batch(x, y)
            optimizer.zero_grad()
            loss(model(x), y.clone()).backward()
            optimizer.step()
    run = open_run(tmp_path / "r")
    for k in range(3):
        assert torch.equal(run.examples(run.record(k).micro_batches[0].rows).targets, y)


def test_a_type_that_cannot_be_stored_is_refused_at_once(tmp_path: Path) -> None:
    model, optimizer = make()
    x, y = data(4)
    recorder, refused = Recorder(tmp_path / "r", model, optimizer, LOSS), pytest.raises(AuditError, match="uint16")
    with recorder, suppress(EmptyStageError), recorder.stage("a"), refused:
        recorder.batch(x, y.to(torch.uint16))


@pytest.mark.parametrize("where", ["loop", "step"])
def test_a_loop_that_fails_between_forward_and_step_leaves_no_state_of_moved_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    model, optimizer = make()
    x, y = data(8)
    recorder = Recorder(tmp_path / "r", model, optimizer, LOSS)
    with pytest.raises(KeyboardInterrupt), recorder, recorder.stage("a"):
        train(recorder, model, optimizer, 3)
        recorder.batch(x, y, ids=range(8))
        loss = LOSS(model(x), y)
        if where == "loop":
            raise KeyboardInterrupt
        loss.backward()
        monkeypatch.setattr("aa_core.recording.announced.read_gradients", Mock(side_effect=KeyboardInterrupt))
        optimizer.step()
    run = open_run(tmp_path / "r")
    assert (run.steps, run.checkpoints) == (3, (0,)) and not check_files(run).findings


def test_equal_examples_with_different_ids_stay_apart(tmp_path: Path) -> None:
    model, optimizer = make()
    x, y = data(2)
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
        twins = x[[0, 0, 1]], y[[0, 0, 1]]
        recorder.batch(*twins, ids=["a", "b", "c"])
        LOSS(model(twins[0]), twins[1]).backward()
        optimizer.step()
    run = open_run(tmp_path / "r")
    assert run.example_ids(run.record(0).micro_batches[0].rows) == ["a", "b", "c"]


def test_dict_inputs_and_every_dtype_come_back_as_they_were(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, a: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.layer(a.float() * mask)

    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = {"a": torch.randn(4, 3).bfloat16(), "mask": torch.tensor([[True, False, True]] * 4)}
    y = torch.randn(4, 1)
    with Recorder(tmp_path / "r", model, optimizer, nn.MSELoss()) as recorder, recorder.stage("a"):
        recorder.batch(inputs, y)
        nn.functional.mse_loss(model(**inputs), y).backward()
        optimizer.step()
    ((batch, _),) = open_run(tmp_path / "r").step_input(0, CPU).batches
    assert {n: t.dtype for n, t in batch.inputs.items()} == {n: t.dtype for n, t in inputs.items()}
    assert all(torch.equal(batch.inputs[n], inputs[n]) for n in inputs) and torch.equal(batch.targets, y)


def test_checkpoints_are_at_stage_starts_in_between_and_at_the_end(tmp_path: Path) -> None:
    run = record(tmp_path / "r", first=7, second=5)
    assert run.checkpoints == (0, 3, 6, 7, 10, 12)


def test_a_stage_entered_again_gets_another_block(tmp_path: Path) -> None:
    model, optimizer = make()
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder:
        for name, steps in (("a", 2), ("b", 1), ("a", 3)):
            with recorder.stage(name):
                train(recorder, model, optimizer, steps)
    assert [(s.name, s.blocks) for s in open_run(tmp_path / "r").stages] == [("a", ((0, 2), (3, 6))), ("b", ((2, 3),))]


def test_an_exception_leaves_a_readable_unsealed_run_of_the_complete_steps(tmp_path: Path) -> None:
    model, optimizer = make()
    with (
        pytest.raises(ZeroDivisionError),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        train(recorder, model, optimizer, 4)
        raise ZeroDivisionError
    run = open_run(tmp_path / "r")
    assert (run.steps, run.sealed, run.checkpoints, check_integrity(run)) == (4, False, (0, 4), ())


def test_a_step_that_did_not_complete_is_not_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = make()
    with (
        pytest.raises(KeyboardInterrupt),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        train(recorder, model, optimizer, 2)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        optimizer.register_step_pre_hook(interrupt)
        train(recorder, model, optimizer, 1)
    run = open_run(tmp_path / "r")
    assert (run.steps, run.checkpoints) == (2, (0,))


def test_a_loss_that_is_not_finite_is_recorded_with_one_warning(tmp_path: Path) -> None:
    model, optimizer = make(torch.optim.SGD)
    x, y = data()
    with (
        pytest.warns(RuntimeWarning, match="step 1") as caught,
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        for k in range(3):
            inputs = x if k == 0 else x * math.nan
            recorder.batch(inputs, y)
            optimizer.zero_grad()
            LOSS(model(inputs), y).backward()
            optimizer.step()
    assert len(caught) == 1
    run = open_run(tmp_path / "r")
    assert (run.steps, run.first_nonfinite) == (3, 1)


def one_step(recorder: Recorder, model: nn.Module, optimizer: torch.optim.Optimizer, spoil: str) -> None:
    """One step of training with one thing wrong."""
    x, y = data(8)
    announced = x.flip(0) if spoil == "other data" else x
    recorder.batch(announced, y)
    if spoil != "no zero_grad":
        optimizer.zero_grad()
    else:
        model.body[0].weight.grad = torch.ones_like(model.body[0].weight)
    loss = LOSS(model(x), y)
    (loss * 0.5 if spoil == "loss scaled" else loss).backward()
    if spoil == "clipped":
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    if spoil == "lost":
        model.body[0].weight.grad = None
    if spoil == "all lost":
        optimizer.zero_grad()
    optimizer.step()


@pytest.mark.parametrize("spoil", ["other data", "no zero_grad", "loss scaled", "clipped"])
def test_a_gradient_that_the_batch_does_not_explain_is_refused_before_it_is_applied(tmp_path: Path, spoil: str) -> None:
    model, optimizer = make()
    before = model.body[0].weight.detach().clone()
    with (
        pytest.raises(RecordingError, match="relative difference"),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        one_step(recorder, model, optimizer, spoil)
    assert torch.equal(model.body[0].weight, before)


def test_a_loop_that_departs_within_a_stage_is_stopped_at_the_next_checkpoint(tmp_path: Path) -> None:
    model, optimizer = make()
    with (
        pytest.raises(RecordingError, match=r"step 6: .*relative difference"),
        Recorder(tmp_path / "r", model, optimizer, LOSS, checkpoint_every=3) as recorder,
        recorder.stage("a"),
    ):
        train(recorder, model, optimizer, 4)
        for _ in range(3):
            recorder.batch(X, Y, ids=range(4))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y, label_smoothing=0.1).backward()
            optimizer.step()
    run = open_run(tmp_path / "r")
    assert (run.steps, run.sealed) == (6, False)


@pytest.mark.parametrize("way", ["nothing", "discard"])
def test_a_batch_without_a_step_is_forgotten_on_request_and_noticed_without(tmp_path: Path, way: str) -> None:
    """The loop passes over its third batch, whose loss it does not like; no checkpoint is near."""
    model, optimizer = make()
    passed_over = (
        pytest.raises(RecordingError, match=r"step 2: .*recorder\.discard\(\)") if way == "nothing" else nullcontext()
    )
    with passed_over, Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
        for k in range(5):
            x, y = data(8)
            recorder.batch(x + k, y)
            optimizer.zero_grad()
            loss = LOSS(model(x + k), y)
            if k == 2:
                if way == "discard":
                    recorder.discard()
                continue
            loss.backward()
            optimizer.step()
    run = open_run(tmp_path / "r")
    records = [run.record(k) for k in range(run.steps)]
    assert {len(r.micro_batches) for r in records} == {1}
    if way == "discard":
        assert [len(r.passed) for r in records] == [0, 0, 1, 0], "it moved the running statistics of batch norm"
        assert all(d.absolute == 0.0 for d in replay_drift(run, Problem(model, LOSS, device="cpu")))


def test_a_part_in_another_mode_than_the_model_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model[1].eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(UnsupportedError, match=r"step 0: 1 is in eval mode and the model is not.*train\(\)"),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        recorder.batch(X, Y)
        LOSS(model(X), Y).backward()
        optimizer.step()


def test_uneven_accumulation_is_told_from_a_forgotten_batch_where_buffers_move(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
        for micro in (2, 2, 1, 2, 3):
            optimizer.zero_grad()
            for _ in range(micro):
                recorder.batch(X, Y, weight=1 / micro)
                (LOSS(model(X), Y) / micro).backward()
            optimizer.step()
    assert open_run(tmp_path / "r").steps == 5


def clamp(model: nn.Module, _: object) -> None:
    for param in model.body.parameters():
        param.data.clamp_(-0.1, 0.1)


def train_more(model: nn.Module, _: object) -> None:
    model.frozen.data.sub_(0.1)


def swap_and_restore(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    kept = {n: t.clone() for n, t in model.state_dict().items()}
    clamp(model, optimizer)
    model.load_state_dict(kept)


def one_by_one(path: Path, between: Callable[[nn.Module, torch.optim.Optimizer], None], start: int = 0) -> None:
    """Four steps with a checkpoint every second one, and something done after each from `start` on."""
    model, optimizer = make()
    with Recorder(path, model, optimizer, LOSS, checkpoint_every=2) as recorder, recorder.stage("a"):
        for k in range(4):
            train(recorder, model, optimizer, 1)
            if k >= start:
                between(model, optimizer)


@pytest.mark.parametrize(("between", "name"), [(clamp, r"body\.0\.weight"), (train_more, "frozen")])
@pytest.mark.parametrize(("start", "found"), [(0, 1), (1, 3)])
def test_what_changes_parameters_beside_the_optimizer_is_stopped(
    tmp_path: Path, between: Callable[..., None], name: str, start: int, found: int
) -> None:
    with pytest.raises(RecordingError, match=rf"{name}.* changed between steps {found - 1} and {found}, outside"):
        one_by_one(tmp_path / "r", between, start)
    assert open_run(tmp_path / "r").steps == found


def test_parameters_may_be_swapped_for_others_and_back_between_steps(tmp_path: Path) -> None:
    with pytest.warns(
        RuntimeWarning, match=r"before step 2 something else .* wrote to body\.0\.weight, .* 4 more"
    ) as said:
        one_by_one(tmp_path / "r", swap_and_restore)
    assert len(said) == 1, "once a recording"
    run = open_run(tmp_path / "r")
    assert run.sealed
    assert all(d.absolute == 0.0 for d in replay_drift(run, Problem(make()[0], LOSS, device="cpu")))


def load_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict({n: t + 0.1 for n, t in model.state_dict().items()})


def load_momentum(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As many updates of each as it has made, of another size."""
    state = optimizer.state_dict()
    state["state"] = {
        k: {n: t if n == "step" else t * 0.5 for n, t in slots.items()} for k, slots in state["state"].items()
    }
    optimizer.load_state_dict(state)


def forget_momentum(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for slots in optimizer.state.values():
        slots["exp_avg"].zero_()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (load_weights, r"body\.0\.weight"),
        (load_momentum, "the optimizer's state"),
        (forget_momentum, r"exp_avg of body\.0\.weight"),
    ],
)
@pytest.mark.parametrize("after", [3, 4], ids=["no checkpoint near", "after a checked step"])
def test_what_is_written_into_what_trains_inside_a_stage_is_said_at_once(
    tmp_path: Path, change: Callable[..., None], name: str, after: int
) -> None:
    model, optimizer = make(torch.optim.AdamW, lr=0.01)
    said = rf"before step {after} something else than the optimizer's step wrote to {name}"
    loaded = change is load_weights and after == 4
    with (
        pytest.raises(RecordingError, match="changed between steps 3 and 4") if loaded else pytest.warns(match=said),
        Recorder(tmp_path / "r", model, optimizer, LOSS, checkpoint_every=3) as recorder,
        recorder.stage("a"),
    ):
        train(recorder, model, optimizer, after)
        change(model, optimizer)
        train(recorder, model, optimizer, 3)
    if not loaded:
        drifts = replay_drift(open_run(tmp_path / "r"), Problem(make()[0], LOSS, device="cpu"))
        assert not all(d.within_tolerance for d in drifts), "an auditor sees it, too"


def test_an_optimizer_that_is_changed_between_stages_shows_as_drift(tmp_path: Path) -> None:
    model, optimizer = make(torch.optim.SGD, lr=0.05, momentum=0.9)
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder:
        with recorder.stage("a"):
            train(recorder, model, optimizer, 4)
        for slots in optimizer.state.values():
            slots["momentum_buffer"].neg_()
        with recorder.stage("b"):
            train(recorder, model, optimizer, 4)
    run, problem = open_run(tmp_path / "r"), Problem(make()[0], LOSS, device="cpu")
    assert [d.within_tolerance for d in replay_drift(run, problem)] == [False, True]
    with pytest.raises(ReplayDriftError, match="up to step 4"):
        step_effects(run, problem, log_likelihood(X, Y).mean())


def test_models_that_write_to_their_own_parameters_are_not_warned_of(tmp_path: Path) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(9, 5, max_norm=0.5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.words(x.long().abs() % 9).mean(1))

    model = Normed()
    with torch.inference_mode():
        model.register_parameter("fixed", nn.Parameter(torch.zeros(3), requires_grad=False))
    optimizer = torch.optim.SGD([*model.words.parameters(), *model.out.parameters()], lr=0.1)
    with (
        warnings.catch_warnings(action="error"),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        train(recorder, model, optimizer, 4)


def test_dampened_momentum_that_starts_late_is_refused(tmp_path: Path) -> None:
    model, optimizer = make(torch.optim.SGD, dampening=0.3)
    with (
        pytest.raises(UnsupportedError, match="dampening"),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        train(recorder, model, optimizer, 2)
        optimizer.param_groups[0]["momentum"] = 0.9
        train(recorder, model, optimizer, 1)
    assert open_run(tmp_path / "r").steps == 2


@pytest.mark.parametrize(("lost", "match"), [("lost", "another gradient"), ("all lost", r"body\.0\.weight.* is None")])
def test_a_lost_gradient_is_refused(tmp_path: Path, lost: str, match: str) -> None:
    model, optimizer = make()
    with (
        pytest.raises(RecordingError, match=match),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        one_step(recorder, model, optimizer, lost)


X, Y = data(4)
WRONG_CALLS = {
    "outside a stage": lambda r, m, o: r.batch(X, Y),
    "step\\(\\) outside a stage": lambda r, m, o: o.step(),
    "same number of examples": lambda r, m, o: in_stage(r, lambda: r.batch(X, Y[:3])),
    "3 ids for 4 examples": lambda r, m, o: in_stage(r, lambda: r.batch(X, Y, ids=[1, 2, 3])),
    "ids must be given for every": lambda r, m, o: in_stage(r, lambda: (r.batch(X, Y, ids=range(4)), r.batch(X, Y))),
    "those of earlier": lambda r, m, o: in_stage(r, lambda: (r.batch(X, Y), r.batch(X.double(), Y))),
    "weight is nan": lambda r, m, o: in_stage(r, lambda: r.batch(X, Y, weight=math.nan)),
    "without a batch": lambda r, m, o: in_stage(r, o.step),
    "cannot be nested": lambda r, m, o: in_stage(r, lambda: in_stage(r, lambda: None)),
    "stage name ''": lambda r, m, o: in_stage(r, lambda: None, ""),
    "stage name 'a\\\\nb'": lambda r, m, o: in_stage(r, lambda: None, "a\nb"),
    "expected printable text": lambda r, m, o: in_stage(r, lambda: None, "x" * 201),
    "must be a JSON object": lambda r, m, o: in_stage(r, lambda: None, metadata={"x": object()}),
    "groups changed": lambda r, m, o: in_stage(r, lambda: (r.batch(X, Y), o.param_groups[0]["params"].pop(), o.step())),
}


def in_stage(recorder: Recorder, act: object, name: str = "s", **settings: object) -> None:
    with recorder.stage(name, **settings):  # type: ignore[arg-type]
        act()  # type: ignore[operator]


@pytest.mark.parametrize("message", WRONG_CALLS)
def test_a_wrong_call_is_refused_at_once_and_the_run_stays_readable(tmp_path: Path, message: str) -> None:
    model, optimizer = make()
    with pytest.raises(RecordingError, match=message), Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder:
        WRONG_CALLS[message](recorder, model, optimizer)
    assert open_run(tmp_path / "r").steps == 0


def test_a_closure_is_unsupported(tmp_path: Path) -> None:
    model, optimizer = make()
    with (
        pytest.raises(UnsupportedError, match="closure"),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        recorder.batch(X, Y)
        optimizer.step(lambda: 0.0)


def test_an_optimizer_reset_during_the_run_is_refused(tmp_path: Path) -> None:
    model, optimizer = make()
    with (
        pytest.raises(RecordingError, match="reset or loaded"),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
    ):
        with recorder.stage("a"):
            train(recorder, model, optimizer, 3)
        optimizer.load_state_dict(make()[1].state_dict())
        train_one = torch.optim.Adam(optimizer.param_groups[0]["params"])
        x, y = data()
        LOSS(model(x), y).backward()
        train_one.step()
        optimizer.load_state_dict(train_one.state_dict())
        with recorder.stage("b"):
            train(recorder, model, optimizer, 1)


def test_an_empty_stage_is_an_error_unless_another_one_is_under_way(tmp_path: Path) -> None:
    model, optimizer = make()
    with (
        pytest.raises(EmptyStageError, match="'a' closed without a step"),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        pass
    with (
        pytest.raises(ZeroDivisionError),
        Recorder(tmp_path / "s", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        raise ZeroDivisionError


def test_an_existing_path_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine.txt").write_text("precious")
    with pytest.raises(RunExistsError), Recorder(tmp_path / "r", *make(), LOSS):
        pass
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["mine.txt"]


def test_parameters_that_are_not_the_models_are_unsupported(tmp_path: Path) -> None:
    model, _ = make()
    with pytest.raises(UnsupportedError, match="not the model's"):
        Recorder(tmp_path / "r", model, torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1), LOSS)


MODELS_AS_THEY_CANNOT_BE_RECORDED = {
    r"record the one inside.*_orig_mod": lambda: torch.compile(make()[0], backend="eager"),
    "train in one process, on one device": lambda: nn.DataParallel(make()[0]),
    "0.weight has no shape yet": lambda: nn.Sequential(nn.LazyLinear(3)),
    "is a function, expected a torch.nn.Module": lambda: make,
}


@pytest.mark.parametrize("message", MODELS_AS_THEY_CANNOT_BE_RECORDED)
def test_a_model_that_cannot_be_replayed_is_refused_before_anything_is_written(tmp_path: Path, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        Recorder(tmp_path / "r", MODELS_AS_THEY_CANNOT_BE_RECORDED[message](), make()[1], LOSS)
    assert not (tmp_path / "r").exists()


def test_training_that_is_spread_over_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = make()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(UnsupportedError, match=r"DistributedDataParallel are split.*train in one process"):
            Recorder(tmp_path / "r", wrapped, optimizer, LOSS)
        Recorder(tmp_path / "r", model, optimizer, LOSS)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        with pytest.raises(UnsupportedError, match="Net are split"):
            Recorder(tmp_path / "r", model, optimizer, LOSS)
    finally:
        dist.destroy_process_group()


class Checkpointed(nn.Sequential):
    """Runs its layers again on the way back."""

    reentrant = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=self.reentrant)


class CheckpointedAsOnce(Checkpointed):
    reentrant = True


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (Checkpointed(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), X, "Linear runs forward once more.*checkpoint"),
        (
            nn.Sequential(nn.Linear(6, 5), CheckpointedAsOnce(nn.Linear(5, 3))),
            X,
            "part of the model runs forward.*train without it",
        ),
        (nn.Sequential(nn.EmbeddingBag(9, 3, sparse=True)), X.abs().long(), "0.weight is sparse.*sparse=False"),
    ],
)
def test_what_a_model_does_on_the_way_back_may_be_unsupported(
    tmp_path: Path, model: nn.Module, x: torch.Tensor, message: str
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(UnsupportedError, match=message),
        Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder,
        recorder.stage("a"),
    ):
        recorder.batch(x, Y)
        LOSS(model(x), Y).backward()
        optimizer.step()


class Pairs:
    """A dataset of (x, y) pairs."""

    def __init__(self, shift: float = 0.0) -> None:
        self.x, self.y = data()
        self.x = self.x + shift

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.x[index], int(self.y[index])


def test_referenced_examples_are_fetched_and_verified(tmp_path: Path) -> None:
    stored = record(tmp_path / "stored")
    record(tmp_path / "r", dataset=DatasetReference("pairs", Pairs()))
    run = open_run(tmp_path / "r", datasets={"pairs": Pairs()})
    for a, b in zip(run.step_input(9, CPU).batches, stored.step_input(9, CPU).batches, strict=True):
        assert torch.equal(a[0].inputs, b[0].inputs) and torch.equal(a[0].targets, b[0].targets)
    assert set(layout((tmp_path / "r/data/0.safetensors").read_bytes(), "data").tensors) == {"digest", "ids"}
    without = open_run(tmp_path / "r")
    assert len(without.log_frame()) == 12 and without.example_ids(torch.tensor([3])) == [3]
    with pytest.raises(MissingDataError, match=r"datasets=\{'pairs'"):
        without.step_input(0, CPU)
    with pytest.raises(MissingDataError, match="example 0 is not the one"):
        open_run(tmp_path / "r", datasets={"pairs": Pairs(1e-3)}).step_input(0, CPU)
    with pytest.raises(MissingDataError, match="does not give"):
        open_run(tmp_path / "r", datasets={"pairs": {}}).step_input(0, CPU)


def test_a_reordered_dataset_is_refused_by_whatever_computes(tmp_path: Path) -> None:
    record(tmp_path / "r", dataset=DatasetReference("pairs", Pairs()))
    swapped, order = Pairs(), [0, 1, 2, 3, 5, 4, *range(6, 32)]
    swapped.x, swapped.y = swapped.x[order], swapped.y[order]
    run, problem = open_run(tmp_path / "r", datasets={"pairs": swapped}), Problem(Net(), LOSS, device="cpu")
    assert len(run.log_frame()) == 12 and run.evaluation is not None and check_files(run).findings == ()
    gamma, skipped = log_likelihood(run.evaluation.x, run.evaluation.y), Counterfactual.skip("first")
    for compute in (
        lambda: check_run(run, problem),
        lambda: stage_effects(run, problem, gamma, cache=EmbeddingCache(None)),
        lambda: step_effects(run, problem, gamma.mean()),
        lambda: estimate(run, problem, skipped, gamma),
        lambda: retrain(run, problem, skipped),
    ):
        with pytest.raises(MissingDataError, match="example 4 is not the one that was trained on"):
            compute()


def test_a_reference_to_another_dataset_is_refused_while_recording(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"dataset\[0\] is not the example"):
        record(tmp_path / "r", dataset=DatasetReference("pairs", Pairs(1.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": pd.DataFrame({"g": [1]})}, "1 rows for 4"),
        ({"metadata": pd.DataFrame({"g": [[1], [2], [3], [4]]})}, "column 'g'"),
        ({"metadata": pd.DataFrame({"g": [1.0, 2.0, math.inf, 3.0]})}, "finite"),
        ({"y": Y[:2]}, "same number"),
        ({"class_names": "abc"}, "class_names"),
        ({"display": {"kind": "film"}}, "display"),
    ],
)
def test_an_evaluation_set_that_could_not_be_read_back_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Evaluation(**({"x": X, "y": Y} | change))
