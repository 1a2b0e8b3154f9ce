"""Which code rebuilds a run's model and loss. The auditor names it; a run never does more than ask for a name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from aa_core.errors import ProblemError
from aa_core.problem import Problem

Factory = Callable[[Mapping[str, Any]], Problem]
"""config (a JSON object recorded with the run) -> Problem."""

ENTRY_POINTS = "aa_core.problems"
BUILT_IN = {
    "digits-mlp": "sample_runs.problems:digits_mlp",
    "pictures-mlp": "sample_runs.problems:pictures_mlp",
    "pictures-cnn": "sample_runs.problems:pictures_cnn",
    "text-transformer": "sample_runs.problems:text_transformer",
    "small-gpt2": "sample_runs.problems:small_gpt2",
}


def known_problems() -> dict[str, str]:
    """{name: "module:function"} of built-in problems and of those that installed packages offer."""
    return {**{e.name: e.value for e in entry_points(group=ENTRY_POINTS)}, **BUILT_IN}


def load_problem(name: str | None, config: Mapping[str, Any], chosen: str | None = None) -> Problem:
    """The problem of a run.

    Args:
        name, config: what the run's header asks for.
        chosen: overrides the name; a registered name, or a Python file of the auditor's own, "file.py" or
            "file.py:function", whose function (default `problem`) takes the config and returns a Problem.

    Raises:
        ProblemError: nothing of that name, or it does not return a Problem. No path inside a run is ever imported.
    """
    if chosen and (chosen.endswith(".py") or ".py:" in chosen):
        factory = _from_file(chosen)
    else:
        factory = _from_registry(chosen or name)
    problem = factory(config)
    if not isinstance(problem, Problem):
        raise ProblemError(f"{chosen or name}: returned {type(problem).__name__}, expected an aa_core.Problem")
    return problem


def _from_registry(name: str | None) -> Factory:
    known = known_problems()
    if name not in known:
        asked = (
            "this run names no problem"
            if name is None
            else f"this run asks for problem {name!r}, which is not registered here"
        )
        raise ProblemError(
            f"{asked}; registered are: {', '.join(sorted(known)) or 'none'}. Name a Python file of your own that "
            "rebuilds model and loss: --problem my_problem.py:function"
        )
    module, _, function = known[name].partition(":")
    return getattr(importlib.import_module(module), function)


def _from_file(chosen: str) -> Factory:
    file, _, function = chosen.partition(".py:")
    path = Path(file if file.endswith(".py") else f"{file}.py")
    if not path.is_file():
        raise ProblemError(f"{path}: no such file; --problem takes a registered name or a Python file")
    unique = f"aa_problem_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise ProblemError(f"{path}: cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and type hints look their module up
    spec.loader.exec_module(module)
    try:
        return getattr(module, function or "problem")
    except AttributeError:
        raise ProblemError(f"{path}: has no function {function or 'problem'!r}; name one: {path}:function") from None
