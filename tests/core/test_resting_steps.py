"""Batches that no step was taken with, at the end of a stage: what else a recording may do around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import aa_core as aa
from aa_core.errors import ReplayDriftError
from aa_core.replay import prepare, reverse, verify_once
from aa_core.runs.curves import read_curves
from aa_core.state import nbytes
from tests import zoo
from tests.recorded import as_killed

STAGES = (("a", 4), ("b", 3))


class Normalised(nn.Module):
    """Moves running statistics, and the count of an observer whatever mode it is in."""

    def __init__(self, observed: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(zoo.FEATURES, 9, bias=False), nn.BatchNorm1d(9)
        self.last, self.drop = nn.Linear(9, zoo.CLASSES), nn.Dropout(0.3 if observed else 0.0)
        self.register_buffer("largest", torch.zeros(9) if observed else None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x))
        if self.largest is not None:
            self.largest.add_(self.drop(h).detach().abs().amax(0))
        return self.last(self.drop(h.tanh()))


def made(observed: bool = False) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = Normalised(observed)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Loop:
    """Steps, and batches that none is taken with."""

    def __init__(self, recorder: aa.Recorder, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.recorder, self.model, self.optimizer, self.k = recorder, model, optimizer, 0

    def forward(self) -> Tensor:
        x, y = zoo.examples(8, seed=self.k, dtype=torch.float32)
        self.k += 1
        self.recorder.batch(x, y)
        return zoo.cross_entropy(self.model(x), y)

    def steps(self, n: int) -> None:
        for _ in range(n):
            self.optimizer.zero_grad()
            self.forward().backward()
            self.optimizer.step()

    def passes(self, n: int = 1) -> None:
        for _ in range(n):
            self.forward()
            self.recorder.discard()


def problem(observed: bool = False) -> aa.Problem:
    return aa.Problem(made(observed)[0], zoo.cross_entropy, device="cpu")


def exact(run: aa.Trajectory, observed: bool = False) -> bool:
    return all(d.absolute == 0.0 for d in aa.replay_drift(run, problem(observed)))


def record(path: Path, every: int = 3, after: Callable[[int], object] = lambda number: None) -> aa.Trajectory:
    """`after` is called after each stage."""
    model, optimizer = made()
    with aa.Recorder(path, model, optimizer, zoo.cross_entropy, checkpoint_every=every) as recorder:
        loop = Loop(recorder, model, optimizer)
        for number, (stage, steps) in enumerate(STAGES):
            with recorder.stage(stage):
                loop.steps(steps)
                loop.passes(2)
            after(number)
    return aa.open_run(path)


@pytest.mark.parametrize("stopped", [0, 1], ids=["after the first stage", "after the last"])
def test_a_recording_that_stopped_after_a_resting_step_goes_on(tmp_path: Path, stopped: int) -> None:
    whole = record(
        tmp_path / "whole", after=lambda n: as_killed(tmp_path / "whole", tmp_path / "killed") if n == stopped else None
    )
    model, optimizer = made()
    with aa.Recorder(
        tmp_path / "killed", model, optimizer, zoo.cross_entropy, checkpoint_every=3, if_exists="resume"
    ) as recorder:
        loop = Loop(recorder, model, optimizer)
        loop.k = 6
        for number, (stage, steps) in enumerate(STAGES):
            with recorder.stage(stage):
                if number > stopped:
                    loop.steps(steps)
                    loop.passes(2)
    assert aa.open_run(tmp_path / "killed").digest == whole.digest


def test_averages_count_steps_and_not_what_rests(tmp_path: Path) -> None:
    model, optimizer = made()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    averaging = aa.Averaging(average, 0.8, every=2)
    with aa.Recorder(
        tmp_path / "r", model, optimizer, zoo.cross_entropy, checkpoint_every=3, averaging=averaging
    ) as recorder:
        loop, taken = Loop(recorder, model, optimizer), 0
        for stage in ("a", "b"):
            with recorder.stage(stage):
                for _ in range(5):
                    loop.steps(1)
                    taken += 1
                    if taken % 2 == 0:
                        average.update_parameters(model)
                loop.passes()
    assert exact(aa.open_run(tmp_path / "r"))


def test_weights_may_be_restored_after_a_batch_that_is_passed_over(tmp_path: Path) -> None:
    model, optimizer = made()
    with aa.Recorder(tmp_path / "r", model, optimizer, zoo.cross_entropy) as recorder, recorder.stage("a"):
        loop = Loop(recorder, model, optimizer)
        loop.steps(4)
        kept = {n: p.clone() for n, p in model.named_parameters()}
        loop.passes()
        model.load_state_dict(kept, strict=False)
        with pytest.warns(RuntimeWarning, match="before step 4"):
            loop.steps(3)
    assert exact(aa.open_run(tmp_path / "r"))


def test_no_state_is_kept_of_what_passed_when_a_loop_breaks_off(tmp_path: Path) -> None:
    model, optimizer = made()
    with pytest.raises(KeyboardInterrupt), aa.Recorder(tmp_path / "r", model, optimizer, zoo.cross_entropy) as recorder:
        loop = Loop(recorder, model, optimizer)
        with recorder.stage("a"):
            loop.steps(4)
            loop.passes()
            raise KeyboardInterrupt
    run = aa.open_run(tmp_path / "r")
    assert (run.steps, run.checkpoints) == (4, (0,))


def test_what_passes_in_evaluation_mode_is_replayed_in_it(tmp_path: Path) -> None:
    model, optimizer = made(observed=True)
    with aa.Recorder(tmp_path / "r", model, optimizer, zoo.cross_entropy, checkpoint_every=3) as recorder:
        loop = Loop(recorder, model, optimizer)
        for stage in ("a", "b"):
            with recorder.stage(stage):
                loop.steps(4)
                model.eval()
                loop.passes(3)
            model.train()
    run = aa.open_run(tmp_path / "r")
    assert not run.record(4).training and exact(run, observed=True)


def test_the_segment_that_is_looked_at_has_a_step_that_updates(tmp_path: Path) -> None:
    run = record(tmp_path / "r")
    assert run.checkpoints == (0, 3, 5, 8, 9), "the shortest segment is a resting step alone"
    other = aa.Problem(made()[0], lambda outputs, y: 5 * zoo.cross_entropy(outputs, y), device="cpu")
    with pytest.raises(ReplayDriftError):
        verify_once(run, prepare(run, other))


def test_the_memory_of_graphs_is_measured_on_a_step_that_has_one(tmp_path: Path) -> None:
    run = record(tmp_path / "r")
    training, small = prepare(run, problem()), 3 * nbytes(run.load(0))
    assert run.checkpoints == (0, 3, 5, 8, 9), "the sweep begins with a resting step alone"
    assert training.graph_bytes(run.load(8), run.step_input(8, torch.device("cpu")), "exact") == 0
    without = [t.propagator is None for t in reverse(run, training, 0, run.steps, small, "exact")]
    assert all(without), "room for the states of a segment, and none for graphs"
    assert not any(t.propagator is None for t in list(reverse(run, training, 0, run.steps, 1 << 30, "exact"))[1:])


def test_the_log_has_no_gradient_norm_where_there_was_no_gradient(tmp_path: Path) -> None:
    run = record(tmp_path / "r")
    norms, curves = run.log_frame()["grad_norm"], read_curves(tmp_path / "r")
    assert curves is not None and curves.log.equals(run.log_frame())
    assert norms.isna().tolist() == [not run.record(k).micro_batches for k in range(run.steps)]
    assert run.first_nonfinite is None
