"""Looking at a stranger's run and reporting on it imports nothing: every screen, and a report that is whole."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import aa_core as aa
from aa_core.registry import load_problem
from aa_core.reporting.files import write_report
from aa_core.reporting.report import build_report
from aa_core.reporting.verify import verify_file
from tests.dashboard.conftest import VIEWS, Open
from tests.faults.forge import reseal

PROBLEMS = {"the auditor's": {}, "its own": {"problem": {"name": "of_the_run:problem", "config": {}}}}


@pytest.fixture(params=PROBLEMS)
def stranger(request: pytest.FixtureRequest, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with code in it and around it, as the current folder, too; the code leaves a file behind."""
    path = tmp_path / "offered" / "stranger"
    shutil.copytree(runs / "hostile", path)
    header = path / "run.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | PROBLEMS[request.param]))
    reseal(path, lambda commit: None)
    for folder in (path, path.parent, path / "states"):
        for name in ("of_the_run", "problem", "sitecustomize", "pandas", "plotly"):
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.chdir(path)
    return path


def imported(what: Callable[[], object]) -> set[str]:
    before = set(sys.modules)
    what()
    return set(sys.modules) - before


def test_no_screen_imports_anything(screen: Open, stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VIEWS:
        screen(name, run="hostile")  # what a screen needs itself is there from now on
    monkeypatch.setenv("AA_RUNS_DIRS", str(stranger.parent))
    assert imported(lambda: [screen(name, run="stranger") for name in VIEWS]) == set()
    assert not (stranger.parents[1] / "executed").exists()


def test_no_report_imports_anything(runs: Path, stranger: Path, tmp_path: Path) -> None:
    def report(path: Path, file: Path) -> None:
        write_report(build_report(aa.open_run(path), load_problem("digits-mlp", {"hidden": 8}, None)), file)
        verify_file(file)

    report(runs / "hostile", tmp_path / "first.html")
    assert imported(lambda: report(stranger, tmp_path / "report.html")) == set()
    assert not (tmp_path / "executed").exists()
