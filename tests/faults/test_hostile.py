"""Runs from strangers: whatever is in the files, the command line refuses in words, quickly, and touches nothing."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from aa_core.runs.examples import DatasetReference
from tests.core.job_run import make
from tests.core.test_recorder import Pairs
from tests.faults.forge import entry, file_with, replace_file, reseal
from tests.faults.oracle import aa, refused
from tests.recorded import record

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory through /proc")
ROOT = Path(__file__).resolve().parents[2]
STATE, STEPS, LATER = "states/0.safetensors", "steps/0-8.safetensors", "steps/8-16.safetensors"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    make(folder)
    return folder


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A run in a folder of its own, with the auditor's problem beside it."""
    shutil.copytree(original, tmp_path / "here")
    return tmp_path / "here" / "run"


def tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load((path / name).read_bytes())


def changed(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Other tensors in a file of the run, under forged digests."""

    def damage(path: Path) -> None:
        found = tensors(path, name)
        change(found)
        replace_file(path, name, safetensors.torch.save({n: t.contiguous() for n, t in found.items()}))

    return damage


def replaced(name: str, data: bytes) -> Damage:
    return lambda path: replace_file(path, name, data)


def large(damage: Callable[[], Damage]) -> Damage:
    """What is made only where its test runs: every process that collects the tests reads this file."""
    return lambda path: damage()(path)


def header(**fields: object) -> Damage:
    """Other fields in run.json, with a chain that fits."""

    def damage(path: Path) -> None:
        file = path / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))
        reseal(path, lambda commit: None)

    return damage


def commit(change: Callable[[dict], object], number: int = 1) -> Damage:
    return lambda path: reseal(path, change, number)


def together(*damages: Damage) -> Damage:
    return lambda path: [damage(path) for damage in damages]


def text(name: str, data: bytes) -> Damage:
    return lambda path: (path / name).write_bytes(data)


def in_header(field: str, data: bytes) -> Damage:
    """Raw JSON for one field of run.json."""

    def damage(path: Path) -> None:
        fields = json.loads((path / "run.json").read_text()) | {field: "HERE"}
        (path / "run.json").write_bytes(json.dumps(fields).encode().replace(b'"HERE"', data))

    return damage


def instead(name: str, place: Callable[[Path], object]) -> Damage:
    """Something else in place of a file."""

    def damage(path: Path) -> None:
        (path / name).unlink()
        place(path / name)

    return damage


def socket_at(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(os.path.relpath(path))


def device(path: Path) -> None:
    """Zeros without end."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device is not allowed here")


def huge(path: Path) -> None:
    """A terabyte of nothing, on a disk that stores holes as such."""
    with path.open("wb") as file:
        file.truncate(2**40)


def many(count: int, member: Callable[[int], str], brackets: str = "[]") -> bytes:
    return (brackets[0] + ",".join(map(member, range(count))) + brackets[1]).encode()


def fill(tensor: torch.Tensor, value: float) -> None:
    tensor.view(-1)[0] = value


