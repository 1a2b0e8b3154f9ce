"""A recording that stopped goes on, and ends as the one that did not: every file the same, to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.errors import (
    RecordingError,
    ReplayDriftError,
    RequestError,
    RunBusyError,
    RunExistsError,
    UnsupportedError,
)
from aa_core.integrations.transformers import TrainerRecorder
from aa_core.recording import writer
from aa_core.recording.resume import scaler_state
from aa_core.records import MicroBatch, Precision, StepRecord
from tests import zoo
from tests.core.resume_case import KINDS, THOROUGH, Kind, Training, matrices
from tests.core.test_more_rules import Lion
from tests.core.test_more_rules import registered as registered  # Lion is known
from tests.recorded import Late, as_killed


@pytest.mark.parametrize("late", [False, True], ids=["", "commits underway"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_that_stopped_anywhere_ends_as_one_that_did_not(
    kind: str, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(k: int) -> None:
        at = aa.open_run(as_killed(tmp_path / "whole", tmp_path / f"{k}"))
        underway.append(at.chain.journal.underway is not None)
        assert at.steps == k + 1 or KINDS[kind].spoil

    if late:
        monkeypatch.setattr(writer, "ThreadPoolExecutor", Late)
    whole, underway = Training(KINDS[kind], seed=0), list[bool]()
    digest = whole.run(tmp_path / "whole", keep)
    assert not late or sum(underway) >= 5, "commits are underway when it stops"
    for k in range(14) if kind in THOROUGH else (1, 4, 7, 10):
        again = Training(KINDS[kind], seed=1 + k)
        assert again.run(tmp_path / f"{k}") == digest, f"stopped after batch {k}"
    if whole.average is not None:
        assert again.average is not None and int(again.average.n_averaged) == int(whole.average.n_averaged) == 14
    if whole.scaler is not None:
        assert again.scaler is not None and again.scaler.state_dict() == whole.scaler.state_dict()


def test_a_recording_can_stop_again_and_again(tmp_path: Path) -> None:
    def stop_after(number: int) -> None:
        """The recording `number`, a copy of how the one before stood after one more step."""
        first = Training(KINDS["AdamW, float32"], number)
        first.run(
            tmp_path / f"{number}",
            lambda k: as_killed(tmp_path / f"{number}", tmp_path / f"{k + 1}") if k == number else None,
        )

    for number in range(14):
        stop_after(number)
    assert len({aa.open_run(tmp_path / f"{number}").digest for number in range(14)}) == 1


def taken(scale: float) -> StepRecord:
    micro = MicroBatch(torch.tensor([0]), 1.0)
    return StepRecord(0, "a", ({},), (micro,), True, 0.0, 0.0, precision=Precision(scale=scale))


def test_a_scaler_is_what_it_would_have_been() -> None:
    """Against torch's own, over overflows in every pattern of eight attempts."""
    p = nn.Parameter(torch.zeros(1))
    for pattern in range(2**8):
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=3)
        start, steps, optimizer = scaler.state_dict(), list[StepRecord](), torch.optim.SGD([p], lr=0.1)
        for k in range(8):
            scaler.scale(p.sum())
            if not pattern >> k & 1:
                steps.append(taken(scaler.get_scale()))
            p.grad = torch.full((1,), torch.inf if pattern >> k & 1 else 0.0)
            scaler.step(optimizer)
            scaler.update()
            if not pattern >> k & 1:
                assert scaler_state(steps, start) == scaler.state_dict()
            else:
                at_rest = taken(scaler.get_scale())._replace(micro_batches=())
                assert scaler_state([*steps, at_rest], start) == scaler.state_dict(), "the stage may end here"


