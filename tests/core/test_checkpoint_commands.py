"""The commands on a run of which only checkpoints are known: what works says what it is, the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import aa_core as aa
from aa_core.cli import app
from tests.core.job_run import make


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(run, --problem)."""
    folder = tmp_path_factory.mktemp("kept")
    run, problem = make(folder)
    return str(aa.forget_steps(run, folder / "kept").path), f"--problem={problem}"


def said(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments), prog_name="aa")
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_info_says_what_is_known(kept: tuple[str, str]) -> None:
    words = said("info", kept[0]).stdout
    assert "checkpoints only: no step was recorded" in words and "SGD, lr 0.1" in words
    assert "first" in words and "last" in words


def test_stage_effects_are_labelled_in_every_format(kept: tuple[str, str], tmp_path: Path) -> None:
    table = said("effects", *kept, "--mean")
    for words in ("segment-wise stationary approximation", "Approximated from checkpoints only"):
        assert words in table.stderr
    assert "first" in table.stdout
    said("effects", *kept, "-o", str(tmp_path / "e.json"))
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["provenance"]["approximation"] and found["provenance"]["curvature"] == "ggn"
    assert found["reliability"]["words"].startswith("Approximated from checkpoints only")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["effects", "RUN", "--by", "step"], "the effects of steps were asked for: only checkpoints"),
        (["effects", "RUN", "--method", "additive"], "one method, boundary"),
        (["effects", "RUN", "--semantics", "zero_gradient"], "one semantics, freeze"),
        (["effects", "RUN", "--curvature", "exact"], "expected one of ggn, none"),
        (["whatif", "RUN", "--skip", "first"], "only checkpoints of this training are known"),
        (["report", "RUN", "-o", "report.html"], "only checkpoints of this training are known"),
    ],
)
def test_what_needs_steps_is_refused(kept: tuple[str, str], arguments: list[str], message: str) -> None:
    asked = [kept[0] if a == "RUN" else a for a in arguments]
    result = said(*asked, kept[1], code=1)
    assert message in " ".join(result.stderr.split()) and not result.stdout


def test_check_verifies_the_files_and_says_that_nothing_was_replayed(kept: tuple[str, str], tmp_path: Path) -> None:
    assert said("check", kept[0]).stdout == (
        "files intact; not replayed: only checkpoints of this training are known\n"
    )
    file = Path(kept[0]) / "states" / "8.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1])
    broken = said("check", kept[0], code=1)
    assert "NOT INTACT" in broken.stdout and "states/8.safetensors" in broken.stderr
    file.write_bytes(good)
