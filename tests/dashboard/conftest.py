"""Runs to look at, and screens to look at them with, without a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from streamlit import config
from streamlit.testing.v1 import AppTest
from torch import nn

import aa_core as aa
from aa_core.jobs.worker import work
from dashboard.screens import SCREENS
from sample_runs.problems import DigitsMLP

SAMPLES = Path(__file__).resolve().parents[2] / "sample_runs"
HOSTILE = "<img src=x onerror=alert(1)> **bold** [a](http://evil.example) :red[x] $y$ \u202e"
CLASSES = [f"{HOSTILE} {i}" for i in range(10)]
Open = Callable[..., AppTest]
VIEWS = tuple(view.__name__.rpartition(".")[2] for view, _, _ in SCREENS)
"""All screens, by the names of their modules."""

config.set_option("server.address", "127.0.0.1")  # a screen without a server is this machine's own, too


def record(
    path: Path,
    *,
    evaluation: bool = True,
    title: str = HOSTILE,
    words: str = HOSTILE,
    confounder: list[int] | None = None,
    lr: float = 0.01,
) -> None:
    """Twelve steps in two stages; every string of the run is `words`."""
    torch.manual_seed(0)
    model, loss_fn = DigitsMLP(hidden=8), nn.functional.cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    x, y = torch.randint(0, 256, (40, 8, 8), dtype=torch.uint8), torch.arange(40) % 10
    metadata = pd.DataFrame(
        {f"column {words.strip()}"[:40].rstrip("\u202e"): [words, "plain"] * 20, "confidence": range(40)}
    )
    if confounder:
        metadata["site"] = confounder
    judged = aa.Evaluation(
        x,
        y,
        metadata=metadata,
        class_names=[f"{words} {i}" for i in range(10)],
        display={"kind": "image", "shape": [8, 8]},
    )
    with aa.Recorder(
        path,
        model,
        optimizer,
        loss_fn,
        evaluation=judged if evaluation else None,
        title=title,
        problem="digits-mlp",
        config={"hidden": 8},
    ) as recorder:
        for part in ("one", "two"):
            with recorder.stage(f"{part} {words}".replace("\u202e", ""), note=words):
                for _ in range(6):
                    recorder.batch(x, y)
                    optimizer.zero_grad()
                    loss_fn(model(x), y).backward()
                    optimizer.step()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: a good one, a hostile one, one without evaluation set, a broken one."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(SAMPLES / "digits-adamw" / "run", root / "good")
    record(root / "hostile")
    record(root / "confounded", words="plain", title="Confounded", confounder=[i % 3 for i in range(40)])
    record(root / "unjudged", evaluation=False, title="No evaluation", words="plain")
    shutil.copytree(SAMPLES / "digits-adamw" / "run", root / "broken")
    (root / "broken" / "log" / "0000000001.json").write_text("{")
    return root


def _screen(name: str) -> None:
    import importlib

    from dashboard import feedback, session, shell

    session.begin()
    context = shell.choose()
    feedback.notes(session.take_notes())
    session.publish()
    if context:
        with feedback.refusals():
            importlib.import_module(f"dashboard.views.{name}").render(context)


def open_screen(name: str, **query: str | list[str]) -> AppTest:
    """A view by its name, with query parameters, run once."""
    app = AppTest.from_function(_screen, args=(name,), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    return checked(app.run())


@pytest.fixture
def screen(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens views of these runs."""
    monkeypatch.setenv("AA_RUNS_DIRS", str(runs))
    return open_screen


@pytest.fixture
def calibrated(screen: Open, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`screen` over the sample runs, which bring a calibration."""
    monkeypatch.setenv("AA_RUNS_DIRS", str(SAMPLES))
    return screen


@pytest.fixture
def jobs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are done here and now, in a workspace of the test's own."""
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setattr("aa_core.jobs.job._start", lambda folder, lock: work(folder))


def checked(app: AppTest) -> AppTest:
    """The same, after it is seen that nothing was raised."""
    assert not app.exception, [e.value for e in app.exception]
    return app


def said(app: AppTest) -> str:
    """All words on the page."""
    kinds = (app.markdown, app.caption, app.text, app.title, app.subheader, app.get("html"), app.button, app.selectbox)
    return "\n".join(
        str(getattr(e, "value", "") or getattr(e, "label", "")) + str(getattr(e, "label", "") or "")
        for kind in kinds
        for e in kind
    )
