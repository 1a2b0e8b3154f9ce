"""The documents do what they say: their examples run."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import aa_core as aa
from aa_core.state import leaves
from tests import zoo

ROOT = Path(__file__).resolve().parents[1]


def test_every_question_of_the_what_if_page_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = zoo.mlp().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    built = zoo.mlp().double()
    with aa.Recorder(tmp_path / "run", model, optimizer, zoo.cross_entropy) as recorder:
        for stage in ("pretrain", "finetune"):
            with recorder.stage(stage):
                for k in range(4):
                    x, y = zoo.examples(8, seed=k)
                    recorder.batch(x, y)
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "what-if.md").read_text(), re.DOTALL)
    problem = aa.Problem(built, zoo.cross_entropy, device="cpu")
    names = {"aa": aa, "run": aa.open_run(tmp_path / "run"), "problem": problem}
    exec(code, names | {"gamma": aa.log_likelihood(*zoo.examples(5, seed=9))})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == code.count("    ask") and printed[0].startswith("skip finetune")
    assert any(line.startswith("finetune with lr cosine 0.05 to 0") for line in printed)


def test_the_head_and_the_optimizer_of_the_training_page_come_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(zoo.FEATURES, 7))
    model.add_module("head", nn.Linear(7, 9))

    def train(recorder: aa.Recorder, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for k in range(3):
            x, y = zoo.examples(8, seed=k, dtype=torch.float32)
            recorder.batch(x, y)
            optimizer.zero_grad()
            zoo.cross_entropy(model(x), y).backward()
            optimizer.step()

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)
    x, y = zoo.examples(5, seed=9, dtype=torch.float32)
    names = {"copy": copy, "torch": torch, "model": model, "train": train, "loss_fn": zoo.cross_entropy}
    names |= {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "x_test": x, "y_test": y}
    exec(code, names)
    effects = names["effects"]
    assert isinstance(effects, aa.Attribution) and list(effects.units["stage"]) == ["pretrain", "new head"]
    run, problem = names["run"], names["problem"]
    assert isinstance(run, aa.Trajectory) and isinstance(problem, aa.Problem)
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, problem))


def test_the_script_of_the_resuming_page_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "resuming.md").read_text(), re.DOTALL)
    x, y = zoo.examples(100, seed=1, dtype=torch.float32)
    calls: list[int] = []

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Dropout(0.2), zoo.mlp())
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    def loss_fn(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return zoo.cross_entropy(outputs, targets)

    names = {"aa": aa, "torch": torch, "build": build, "loss_fn": loss_fn, "x": x, "y": y}
    ends = []
    for folder, stop in (("whole", -1), ("stopped", 11)):
        (tmp_path / folder).mkdir()
        calls.clear()
        monkeypatch.chdir(tmp_path / folder)
        if stop > 0:
            with pytest.raises(KeyboardInterrupt):
                exec(code, names)
            assert 0 < aa.open_run("runs/long").steps < 10
        stop = -1
        exec(code, names)
        ends.append(aa.open_run("runs/long"))
    assert all(torch.equal(a, b) for a, b in zip(*(leaves(run.load(10).state) for run in ends), strict=True))


def test_each_test_that_a_promise_names_exists() -> None:
    page = (ROOT / "docs" / "trust.md").read_text()
    known = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    promises = re.findall(r"^\| (.+) \| (.+) \|$", page.partition("## Not promised")[0], re.MULTILINE)[1:]
    assert len(promises) > 20
    for promise, shown in promises:
        named = re.findall(r"`([^`]*\.py)?(?:::(\w+))?`", shown)
        assert named, promise
        file = ""
        for path, test in named:
            file = path or file
            place = ROOT / file if "/" in file else known.get(file)
            assert place is not None and place.is_file(), f"{file}: no such file ({promise})"
            assert f"def {test}(" in place.read_text() or not test, f"{file} has no {test} ({promise})"
