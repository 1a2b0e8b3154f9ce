"""A real Lightning Trainer, recorded by its callback: replayed to the bit, differentiated, refused by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import aa_core as aa
from aa_core.errors import EmptyStageError, MissingExtraError, RecordingError, UnsupportedError
from aa_core.integrations.lightning import LightningRecorder
from aa_core.runs.trajectory import Trajectory
from tests import zoo
from tests.core.cases import memory_cache

pl = pytest.importorskip("pytorch_lightning", reason="needs the extra 'lightning'")


class Lit(pl.LightningModule):
    """Batch norm, dropout, a learning rate that changes at every step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        body = [nn.Linear(zoo.FEATURES, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, zoo.CLASSES)]
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return zoo.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("validation loss", zoo.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.03)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def loader(shuffle: bool = True) -> Any:
    x, y = zoo.examples(24, seed=1, dtype=torch.float32)
    return DataLoader(TensorDataset(x, y, torch.arange(24)), batch_size=4, shuffle=shuffle)


def fit(module: Any, recorder: LightningRecorder | None, **settings: Any) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"max_epochs": 2, "accelerator": "cpu", "enable_model_summary": False, **quiet, **settings}
    torch.manual_seed(1)
    trainer = pl.Trainer(**settings, callbacks=[recorder.callback] if recorder else [])
    trainer.fit(module, loader(), loader(shuffle=False))


def record(path: Path, module: Any, **settings: Any) -> Trajectory:
    with (
        LightningRecorder(path / "run", zoo.cross_entropy, ids=lambda batch: batch[2], checkpoint_every=1) as recorder,
        recorder.stage(lambda trainer: f"epoch {trainer.current_epoch + 1}"),
    ):
        fit(module, recorder, **settings)
    return aa.open_run(path / "run")


SETTINGS = {
    "plain": {},
    "bf16": {"precision": "bf16-mixed", "gradient_clip_val": 0.3},
    "accumulated": {"accumulate_grad_batches": 4},
    "clipped by norm": {"gradient_clip_val": 0.3},
    "clipped by value, accumulated": {
        "gradient_clip_val": 0.05,
        "gradient_clip_algorithm": "value",
        "accumulate_grad_batches": 3,
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_replay_is_the_recording_to_the_bit(name: str, tmp_path: Path) -> None:
    run = record(tmp_path, Lit(), **SETTINGS[name])
    drifts = aa.replay_drift(run, aa.Problem(Lit(), zoo.cross_entropy))
    assert len(drifts) == run.steps > 0 and all(d.absolute == 0.0 for d in drifts)
    half = run.steps // 2
    assert [(s.name, s.blocks) for s in run.stages] == [("epoch 1", ((0, half),)), ("epoch 2", ((half, 2 * half),))]
    assert run.example_ids(torch.arange(4)) is not None


def test_training_is_not_disturbed(tmp_path: Path) -> None:
    watched, alone = Lit(), Lit()
    record(tmp_path, watched, gradient_clip_val=0.3)
    fit(alone, None, gradient_clip_val=0.3)
    for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_effects_are_the_derivative_of_real_training(tmp_path: Path) -> None:
    module = Lit()
    module.body[1], module.body[3] = nn.Identity(), nn.Identity()
    run, problem = record(tmp_path, module), aa.Problem(module, zoo.cross_entropy)
    gamma = aa.log_likelihood(*zoo.examples(20, seed=9, dtype=torch.float32)).mean()
    found = aa.stage_effects(run, problem, gamma, method="additive", cache=memory_cache()).effects[:, 0]
    as_recorded = aa.final_model(run, problem).performance(gamma)
    for stage, effect in zip(("epoch 1", "epoch 2"), found, strict=True):
        nearly = aa.retrain(run, problem, aa.Counterfactual((stage,), scale=1 - 1e-2)).performance(gamma)
        assert float(as_recorded - nearly) / 1e-2 == pytest.approx(float(effect), rel=0.03)


def test_a_part_of_the_module_can_be_what_is_recorded(tmp_path: Path) -> None:
    settings = {"model": lambda module: module.body, "read": lambda batch: (batch[0], batch[1])}
    with LightningRecorder(tmp_path / "run", zoo.cross_entropy, **settings) as recorder, recorder.stage("a"):
        fit(Lit(), recorder)
    run = aa.open_run(tmp_path / "run")
    assert "0.weight" in run.load(0).state.params
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, aa.Problem(Lit().body, zoo.cross_entropy)))


def test_every_fit_begins_with_an_optimizer_of_its_own(tmp_path: Path) -> None:
    module = Lit()
    with LightningRecorder(tmp_path / "run", zoo.cross_entropy, checkpoint_every=1) as recorder:
        for name in ("a", "b"):
            with recorder.stage(name):
                fit(module, recorder)
        with recorder.stage("c"):
            module.body[0].requires_grad_(False)
            fit(module, recorder)
    run = aa.open_run(tmp_path / "run")
    assert [(s.name, s.blocks) for s in run.stages] == [("a", ((0, 12),)), ("b", ((12, 24),)), ("c", ((24, 36),))]
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, aa.Problem(Lit(), zoo.cross_entropy)))


class ByHand(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Twice(Lit):
    def training_step(self, batch: Any, index: int) -> Tensor:
        return 2 * super().training_step(batch, index)


def test_what_cannot_be_repeated_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="manual optimization"):
        record(tmp_path / "a", ByHand())
    with pytest.raises(UnsupportedError, match="precision bf16-true"):
        record(tmp_path / "b", Lit(), precision="bf16-true")
    with pytest.raises(RecordingError, match="relative difference"):
        record(tmp_path / "c", Twice())


def test_a_stage_without_training_is_noticed(tmp_path: Path) -> None:
    with (
        LightningRecorder(tmp_path / "run", zoo.cross_entropy) as recorder,
        pytest.raises(EmptyStageError, match="callback"),
        recorder.stage("a"),
    ):
        fit(Lit(), None)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(MissingExtraError, match=r"accountability-audit\[lightning\]"):
        _ = LightningRecorder(tmp_path / "run", zoo.cross_entropy).callback
