"""`aa check` says what its grade means: of the files, of who vouches for them, and of the replay."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aa_core.cli import app
from aa_core.signing import make_keys, sign
from tests.core import job_run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job_run.make(tmp_path_factory.mktemp("words"))[0].path


def check(run: Path, *more: object) -> Result:
    return CliRunner().invoke(app, ["check", str(run), *map(str, more)])


def test_every_part_of_the_grade_is_explained(recorded: Path, tmp_path: Path) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    only_files = check(run, "--no-replay")
    assert only_files.exit_code == 0 and only_files.stdout == "chain consistent; not replayed\n"
    assert "unsigned: nobody vouches" in only_files.stderr and "nothing was replayed" in only_files.stderr
    replayed = check(run, "--problem", f"{recorded.parent}/problem.py:problem")
    assert re.search(r"3 of 3 segments replayed, max deviation 0, bit-exact", replayed.stdout), replayed.output
    assert "to the next to the bit" in replayed.stderr
    state = run / "states" / "8.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x01")
    damaged = check(run, "--no-replay")
    assert damaged.exit_code == 1 and "no number from this run can be believed" in damaged.stderr


def test_a_grade_says_who_signed(recorded: Path, tmp_path: Path) -> None:
    run, mine, other = (
        shutil.copytree(recorded, tmp_path / "run"),
        make_keys(tmp_path / "me"),
        make_keys(tmp_path / "other"),
    )
    sign(run, mine.private)
    assert "signed, by whom is not known without the key" in check(run, "--no-replay").stderr
    assert "signed by the owner of the key" in check(run, "--no-replay", "--key", mine.public).stderr
    refused = check(run, "--no-replay", "--key", other.public)
    assert refused.exit_code == 1 and "signed by the owner" not in refused.stderr


def test_a_training_that_was_cut_short_is_said_to_be(recorded: Path, tmp_path: Path) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    max((run / "log").iterdir()).unlink()
    found = check(run, "--no-replay")
    assert found.stdout.startswith("chain consistent so far, not sealed") and "was cut short" in found.stderr
