"""What is imported before the first answer: the engine takes seconds, the dashboard's server must not wait for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aa_core.processes import child_environment

HEAVY = ("torch", "pandas", "plotly", "aa_core.surface", "aa_core.reporting", "aa_core.jobs")
START = "from aa_core.commands import entry; sys.argv = ['aa', 'dashboard']; entry._app()"


def _imported(code: str) -> set[str]:
    """The modules that a fresh process has after this code."""
    script = f"import sys; {code}; print('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], env=child_environment(), capture_output=True, check=True)
    return set(found.stdout.decode().split())


@pytest.mark.parametrize("code", ["import aa_core", START])
def test_the_server_starts_without_the_engine(code: str) -> None:
    assert _imported(code).isdisjoint(HEAVY)


def test_the_public_names_are_there_whatever_is_imported_first() -> None:
    code = "import aa_core.performance, aa_core as aa; from aa_core import Recorder; assert callable(aa.performance)"
    assert "torch" in _imported(f"{code}; assert set(aa.__all__) <= set(dir(aa)); assert aa.Recorder is Recorder")
