"""`aa check` says what its grade means: of the files, of who vouches for them, and of the replay."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from aa_core.check import check_run
from aa_core.cli import app
from aa_core.problem import Problem
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


OTHER_ORDER = """
def other_order(config):
    return Problem(net(), lambda o, y: nn.functional.cross_entropy(o, y) * 49 * (1 / 49), device="cpu")
"""


def test_a_replay_that_rounds_differently_is_said_to_be_one(recorded: Path, tmp_path: Path) -> None:
    other = tmp_path / "problem.py"
    other.write_text(job_run.PROBLEM + OTHER_ORDER)
    replayed = check(recorded, "--problem", f"{other}:other_order")
    assert replayed.exit_code == 0 and "bit-exact" not in replayed.stdout
    assert re.search(r"max deviation \S+e-1\d of the change .*, within the tolerance", replayed.stdout), replayed.output
    assert "up to rounding, as on another machine" in replayed.stderr


def test_a_replay_takes_as_many_threads_as_the_recording(tmp_path: Path) -> None:
    here, most = torch.get_num_threads(), os.cpu_count() or 1
    torch.set_num_threads(most)
    try:
        run, _ = job_run.make(tmp_path)
    finally:
        torch.set_num_threads(1)
    seen = set[int]()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.add(torch.get_num_threads())
        return nn.functional.cross_entropy(outputs, targets)

    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    assert check_run(run, Problem(model, loss, device="cpu")).sound
    assert seen == {most} and torch.get_num_threads() == 1
    torch.set_num_threads(here)
