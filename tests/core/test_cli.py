"""The command line says what the engine says: results on stdout, all else on stderr, errors in words."""

from __future__ import annotations

import csv
import io
import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from aa_core.cli import app
from aa_core.commands import launcher
from aa_core.commands.console import csv_text, rows, table_text
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.jobs import find, submit, whatif_spec
from aa_core.plain import plain, to_json
from aa_core.processes import child_environment
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.version import __version__
from tests.core.job_run import STAGES, STEPS, make, wait

COMMANDS = (
    *(
        "info",
        "check",
        "effects",
        "calibrate",
        "whatif",
        "jobs",
        "dashboard",
        "key",
        "sign",
        "verify",
        "export",
        "import",
    ),
    *("push", "experiment", "report", "findings", "log"),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trajectory, Path]:
    return make(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def run(recorded: tuple[Trajectory, Path]) -> str:
    return str(recorded[0].path)


@pytest.fixture(scope="module")
def problem(recorded: tuple[Trajectory, Path]) -> str:
    return f"--problem={recorded[1]}"


def aa(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments), prog_name="aa")
    assert result.exit_code == code, (result.output, result.exception)
    return result


def strict_json(text: str) -> Any:
    """JSON without NaN and Infinity, which no other language reads."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ---- help, usage, versions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [*COMMANDS, "report build", "report verify", "report schema", "report sign"])
def test_help_shows_two_examples(command: str) -> None:
    text = aa(*command.split(), "--help").stdout
    examples = text.partition("Examples:\n")[2].strip().splitlines()
    assert len(examples) >= 2 and all(line.strip().startswith(f"aa {command}") for line in examples), text


def test_every_command_is_listed_and_the_version_is_the_package_s() -> None:
    listed = aa("--help").stdout.partition("Commands:\n")[2]
    assert tuple(line.split()[0] for line in listed.strip().splitlines()) == COMMANDS
    assert aa("--version").stdout == f"aa {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["effects"], "Missing argument"),
        (["effects", "x", "--by", "epoch"], "epoch"),
        (["effects", "x", "--format", "xml"], "xml"),
        (["whatif", "x"], "--skip"),
        (["dashboard", "--port", "70000"], "65535"),
        (["nope"], "nope"),
        (["info", "x", "--nope"], "--nope"),
    ],
)
def test_wrong_usage_has_exit_code_2(arguments: list[str], said: str) -> None:
    result = aa(*arguments, code=2)
    assert said in result.stderr and not result.stdout


@pytest.mark.parametrize("text", ["", "x", "1,", "3-1", "-1", "1-2-3", "0-99999999999", "½", "1e3"])
def test_rows_that_are_none_are_wrong_usage(run: str, text: str) -> None:
    assert "--examples" in aa("effects", run, "--examples", text, code=2).stderr


def test_rows_are_numbers_and_ranges() -> None:
    assert rows("0,1, 5-9") == [0, 1, 5, 6, 7, 8, 9] and rows("4-4") == [4] and rows(None) is None


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_our_errors_are_one_message_on_stderr_and_exit_code_1(run: str, problem: str, tmp_path: Path) -> None:
    for arguments, said in [
        (["info", str(tmp_path)], "no run at"),
        (["effects", run], "this run names no problem"),
        (["effects", run, problem, "--performance", "f1"], "expected one of log-likelihood"),
        (["effects", run, problem, "--examples", "12"], "examples 0 to 11"),
        (["whatif", run, problem, "--skip", "fisrt"], "unknown stage 'fisrt'; this run has: 'first', '=1+1', 'last'"),
        (["report", run, problem, "-o", str(tmp_path / "r.docx")], "r.docx"),
        (["report", "verify", str(tmp_path / "none.html")], "no such file"),
        (["dashboard", str(tmp_path / "none")], "no such folder"),
    ]:
        result = aa(*arguments, code=1)
        assert result.stderr.splitlines()[-1].startswith("error: ") and said in result.stderr, arguments
        assert "Traceback" not in result.stderr and not result.stdout


def test_control_characters_of_others_are_spelled_out(tmp_path: Path, recorded: tuple[Trajectory, Path]) -> None:
    copy = tmp_path / "run"
    shutil.copytree(recorded[0].path, copy)
    header = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**header, "optimizer": "\x1b[2J\u202egnp"}))
    printed = aa("info", str(copy), code=1).output  # the chain is broken as well, which is what it says
    assert "\x1b" not in printed and "\u202e" not in printed
    assert "\\u001b" in table_text(pd.DataFrame({"stage": ["\x1b[2J"]}))


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_info_says_what_was_recorded(run: str) -> None:
    text = aa("info", run).stdout
    for said in ("tiny", "sealed", open_run(run).digest, "12 examples", "SGD", *STAGES):
        assert said in text
    assert not aa("info", run).stderr


def test_check_gives_the_grade_in_words(run: str, problem: str) -> None:
    result = aa("check", run, problem)
    assert result.stdout.splitlines()[-1] == "chain consistent; 3 of 3 segments replayed, max deviation 0, bit-exact"
    assert aa("check", run, "--no-replay").stdout == "chain consistent; not replayed\n"


def test_check_exits_with_1_when_the_replay_drifts(run: str, problem: str) -> None:
    result = aa("check", run, f"{problem}:other_loss", code=1)
    assert "max deviation" in result.stdout and "BEYOND the tolerance 1e-08" in result.stdout


def test_check_exits_with_1_when_a_byte_was_changed(tmp_path: Path, recorded: tuple[Trajectory, Path]) -> None:
    copy = tmp_path / "run"
    shutil.copytree(recorded[0].path, copy)
    state = copy / "states" / "0.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    result = aa("check", str(copy), f"--problem={recorded[1]}", code=1)
    assert result.stdout == "NOT INTACT: 1 finding; not replayed\n"
    assert "finding: states/0.safetensors: sha256" in result.stderr


# ---- effects ---------------------------------------------------------------------------------------------------------


def test_formats_agree(run: str, problem: str, tmp_path: Path) -> None:
    request = ["effects", run, problem, "--examples", "0,4-5"]
    found = strict_json(aa(*request, "--format", "json").stdout)
    assert set(found) == {"provenance", "reliability", "rows"}
    assert found["provenance"]["run"] == open_run(run).digest and found["reliability"]["words"]
    assert [(r["stage"], r["example"]) for r in found["rows"]] == [(s, e) for s in STAGES for e in (0, 4, 5)]

    printed = aa(*request, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(printed.stdout)))
    assert [float(r["effect"]) for r in table] == [r["effect"] for r in found["rows"]]
    assert {r["stage"] for r in table} == {"first", "'=1+1", "last"}, "a spreadsheet would run =1+1"
    assert "positive = helped" in printed.stderr

    for name in ("effects.csv", "effects.json"):
        assert aa(*request, "-o", str(tmp_path / name)).stdout == ""
    assert (tmp_path / "effects.csv").read_text() == printed.stdout
    assert strict_json((tmp_path / "effects.json").read_text()) == found
    shown = aa(*request).stdout.splitlines()
    assert len(shown) == 10 and all(line.split()[-2][0] in "+-" for line in shown[1:]), "signs are always shown"


def test_bounds_are_said_with_their_constants(run: str, problem: str) -> None:
    printed = aa("effects", run, problem, "--mean", "--bounds", "--format", "json")
    found = strict_json(printed.stdout)["reliability"]["remainders"]
    assert [r["stage"] for r in found] == list(STAGES) and all(r["displacement"] > 0 for r in found)
    for r in found:
        assert f"{r['stage']}: off by at most 10^{r['log10_bound']:.1f} by the theorem's form" in printed.stderr
    assert "--bounds" in aa("effects", run, problem, "--by", "step", "--bounds", code=2).stderr


def test_steps_come_with_their_stage(run: str, problem: str) -> None:
    found = strict_json(aa("effects", run, problem, "--by", "step", "--mean", "--format", "json").stdout)["rows"]
    assert [(r["step"], r["stage"]) for r in found] == [(k, STAGES[k // STEPS]) for k in range(3 * STEPS)]
    assert {r["example"] for r in found} == {"mean"}
    assert "--method" in aa("effects", run, problem, "--by", "step", "--method", "additive", code=2).stderr


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_no_text_cell_of_a_csv_is_a_formula(text: str) -> None:
    (_, row) = csv.reader(io.StringIO(csv_text(pd.DataFrame({"stage": [text], "effect": [-1.5]})), newline=""))
    assert row == [f"'{text}", "-1.5"], "numbers stay numbers"


def test_json_has_no_nan() -> None:
    assert strict_json(to_json({"a": float("nan"), "b": (1, [float("inf")])})) == {"a": None, "b": [1, [None]]}
    assert plain(pd.Series([1.5]).to_numpy()[0]) == 1.5


# ---- what if ---------------------------------------------------------------------------------------------------------


def test_whatif_prints_estimate_beside_truth(run: str, problem: str) -> None:
    result = aa("whatif", run, problem, "--skip", "first", "--skip", "last")
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert lines["what if"].strip() == "skip first + last (freeze)"
    assert {"effect, estimated", "effect, retrained", "agreement", "recorded", "retrained"} <= set(lines)

    found = strict_json(aa("whatif", run, problem, "--skip", "last", "--examples", "3", "--format", "json").stdout)
    assert found["agreement"]["pearson"] is None and len(found["rows"]) == 1
    assert found["provenance"]["run"] == open_run(run).digest and found["reliability"]["words"]
    table = aa("whatif", run, problem, "--skip", "last", "--format", "csv").stdout
    assert next(csv.reader(io.StringIO(table))) == ["example", "recorded", "retrained", "estimate", "truth", "unit"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--skip", "last", "--scale", "0.5"], "0.5 x last (freeze)"),
        (["--steps", "3:6", "--steps", "9"], "skip steps 3 to 5 + step 9 (freeze)"),
        (["--change", "=1+1:lr=0.5x", "--change", "=1+1:momentum=0.2"], "=1+1 with lr 0.5x, momentum 0.2 (change)"),
        (["--change", "lr=0.1 to 0", "--steps", "20:24"], "steps 20 to 23 with lr 0.1 to 0 (change)"),
        (["--without-example", "0,2-3"], "skip examples 0, 2, 3 (zero_gradient)"),
    ],
)
def test_whatif_changes_whatever_a_counterfactual_can(run: str, problem: str, options: list[str], name: str) -> None:
    first, *rest = aa("whatif", run, problem, *options).stdout.splitlines()
    assert first.split("  ", 1)[1].strip() == name
    assert any(line.startswith("effect, retrained") for line in rest)


def test_a_whatif_says_what_is_noise_where_that_was_measured(run: str, problem: str) -> None:
    from aa_core.commands.whatif import _whatif_text

    assert "not measured here: aa calibrate" in aa("whatif", run, problem, "--skip", "first").stdout
    found = strict_json(aa("whatif", run, problem, "--skip", "first", "--format", "json").stdout)
    assert found["noise"] is None and found["within_noise"] is None
    for noise, said in ((0.5, "0.5  (the retrained effect is above it)"), (1.0, "is within it: neither sign nor size")):
        found |= {"noise": noise, "within_noise": noise > 0.7}
        assert said in _whatif_text(found | {"agreement": {"n": 3}})


def test_accuracy_is_retrained_and_not_estimated(run: str, problem: str) -> None:
    printed = aa("whatif", run, problem, "--skip", "first", "--performance", "accuracy").stdout
    assert "none: it changes in steps" in printed and "share correct" in printed
    found = strict_json(
        aa("whatif", run, problem, "--skip", "first", "--performance", "accuracy", "--format", "json").stdout
    )
    assert found["mean_estimate"] is None and found["reliability"] is None
    retrained, truth = found["mean_retrained"], found["mean_truth"]
    assert 0 <= retrained <= 1 and found["mean_recorded"] - retrained == pytest.approx(truth)
    assert "changes in steps" in aa("effects", run, problem, "--performance", "accuracy", code=1).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "what to change"),
        (["--skip", "last", "--change", "last:lr=0.5x"], "--change"),
        (["--change", "last:lr=0.5x", "--change", "first:lr=0.5x"], "the same stage"),
        (["--change", "last:lr"], "expected STAGE:lr=0.5x"),
        (["--steps", "6:3"], "no steps"),
        (["--steps", "a"], "expected steps such as 7 or 40:60"),
        (["--without-example", "x"], "--without-example"),
    ],
)
def test_a_whatif_that_asks_nothing_or_two_things_is_wrong_usage(run: str, options: list[str], said: str) -> None:
    assert said in " ".join(aa("whatif", run, *options, code=2).stderr.replace("│", " ").split())


def test_two_processes_share_what_was_computed(run: str, problem: str) -> None:
    """The second one finds the embeddings of the first on disk, and reads the same effects from them."""
    request = [sys.executable, "-m", "aa_core", "effects", run, problem, "--format", "csv"]
    outputs = [
        subprocess.run(request, env=child_environment(), capture_output=True, text=True, check=False) for _ in "ab"
    ]
    assert [p.returncode for p in outputs] == [0, 0], outputs[1].stderr
    assert outputs[0].stdout == outputs[1].stdout


# ---- jobs and reports ------------------------------------------------------------------------------------------------


def test_jobs_are_listed_and_their_retrainings_are_part_of_the_report(
    recorded: tuple[Trajectory, Path], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    assert aa("jobs").stdout == "" and "no jobs yet" in aa("jobs").stderr
    run, file = recorded
    done = submit(whatif_spec(run, Counterfactual.skip("last"), problem=str(file)))
    failed = submit(whatif_spec(run, Counterfactual.skip("first"), problem=f"{file}:broken"))
    wait(lambda: not done.living and not failed.living)
    listed = list(csv.DictReader(io.StringIO(aa("jobs", "--format", "csv").stdout)))
    assert {(r["id"], r["status"]) for r in listed} == {(done.id, "done"), (failed.id, "failed")}
    assert find(listed[0]["id"]).spec.kind == "whatif"

    path = tmp_path / "report.json"
    assert "with 2 retrainings" in aa("report", str(run.path), problem, "-o", str(path)).stderr
    report = strict_json(path.read_text())
    assert {c["counterfactual"]: c["status"][:6] for c in report["checks"]} == {
        "skip last": "done",
        "skip first": "failed",
    }
    assert aa("report", "verify", str(path)).stdout == f"{path}: as it was written\n"
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    assert "error" in aa("report", "verify", str(path), code=1).stderr


# ---- the dashboard's launcher ----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_server_is_for_this_machine_only(
    run: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *arguments: became.append(arguments))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    port = free_port()
    aa("dashboard", ".", "b", "--port", str(port), "--no-browser", problem)
    [(program, command, environment)] = became
    assert program == command[0] == sys.executable and command[1:5] == ["-m", "streamlit", "run", str(launcher.APP)]
    assert {
        f"--server.port={port}",
        "--server.address=127.0.0.1",
        "--server.headless=true",
        "--server.allowedHosts=localhost",
        "--server.allowedHosts=127.0.0.1",
        "--server.enableXsrfProtection=true",
        "--server.fileWatcherType=none",
        "--server.maxUploadSize=1",
        "--browser.gatherUsageStats=false",
        "--client.showErrorDetails=none",
    } <= set(command)
    assert environment["AA_RUNS_DIRS"] == f"{tmp_path}:{tmp_path / 'b'}"
    assert environment["AA_PROBLEM"] == problem.removeprefix("--problem=")

    aa("dashboard", "--port", str(port))
    assert became[1][2]["AA_RUNS_DIRS"] == str(launcher.SAMPLES) and "--server.headless=false" in became[1][1]


def test_a_taken_port_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = aa("dashboard", "--port", str(port), code=1)
    assert f"port {port} on 127.0.0.1 is not free" in result.stderr and "--port" in result.stderr


# ---- real processes --------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error_message(run: str, problem: str) -> None:
    command = [sys.executable, "-m", "aa_core", "effects", run, problem, "--format", "csv"]
    process = subprocess.Popen(
        command, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert "Traceback" not in said and "BrokenPipe" not in said and "Exception ignored" not in said


def test_the_dashboard_answers_and_imports_nothing_from_where_it_was_started(tmp_path: Path) -> None:
    for name in ("torch.py", "streamlit.py", "aa_core.py"):
        (tmp_path / name).write_text("open('canary', 'w'); raise SystemExit('hostile')")
    port = free_port()
    script = "import sys; sys.argv[0] = 'aa'; from aa_core.commands.entry import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", script, "dashboard", "--no-browser", "--port", str(port)],
        cwd=tmp_path,
        env=child_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def healthy() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as answer:
                    return answer.read() == b"ok"
            except OSError:
                return False

        wait(healthy)
    finally:
        server.terminate()
        server.wait(20)
    assert not (tmp_path / "canary").exists()