class Phases:
    """A new optimizer, and a head that begins anew, after the first five steps."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = zoo.mlp()
        self.first = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.second = torch.optim.AdamW(self.model[2].parameters(), lr=0.01)

    def run(self, path: Path, after: Callable[[int], object] = lambda k: None, phase: int = 0) -> str:
        optimizer = self.second if phase else self.first
        with aa.Recorder(
            path, self.model, optimizer, zoo.cross_entropy, checkpoint_every=3, if_exists="resume"
        ) as recorder:
            if not phase:
                with recorder.stage("a"):
                    self.steps(recorder, self.first, range(recorder.steps, 5), after)
                self.model[2].reset_parameters()
            with recorder.stage("b", optimizer=self.second, reset=["2.weight", "2.bias"]):
                self.steps(recorder, self.second, range(max(recorder.steps, 5), 10), after)
        return aa.open_run(path).digest

    def steps(
        self, recorder: aa.Recorder, optimizer: torch.optim.Optimizer, steps: range, after: Callable[[int], object]
    ) -> None:
        for k in steps:
            x, y = zoo.examples(8, seed=k, dtype=torch.float32)
            recorder.batch(x, y)
            after(100 + k)
            optimizer.zero_grad()
            zoo.cross_entropy(self.model(x), y).backward()
            optimizer.step()
            after(k)


def test_a_recording_goes_on_in_the_phase_in_which_it_stopped(tmp_path: Path) -> None:
    """After every step, and after the commit before it, where the log announces the phase already."""
    whole = Phases(0).run(tmp_path / "whole", lambda k: as_killed(tmp_path / "whole", tmp_path / f"{k}"))
    for k in [*range(10), *range(101, 110)]:
        phase = len(aa.open_run(tmp_path / f"{k}").phases) - 1
        assert phase == (k % 100 > 4 or k == 105)
        assert Phases(1 + k).run(tmp_path / f"{k}", phase=phase) == whole, f"stopped after {k}"


def test_a_recording_does_not_go_on_with_what_trained_in_another_phase(tmp_path: Path) -> None:
    Phases(0).run(tmp_path / "whole", lambda k: as_killed(tmp_path / "whole", tmp_path / f"{k}"))
    with pytest.raises(RecordingError, match="optimizer: SGD, recorded is AdamW"):
        Phases(1).run(tmp_path / "7")
    later = Phases(1)
    with (
        pytest.raises(RecordingError, match=r"stopped before step 3, inside stage 'a': make the Recorder with"),
        aa.Recorder(tmp_path / "2", later.model, later.first, zoo.cross_entropy, if_exists="resume") as recorder,
        recorder.stage("a", optimizer=later.second),
    ):
        later.steps(recorder, later.second, range(3, 5), lambda k: None)


# ---- where it cannot go on -------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Eleven steps, two of them since the last checkpoint."""

    def keep(k: int) -> None:
        if k == 10:
            as_killed(tmp_path / "whole", tmp_path / "stopped")

    Training(KINDS["SGD with momentum, float32"], 0).run(tmp_path / "whole", keep)
    return tmp_path / "stopped"


def test_all_that_differs_from_the_recording_is_listed(stopped: Path) -> None:
    model = nn.Sequential(nn.Linear(zoo.FEATURES, 3))
    optimizer = torch.optim.Adam(model.parameters())
    with (
        pytest.raises(RecordingError) as caught,
        aa.Recorder(stopped, model, optimizer, nn.MSELoss(), title="other", if_exists="resume"),
    ):
        pass
    said = str(caught.value)
    for part in ("title: other", "model_class: torch", "parameters: ", "optimizer: Adam, recorded is SGD", "loss: "):
        assert part in said, said
    assert Training(KINDS["SGD with momentum, float32"], 5).run(stopped) == aa.open_run(stopped).digest


def test_a_machine_that_would_round_differently_is_refused(stopped: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with pytest.raises(RecordingError, match=r"environment\.threads"):
            Training(KINDS["SGD with momentum, float32"], 5).run(stopped)
    finally:
        torch.set_num_threads(before)


def test_a_sealed_run_and_a_folder_of_something_else_are_refused(tmp_path: Path, stopped: Path) -> None:
    with pytest.raises(RunExistsError, match="sealed"):
        Training(Kind(), 0).run(tmp_path / "whole")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(RunExistsError, match=r"no run, but it holds 'thesis\.tex'"):
        Training(Kind(), 0).run(tmp_path / "other")
    with pytest.raises(RunExistsError, match="not overwritten"), aa.Recorder(stopped, *plain(), zoo.cross_entropy):
        pass


def plain() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = zoo.mlp()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_recorder_at_work_is_not_followed_by_a_second_one(tmp_path: Path) -> None:
    def second(k: int) -> None:
        with pytest.raises(RunBusyError, match="another recorder"):
            Training(Kind(), 0).run(tmp_path / "r")

    Training(Kind(), 0).run(tmp_path / "r", second)
    assert aa.open_run(tmp_path / "r").steps == 14


def test_without_its_journal_it_is_not_known_how_the_generators_stood(stopped: Path) -> None:
    shutil.rmtree(stopped / "journal")
    with pytest.raises(RecordingError, match="generators after the last step are not there"):
        Training(Kind(), 0).run(stopped)


def test_an_optimizer_whose_state_cannot_be_written_is_refused(tmp_path: Path) -> None:
    kind = Kind(lambda p: Lion(p, lr=0.01), model=matrices)
    with pytest.raises(KeyboardInterrupt):
        Training(kind, 0).run(tmp_path / "r", interrupt)
    with pytest.raises(UnsupportedError, match=r"Lion cannot be resumed.*write="):
        Training(kind, 0).run(tmp_path / "r")


def interrupt(k: int) -> None:
    if k == 6:
        raise KeyboardInterrupt


class Fickle(nn.Module):
    """Computes by what a script sets on it, which no recording knows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.sign = nn.Linear(zoo.FEATURES, zoo.CLASSES), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.sign


def test_steps_that_cannot_be_replayed_are_not_built_upon(tmp_path: Path) -> None:
    kind = Kind(model=Fickle)
    whole = Training(kind, 0)

    def keep(k: int) -> None:
        whole.model.sign = 2.0
        if k == 7:
            as_killed(tmp_path / "whole", tmp_path / "stopped")

    whole.run(tmp_path / "whole", keep)
    with pytest.raises(ReplayDriftError, match="step 7, replayed, has a gradient of norm"):
        Training(kind, 0).run(tmp_path / "stopped")


def test_a_framework_resumes_by_its_own_state(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot resume"):
        TrainerRecorder(tmp_path / "r", if_exists="resume")