MIB = 2**20
EXPECTED = "expected|at most|[Ss]hould|must|(the JSON that|what) a recorder writes|install|get a"
"""A refusal says what was expected, or what to do."""
HOSTILE: dict[str, tuple[Damage, str]] = {
    # files
    "an empty header": (text("run.json", b""), r"run\.json: not the JSON"),
    "an empty state": (replaced(STATE, b""), r"states/0\.safetensors: not a safetensors file: 0 bytes"),
    "a state cut in its header": (
        lambda p: replace_file(p, STATE, (p / STATE).read_bytes()[:100]),
        r"states/0\.safetensors: .*announce",
    ),
    "a state cut in its data": (
        lambda p: replace_file(p, STATE, (p / STATE).read_bytes()[:-3]),
        r"states/0\.safetensors: .*bytes of data, the tensors announce",
    ),
    "an absurd header length": (replaced(STATE, (2**62).to_bytes(8, "little")), r"states/0\.safetensors: .*header of"),
    "a pickle as a state": (replaced(STATE, b"\x80\x04cposix\nsystem\n"), r"states/0\.safetensors: not a safetensors"),
    "a zip as a state": (replaced(STATE, b"PK\x03\x04" + bytes(99)), r"states/0\.safetensors: not a safetensors"),
    "700,000 tensors": (
        large(
            lambda: replaced(
                STATE, file_with({f"{i}": entry([1], 4 * i, 4 * i + 4) for i in range(700_000)}, bytes(2_800_000))
            )
        ),
        r"states/0\.safetensors: not a safetensors file",
    ),
    "60,000 tensors": (
        large(
            lambda: replaced(
                STATE, file_with({f"{i}": entry([1], 4 * i, 4 * i + 4) for i in range(60_000)}, bytes(240_000))
            )
        ),
        r"states/0\.safetensors: \d+ problems",
    ),
    "a tensor of 800,000 dimensions": (
        large(lambda: replaced(STATE, file_with({"a": entry([2**53 - 1] * 800_000, 0, 4)}, bytes(4)))),
        "800000 dimensions, expected at most",
    ),
    "a tensor of the wrong dtype": (
        changed(STATE, lambda t: t.update({"params/0.weight": t["params/0.weight"].float()})),
        r"'params/0\.weight' is float32\[5, 4\], expected float64\[5, 4\]",
    ),
    "a tensor of the wrong shape": (
        changed(STATE, lambda t: t.update({"params/0.weight": t["params/0.weight"][:2]})),
        r"'params/0\.weight' is float64\[2, 4\], expected float64\[5, 4\]",
    ),
    "a missing and an extra tensor": (
        changed(STATE, lambda t: t.update(more=t.pop("params/0.bias"))),
        r"(?s)2 problems.*'params/0\.bias' is missing.*'more' is not expected",
    ),
    "a tensor's name with NUL": (
        replaced(STATE, file_with({"params/0.weight\0": entry([1], 0, 4)}, bytes(4))),
        r"'params/0\.weight\\x00': the name is not printable",
    ),
    "a tensor's name that leads out of the run": (
        changed(STATE, lambda t: t.update({"../../secret": torch.ones(1)})),
        r"'\.\./\.\./secret' is not expected",
    ),
    "a stage's name with NUL, a line break and an escape": (
        commit(lambda c: c["stages"][0].update(name="a\0b\n\x1b[31m")),
        r"stages\.0\.name: .*printable .*, found 'a\\x00b\\n\\x1b\[31m'",
    ),
    "names with markup and line breaks": (
        replaced(STATE, file_with({"<script>alert(1)</script>\n\u202e": entry([1], 0, 4)}, bytes(4))),
        r"'<script>alert\(1\)</script>\\n\\u202e': the name is not printable",
    ),
    "repeated keys": (text("run.json", b'{"format":"aa-run","version":1,"version":1}'), "'version' occurs twice"),
    "deep JSON": (text("run.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deeply"),
    "JSON of 65 MiB": (large(lambda: text("run.json", b" " * (65 * MIB))), "expected at most"),
    "JSON of twenty million lists": (
        large(lambda: in_header("title", b"[" + b"[]," * (20 * MIB) + b"0]")),
        "values of JSON, at most",
    ),
    "JSON of a million unknown fields": (
        large(lambda: in_header("title", many(1_000_000, lambda i: f'"{i}":0', "{}")[1:-1].join([b'"",', b""]))),
        "1000000 fields are not what a recorder writes",
    ),
    "300,000 parameters that are none": (
        large(lambda: in_header("parameters", many(300_000, str))),
        "300000 fields are not",
    ),
    "60,000 parameters, one of them twice": (
        large(
            lambda: in_header(
                "parameters", many(60_000, lambda i: f'{{"name":"p{i or 7}","shape":[],"dtype":"float32"}}')
            )
        ),
        "'p7' is repeated",
    ),
    "a repeated key after 300,000": (
        large(lambda: in_header("config", many(300_000, lambda i: f'"{i or 7}":0', "{}"))),
        "'7' occurs twice",
    ),
    "an unknown format": (header(format="zip"), r"run\.json: format: .*found 'zip'"),
    "a newer version": (header(version=2, more=1), "version 2 of the run format, .* install a newer version"),
    # log and steps
    "a missing commit": (lambda p: (p / "log" / "0000000001.json").unlink(), r"log/0000000001\.json: missing"),
    "a repeated commit": (
        lambda p: shutil.copy(p / "log" / "0000000001.json", p / "log" / "0000000002.json"),
        r"log/0000000002\.json: does not continue",
    ),
    "30,000 stages": (
        commit(
            lambda c: c.update(
                stages=[{"name": f"s{i}", "blocks": [[0, 1]], "note": "", "metadata": {}} for i in range(30_000)]
            )
        ),
        "overlaps its predecessor",
    ),
    "missing steps": (commit(lambda c: c.update(stop=c["stop"] + 1)), r"the stages end at step \d+, the steps at \d+"),
    "repeated steps": (commit(lambda c: c.update(start=c["start"] - 1), 2), "starts at step 7, expected 8"),
    "overlapping stages": (
        commit(lambda c: c["stages"][0].update(blocks=[[0, 8], [3, 5]])),
        "'first' overlaps its predecessor at step 3",
    ),
    "an empty stage block": (commit(lambda c: c["stages"][0].update(blocks=[[0, 8], [8, 8]])), r"empty block \[8, 8\)"),
    "a negative lr and an infinite weight": (
        changed(STEPS, lambda t: (fill(t["hyper.0.lr"], -1), fill(t["micro.weight"], float("inf")))),
        r"(?s)2 problems.*hyper\.0\.lr is negative at step 0.*micro\.weight is not finite",
    ),
    "a step that nothing had a say in": (
        changed(STEPS, lambda t: fill(t["micro.weight"], 0)),
        r"micro\.weight is 0 for all micro-batches of a step that updates a parameter",
    ),
    "two files of steps, each with two errors, and an unknown optimizer": (
        together(
            header(optimizer="Sophia"),
            *(changed(s, lambda t: (fill(t["hyper.0.lr"], -1), fill(t["scale"], 0))) for s in (STEPS, LATER)),
        ),
        r"(?s)2 problems.*steps/0-8.*negative at step 0.*scale must be.*steps/8-16.*negative at step 8.*scale must be",
    ),
    "missing and overlapping steps, and an empty block": (
        commit(lambda c: c["stages"][0].update(blocks=[[0, 4], [3, 5], [6, 6]])),
        r"(?s)4 problems.*empty block \[6, 6\).*overlaps .* step 3.*5 to 5 belong to no stage.*step 6, the steps at 8",
    ),
    "a batch index out of range": (changed(STEPS, lambda t: fill(t["rows"], 10**9)), r"rows .* of \d+ stored examples"),
    # paths
    "a file above the run": (
        commit(lambda c: c["files"][0].update(name="states/../../secret.safetensors")),
        r"files\.0\.name: .*found 'states/\.\./\.\./secret",
    ),
    "an absolute file": (commit(lambda c: c["files"][0].update(name="/etc/passwd")), r"files\.0\.name: .*/etc/passwd"),
    "a link out of the run": (instead(STATE, lambda p: p.symlink_to("/etc/passwd")), "symbolic link"),
    "a pipe": (instead(STATE, os.mkfifo), r"states/0\.safetensors: not a regular file"),
    "a pipe as header": (instead("run.json", os.mkfifo), r"run\.json: not a regular file"),
    "a pipe in the log": (instead("log/0000000001.json", os.mkfifo), r"log/0000000001\.json: not a regular file"),
    "a device": (instead(STATE, device), r"states/0\.safetensors: not a regular file"),
    "a device as header": (instead("run.json", device), r"run\.json: not a regular file"),
    "a socket": (instead(STATE, socket_at), r"states/0\.safetensors: not a regular file"),
    "a folder as header": (instead("run.json", Path.mkdir), r"run\.json: not a regular file"),
    # 100 MB of values that are sound in themselves
    "a state with 100 MB too many": (
        large(lambda: changed(STATE, lambda t: t.update(more=torch.ones(25_000_000)))),
        "'more' is not expected",
    ),
    "steps with 100 MB too many": (
        large(lambda: changed(STEPS, lambda t: t.update(rows=torch.zeros(12_500_000, dtype=torch.int64)))),
        "micro.size does not divide rows",
    ),
    "a terabyte of holes": (instead(STATE, huge), r"states/0\.safetensors: 1099511627776 bytes"),
    "a terabyte of holes as header": (instead("run.json", huge), r"run\.json: 1099511627776 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_run_is_refused_in_words(path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, because = HOSTILE[case]
    monkeypatch.chdir(path)
    damage(path)
    said = refused("check", path, "--no-replay", folder=path.parent, because=because)
    assert re.search(EXPECTED, said), said


# ---- what may be looked at, and goes no further ----------------------------------------------------------------------


def stricken(value: float, *names: str) -> Damage:
    """A state in which one number is not finite."""

    def damage(path: Path) -> None:
        for name in names:
            changed(name, lambda t: fill(t["params/0.weight"], value))(path)

    return damage


UNUSABLE: dict[str, tuple[Damage, str]] = {
    "an unknown optimizer": (header(optimizer="Sophia"), "Sophia"),
    "NaN in the gradient": (
        changed("steps/8-16.safetensors", lambda t: fill(t["grad_norm"], float("nan"))),
        "from step 8 on",
    ),
    "infinity in the loss": (
        changed("steps/8-16.safetensors", lambda t: fill(t["loss"], float("inf"))),
        "from step 8 on",
    ),
    "infinity in the last state": (stricken(float("inf"), "states/24.safetensors"), "from step 24 on"),
    "NaN in a state on the way": (
        stricken(float("nan"), "states/8.safetensors", "states/16.safetensors"),
        "from step 8 on|from step 16 on",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_attributed_can_still_be_viewed(path: Path, case: str) -> None:
    damage, because = UNUSABLE[case]
    damage(path)
    info = aa("info", path, folder=path.parent)
    assert info.code == 0 and ("from step 8 on" in info.said) == case.endswith(("gradient", "loss"))
    ask = ("--problem", path.parent / "problem.py")
    refused("effects", path, "--by", "stage", *ask, folder=path.parent, because=because)
    refused("effects", path, "--by", "step", "--mean", *ask, folder=path.parent, because=because)
    refused("whatif", path, "--skip", "last", *ask, folder=path.parent, because=because)
    refused("report", path, "-o", path.parent / "report.html", *ask, folder=path.parent, because=because)
    refused("check", path, *ask, folder=path.parent, because=because)


REFERENCING = """
from aa_core.problem import Problem
from tests.recorded import LOSS, Net

def problem(config):
    return Problem(Net(), LOSS, device="cpu")
"""


def test_a_run_whose_dataset_is_absent_can_still_be_viewed(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    path, ask = folder / "run", ("--problem", folder / "problem.py")
    folder.mkdir()
    record(path, dataset=DatasetReference("pairs", Pairs()))
    (folder / "problem.py").write_text(REFERENCING)
    assert aa("info", path, folder=folder).code == 0
    assert aa("check", path, "--no-replay", folder=folder).code == 0
    for command in (("check",), ("effects", "--by", "stage"), ("whatif", "--skip", "second")):
        refused(command[0], path, *command[1:], *ask, folder=folder, because="references the dataset 'pairs'")


def test_a_run_that_may_only_be_read_is_read(path: Path) -> None:
    for file in (*path.rglob("*"), path):
        file.chmod(0o555 if file.is_dir() else 0o444)
    assert aa("check", path, "--problem", path.parent / "problem.py", folder=path.parent).code == 0
    for folder in (f for f in (path, *path.rglob("*")) if f.is_dir()):
        folder.chmod(0o755)


# ---- nothing is executed ---------------------------------------------------------------------------------------------

CANARY = "raise SystemExit(open({canary!r}, 'w').write('executed'))"


def pickled(canary: Path) -> bytes:
    """A pickle that creates a file when it is loaded."""
    command = f"touch {canary}"
    return b"cposix\nsystem\n(V" + command.encode() + b"\ntR."


IN_ONE_PROCESS = """
import json, sys
from typer.testing import CliRunner
from aa_core.cli import app
before = set(sys.modules)
ended = [CliRunner().invoke(app, command) for command in json.loads(sys.argv[1])]
found = {"ended": [[e.exit_code, e.output] for e in ended], "imported": sorted(set(sys.modules) - before)}
json.dump(found, sys.stdout)
"""


def in_one_process(folder: Path, *commands: list[str]) -> tuple[list[tuple[int, str]], list[str]]:
    """(exit code, output) of each command, and the modules that all of them imported; as `aa` runs them in a folder."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", IN_ONE_PROCESS, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [(code, said) for code, said in found["ended"]], found["imported"]


def test_code_in_and_beside_a_run_is_never_executed(path: Path, tmp_path: Path) -> None:
    canary, run = tmp_path / "canary", str(path)
    for place in (path, path.parent, path / "states"):
        for name in ("torch", "pandas", "safetensors", "typer", "sitecustomize", "usercustomize", "problem_of_the_run"):
            (place / f"{name}.py").write_text(CANARY.format(canary=str(canary)))
    header(problem={"name": "problem_of_the_run:problem", "config": {}}, model_class="problem_of_the_run.Net")(path)
    for suffix in ("pt", "pt2", "pkl", "pth", "bin"):
        (path / "states" / f"0.{suffix}").write_bytes(pickled(canary))
    ended, imported = in_one_process(
        path.parent,
        ["info", run],
        ["check", run, "--no-replay"],
        ["check", run],
        ["effects", run],
        ["report", run, "-o", "report.html"],
    )
    assert [code for code, _ in ended] == [0, 0, 1, 1, 1]
    assert all("'problem_of_the_run:problem', which is not registered here" in said for _, said in ended[2:])
    assert not [name for name in imported if name.startswith(("problem", "sample_runs", "sitecustomize"))]
    replace_file(path, STATE, pickled(canary))
    refused("check", path, "--no-replay", folder=path.parent, because="not a safetensors file")
    assert not canary.exists()


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.file}",)


def saved(canary: Path) -> bytes:
    """What torch.save makes."""
    file = io.BytesIO()
    torch.save({"params/0.weight": torch.ones(5, 4), "more": Canary(canary)}, file)
    return file.getvalue()


def exported(canary: Path) -> bytes:
    """What torch.export.save makes, with one more pickle beside its own."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(4, 5), (torch.ones(2, 4),)), file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data/constants/model.pt", saved(canary))
    return file.getvalue()


@pytest.mark.parametrize("made", [saved, exported])
def test_what_torch_saved_is_never_unpickled(path: Path, tmp_path: Path, made: Callable[[Path], bytes]) -> None:
    canary, ask = tmp_path / "canary", ("--problem", path.parent / "problem.py")
    data, names = made(canary), [f"states/{p.name}" for p in (path / "states").iterdir()]
    for name in names:
        replace_file(path, name, data)
    for command in (("check",), ("effects", "--by", "step", "--mean"), ("report", "-o", "report.html")):
        refused(command[0], path, *command[1:], *ask, folder=path.parent, because="not a safetensors file")
    reseal(path, lambda c: c["files"].append(c["files"][0] | {"name": "states/0.pt", "role": "state"}), 0)
    (path / "states" / "0.pt").write_bytes(data)
    refused("check", path, *ask, folder=path.parent, because=r"files\.\d+\.name: .*found 'states/0\.pt'")
    assert not canary.exists()


WORDS = "a\0b\n\x1b[31mred <script>alert(1)</script> \u202eback"
LITERAL = "<script>alert(1)</script>"


def test_words_of_a_run_reach_neither_terminal_nor_page_as_code(path: Path) -> None:
    name = "data/evaluation.json"
    described = {"class_names": [f"{WORDS}{i}" for i in range(3)], "metadata": {f"column {WORDS}": [WORDS, "b"] * 6}}
    replace_file(path, name, json.dumps(described).encode())
    header(title=WORDS)(path)
    reseal(path, lambda c: [s.update(note=WORDS) for s in c["stages"]], -1)
    ask = ("--problem", path.parent / "problem.py")
    said = aa("info", path, folder=path.parent).said
    assert LITERAL in said and "\\u0000" in said
    made = aa("report", path, *ask, "-o", "report.html", folder=path.parent)
    assert made.code == 0, made.said
    page = (path.parent / "report.html").read_text()
    assert LITERAL not in page and LITERAL.replace("<", "&lt;").replace(">", "&gt;") in page
    for shown in (said, made.said, page):
        assert not re.search("[\0\x1b\u202e]", shown)


# ---- reports from strangers ------------------------------------------------------------------------------------------


def zip_of(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def understated(data: bytes) -> bytes:
    """The archive, its directory saying that each file has a hundred bytes."""
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 24] + (100).to_bytes(4, "little") + data[at + 28 :]


PAGE = b'<meta name="aa-html-sha256" content="%s"><script type="application/json" id="report">%%s</script>' % (
    b"0" * 64
)
REPORTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a zip bomb": ("zip", lambda p: p.write_bytes(zip_of({"report.json": bytes(200 * MIB)})), "holds more than"),
    "a zip bomb that lies": (
        "zip",
        lambda p: p.write_bytes(understated(zip_of({"report.json": bytes(200 * MIB)}))),
        "not a readable zip|missing",
    ),
    "a page of 65 MiB": ("html", lambda p: p.write_bytes(bytes(65 * MIB)), "a report has at most"),
    "a page of 64 MiB": ("html", lambda p: p.write_bytes(PAGE % (b" " * (63 * MIB))), "report.html"),
    "a page without a report": ("html", lambda p: p.write_bytes(b"<" * (64 * MIB)), "not a report of this package"),
    "deep JSON": ("json", lambda p: p.write_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deeply"),
    "deep JSON in a page": ("html", lambda p: p.write_bytes(PAGE % (b"[" * 10**6)), "nested too deeply"),
    "a PDF of zeros": ("pdf", lambda p: p.write_bytes(b"%PDF-1.7" + bytes(50 * MIB)), "report.pdf"),
    "a pipe": ("json", os.mkfifo, "no such file|not a regular file"),
    "a table beside a pipe": (
        "csv",
        lambda p: (p.write_bytes(b"a,b"), os.mkfifo(p.with_suffix(".json"))),
        "keep report.json beside it",
    ),
}


@pytest.mark.parametrize("case", REPORTS)
def test_a_hostile_report_is_refused_in_words(tmp_path: Path, case: str) -> None:
    suffix, make_it, because = REPORTS[case]
    folder = tmp_path / "here"
    folder.mkdir()
    make_it(folder / f"report.{suffix}")
    refused("report", "verify", folder / f"report.{suffix}", folder=folder, because=because)
