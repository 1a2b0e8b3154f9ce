"""The examples of docs/integrations.md run as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import aa_core as aa
from aa_core.cli import app
from aa_core.integrations.transformers import TrainerRecorder
from tests import kinds, zoo

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "integrations.md").read_text()
TRANSFORMERS, REBUILT, LIGHTNING, OWN = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **names: Any) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    exec(code, names)
    return names


def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")
    settings = {"max_steps": 3, "optim": "adamw_torch", "report_to": [], "save_strategy": "no", "use_cpu": True}
    rows = [{"input_ids": words, "labels": words} for words in kinds.texts(9, seed=1)[0]]
    held_out = kinds.texts(2, seed=2)[0]
    names = run(
        TRANSFORMERS,
        tmp_path,
        monkeypatch,
        transformers=transformers,
        model=kinds.gpt2(),
        arguments=transformers.TrainingArguments(str(tmp_path / "out"), disable_tqdm=True, **settings),
        news=rows[:5],
        stories=rows[5:],
        held_out={"input_ids": held_out, "labels": held_out},
    )
    assert [(s.name, len(s)) for s in names["run"].stages] == [("news", 3), ("stories", 3)]
    assert names["effects"].effects.shape == (2, 2) and bool((names["effects"].effects != 0).all())


def test_a_model_rebuilt_for_the_command_line(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")
    config = {"vocab_size": kinds.WORDS, "n_positions": kinds.TOKENS, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model, words = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)), kinds.texts(6, seed=1)[0]
    settings = {"max_steps": 2, "optim": "adamw_torch", "report_to": [], "save_strategy": "no", "use_cpu": True}
    arguments = transformers.TrainingArguments(str(tmp_path / "out"), disable_tqdm=True, **settings)
    evaluation = aa.Evaluation({"input_ids": words[:, :-1]}, words[:, 1:])
    with TrainerRecorder(tmp_path / "run", evaluation=evaluation, config=config) as recorder, recorder.stage("a"):
        rows = [{"input_ids": w, "labels": w} for w in words]
        transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[recorder.callback]).train()
    (tmp_path / "gpt2_problem.py").write_text(REBUILT)
    for command in (["check"], ["effects", "--format", "json"]):
        asked = [*command, str(tmp_path / "run"), "--problem", str(tmp_path / "gpt2_problem.py")]
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 0, result.output


def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl = pytest.importorskip("pytorch_lightning", reason="needs the extra 'lightning'")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = zoo.mlp()

        def forward(self, x: Any) -> Any:
            return self.body(x)

        def training_step(self, batch: Any, index: int) -> Any:
            return zoo.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monkeypatch.setattr(pl.Trainer, "__init__", quietly(pl.Trainer.__init__))
    x, y = zoo.examples(12, seed=1, dtype=torch.float32)
    loader, module = DataLoader(TensorDataset(x, y), batch_size=4), Module()
    tests = {"x_test": x, "y_test": y}
    names = run(
        LIGHTNING, tmp_path, monkeypatch, pl=pl, module=module, loader=loader, loss_fn=zoo.cross_entropy, **tests
    )
    assert names["run"].steps == 3 and names["effects"].effects.shape == (1, 12)


def quietly(init: Any) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return lambda self, **settings: init(self, **settings, **quiet)


def test_a_loop_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = kinds.gpt2()
    batches = [(words[:, :-1], words[:, 1:]) for words in (kinds.texts(4, seed)[0] for seed in range(3))]
    loss_fn, optimizer = kinds.cross_entropy, torch.optim.AdamW(model.parameters())
    run(OWN, tmp_path, monkeypatch, model=model, optimizer=optimizer, loss_fn=loss_fn, batches=batches)
    recorded = aa.open_run(tmp_path / "runs" / "own")
    assert recorded.steps == 3 and all(d.absolute == 0.0 for d in aa.replay_drift(recorded, aa.Problem(model, loss_fn)))
