"""Which code rebuilds a run: built in, offered by an installed package, or a file of the auditor's; nothing else."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from aa_core.errors import ProblemError
from aa_core.problem import Problem
from aa_core.registry import BUILT_IN, ENTRY_POINTS, known_problems, load_problem

OFFERED = importlib.metadata.EntryPoint("theirs", "sample_runs.problems:digits_mlp", ENTRY_POINTS)
SHADOWING = importlib.metadata.EntryPoint("digits-mlp", "of_the_package:problem", ENTRY_POINTS)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is installed that offers a problem, and one that has the name of a built-in one."""

    def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
        return [e for e in (OFFERED, SHADOWING) if e.group == group]

    monkeypatch.setattr("aa_core.registry.entry_points", entry_points)


def test_installed_packages_offer_problems_and_replace_none() -> None:
    assert isinstance(load_problem("theirs", {"hidden": 8}), Problem)
    assert known_problems() == {"theirs": OFFERED.value} | BUILT_IN


def test_what_the_auditor_names_counts_and_not_what_the_run_asks_for() -> None:
    assert isinstance(load_problem("of_the_run", {"hidden": 8}, "digits-mlp"), Problem)


@pytest.mark.parametrize("name", ["sample_runs.problems:digits_mlp", "os:system", "problem.py", "problem.py:problem"])
def test_a_run_names_no_import_path_and_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "problem.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProblemError, match=r"not registered here; registered are: .*theirs.* Name a Python file"):
        load_problem(name, {})


@pytest.mark.parametrize(
    ("content", "chosen", "because"),
    [
        (None, "missing.py", "no such file"),
        ("", "mine.py", "has no function 'problem'; name one"),
        ("def other(config): return 3", "mine.py:other", "returned int, expected an aa_core.Problem"),
    ],
)
def test_a_file_that_makes_no_problem_is_refused(
    content: str | None, chosen: str, because: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("mine.py").write_text(content)
    with pytest.raises(ProblemError, match=because):
        load_problem(None, {}, chosen)
