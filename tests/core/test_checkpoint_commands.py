"""The commands on a run of which only checkpoints are known: what works says what it is, the rest is refused."""

from __future__ import annotations

import json
import shlex
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


def recorded(kept: tuple[str, str]) -> str:
    """The run that it was, before its steps were forgotten."""
    return str(next(p.parent for p in Path(kept[0]).parent.glob("*/run.json") if p.parent != Path(kept[0])))


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
        (["report", "RUN", "-o", "report.html", "--method", "additive"], "one method, boundary"),
        (["report", "RUN", "-o", "report.html", "--semantics", "zero_gradient"], "one semantics, freeze"),
        (["report", "RUN", "-o", "report.html", "--against", "RECORDED"], "a report beside another run was asked for"),
        (["findings", "RUN", "list"], "only checkpoints of this training are known"),
    ],
)
def test_what_needs_steps_is_refused(kept: tuple[str, str], arguments: list[str], message: str) -> None:
    places = {"RUN": kept[0], "RECORDED": recorded(kept)}
    asked = [places.get(a, a) for a in arguments]
    result = said(*asked, *([] if "list" in arguments else [kept[1]]), code=1)
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


def test_a_report_says_what_is_not_known_and_has_the_effects_that_are(kept: tuple[str, str], tmp_path: Path) -> None:
    paths = {suffix: tmp_path / f"r.{suffix}" for suffix in ("json", "html", "zip")}
    for path in paths.values():
        said("report", *kept, "-o", str(path))
        assert said("report", "verify", str(path)).stdout.endswith("as it was written\n")
    report = json.loads(paths["json"].read_text())
    said("effects", *kept, "--mean", "-o", str(tmp_path / "e.json"))
    effects = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert [(r["stage"], r["mean"]) for r in report["stages"]] == [
        (e["stage"], pytest.approx(e["effect"], rel=1e-6)) for e in effects
    ]
    run, data = report["run"], report["data"]
    assert (run["known"], run["log"], run["replay"], report["steps"]) == ("checkpoints", None, None, None)
    assert run["integrity"] == "intact; all match their digests" and len(run["checkpoints"]) == 4
    assert data["uses"] is None and 0 < data["examples"] < sum(s["examples"] for s in run["stages"]), "some are in two"
    assert [(s["uses"], s["optimizer"]) for s in run["stages"]] == [(None, "SGD")] * 3
    assert report["answer"]["confidence"].startswith("Approximated from checkpoints only")
    page = paths["html"].read_text()
    for words in (
        "of which only some states are known",
        "not to be had: no step was recorded",
        "they were used is not known",
    ):
        assert words in page
    assert "Step by step" not in page and "random numbers" not in page and "method=boundary" in page


def test_the_command_of_a_report_gives_the_same_bytes(
    kept: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "r.html"
    said("report", *kept, "--examples", "0-4", "--stage", "last", "--curvature", "none", "-o", str(first))
    said("report", *kept, "--examples", "0-4", "--stage", "last", "--curvature", "none", "-o", str(tmp_path / "r.json"))
    (line,) = [c for c in json.loads((tmp_path / "r.json").read_text())["reproduce"] if "--output" in c]
    monkeypatch.chdir(Path(kept[0]).parent)
    said(*shlex.split(line)[1:], kept[1])
    assert Path("report.html").read_bytes() == first.read_bytes()
    Path("report.html").unlink()
