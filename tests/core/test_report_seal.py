"""Reports are deterministic, and one changed digit is found in every format and named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import plotly
import pytest

from aa_core.errors import IntegrityError, MissingExtraError, RequestError, RunFormatError, RunVersionError
from aa_core.processes import child_environment
from aa_core.reporting import pdf as pdf_module
from aa_core.reporting.files import to_zip, write_report
from aa_core.reporting.html import BLANK, html_digest, to_html
from aa_core.reporting.model import Report, json_schema, read_report, to_json
from aa_core.reporting.pdf import to_pdf
from aa_core.reporting.report import Context, build_report
from aa_core.reporting.seal import canonical, sealed, verified
from aa_core.reporting.tables import to_csv
from aa_core.reporting.verify import verify_file
from aa_core.version import __version__
from tests.core.report_case import SCRIPT, make, whatif

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "aa_core" / "reporting" / "report.schema.json"
FIRST = ROOT / "tests" / "golden" / "report-1"
"""A report as it was written when the schema was aa-report/1."""
FORMATS = {"json": to_json, "html": to_html, "pdf": to_pdf, "zip": to_zip}


def built() -> Report:
    run, problem = make()
    return build_report(run, problem, context=Context(whatifs=[whatif(SCRIPT, 0.1)]))


@pytest.fixture(scope="module")
def report() -> Report:
    return built()


@pytest.fixture(scope="module")
def files(report: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{format: a written report}."""
    folder = tmp_path_factory.mktemp("sealed")
    for suffix in (*FORMATS, "csv"):
        write_report(report, folder / f"report.{suffix}")
    return {suffix: folder / f"report.{suffix}" for suffix in (*FORMATS, "csv")}


def digests(report: Report) -> dict[str, str]:
    return {name: hashlib.sha256(_bytes(write(report))).hexdigest() for name, write in FORMATS.items()}


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data


def bumped(data: bytes, at: int) -> bytes:
    """The data with the digit at one place raised by one."""
    return data[:at] + str((int(data[at : at + 1]) + 1) % 10).encode() + data[at + 1 :]


# ---- same input, same bytes ------------------------------------------------------------------------------------------


def test_another_process_writes_the_same_bytes(report: Report) -> None:
    script = "import json; from tests.core.test_report_seal import built, digests; print(json.dumps(digests(built())))"
    environment = {**child_environment(), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
    script = f"import torch; torch.set_num_threads(1); {script}"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert json.loads(found.stdout) == digests(report)


def test_json_reads_back_as_the_same_report(report: Report) -> None:
    data = to_json(report).encode()
    assert read_report(data) == report
    assert json.loads(data)["schema"] == "aa-report/2"
    assert json.loads(data)["digest"] == report.digest


def test_the_committed_schema_is_current_and_the_report_follows_it(report: Report) -> None:
    assert SCHEMA.read_text() == json_schema(), "aa report schema > aa_core/reporting/report.schema.json"
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(to_json(report)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(to_json(report)), "extra": 1}, schema)


# ---- reports of the first schema -------------------------------------------------------------------------------------


def test_a_report_of_the_first_schema_verifies_with_its_tables(tmp_path: Path) -> None:
    shutil.copytree(FIRST, tmp_path, dirs_exist_ok=True)
    tables = sorted(tmp_path.glob("*.csv"))
    assert len(tables) == 6
    for file in (tmp_path / "report.json", *tables):
        verify_file(file)
    for file in tables:
        data = file.read_bytes()
        at = place_of(data, rb"\n[^\n]*\d")
        with pytest.raises(IntegrityError, match="row 1"):
            verify_file(changed(file, bumped(data, at), tmp_path))


def test_a_page_of_the_first_schema_is_not_made_again(tmp_path: Path) -> None:
    record = (FIRST / "report.json").read_text()
    page = (
        f'<meta name="generator" content="accountability-audit {__version__}, plotly {plotly.__version__}">'
        f'<meta name="aa-html-sha256" content="{BLANK}"><script type="application/json" id="report">{record}</script>'
    )
    file = tmp_path / "report.html"
    file.write_text(page.replace(BLANK, html_digest(page), 1))
    verify_file(file)
    with pytest.raises(IntegrityError, match="was changed after it was written"):
        verify_file(changed(file, file.read_bytes() + b" ", tmp_path))


# ---- one digit changed, noticed and named ----------------------------------------------------------------------------


def test_what_was_not_changed_is_as_it_was_written(files: dict[str, Path]) -> None:
    for file in files.values():
        verify_file(file)


def test_every_single_changed_digit_of_the_json_is_found(report: Report) -> None:
    data = to_json(report).encode()
    places = [m.start() for m in re.finditer(rb"\d", data)][::97]
    assert len(places) > 100
    for at in places:
        with pytest.raises((IntegrityError, RunFormatError, RunVersionError)):
            verified(bumped(data, at))


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("stages", 2, "mean"), "stages[2].mean"),
        (("stages", 0, "readouts", "link"), "stages[0].readouts.link"),
        (("checks", 0, "mean_truth"), "checks[0].mean_truth"),
        (("selection", "n"), "selection.n"),
        (("steps", "effect", 3), "steps.effect"),
        (("groups", "effect", 0, 1), "groups.effect"),
        (("provenance", "seed"), "provenance.seed"),
    ],
)
def test_the_error_names_the_field_that_differs(report: Report, path: tuple, named: str) -> None:
    content = json.loads(to_json(report))
    *way, last = path
    inner = content
    for key in way:
        inner = inner[key]
    inner[last] += 1
    with pytest.raises(IntegrityError, match=re.escape(f": {named} differs from its digest")):
        verified((canonical(content) + "\n").encode())


@pytest.mark.parametrize("edit", [lambda s: s + " ", lambda s: s.replace('"n": 12', '"n": 12.0'), lambda s: s[1:]])
def test_other_bytes_for_the_same_values_are_found(report: Report, edit) -> None:
    with pytest.raises((IntegrityError, RunFormatError)):
        verified(edit(to_json(report)).encode())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", RunFormatError),
        (b"[]", RunFormatError),
        (b"{}", RunFormatError),
        (b'{"schema": "aa-report/3"}', RunVersionError),
        (b'{"schema": "aa-report/2", "schema": "aa-report/2"}', RunFormatError),
        (b'{"schema": "aa-report/2"}', IntegrityError),
        ((canonical(sealed({"schema": "aa-report/2"})) + "\n").encode(), RunFormatError),
    ],
)
def test_what_is_no_report_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"report\.json"):
        read_report(data)


def changed(file: Path, data: bytes, tmp_path: Path) -> Path:
    copy = tmp_path / file.name
    copy.write_bytes(data)
    return copy


def place_of(data: bytes, pattern: bytes) -> int:
    """Where the first digit of the first match stands."""
    found = re.search(pattern, data)
    assert found, pattern
    return found.start() + next(i for i, c in enumerate(found[0]) if chr(c).isdigit())


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        (rb'"mean_truth": 0\.1', "checks\\[0\\].mean_truth"),  # a value of the data
        (rb'"run\.digest": "\w+"', "run.digest"),  # a digest
        (rb"<td[^>]*>\xe2\x88\x92?[+]?0\.\d+", "line \\d+ has"),  # a number that is shown
        (rb'"customdata": \[\s+0', "line \\d+ has"),  # a number of a chart
        (rb"n = 12", "line \\d+ has"),  # a number in words
        (rb'(?<=aa-html-sha256" content=")\w+', "was changed"),  # its own digest
    ],
)
def test_each_kind_of_digit_in_a_page(files: dict[str, Path], tmp_path: Path, pattern: bytes, named: str) -> None:
    data = files["html"].read_bytes()
    with pytest.raises(IntegrityError, match=named):
        verify_file(changed(files["html"], bumped(data, place_of(data, pattern)), tmp_path))


def test_a_page_whose_digest_was_redone_must_still_show_its_data(files: dict[str, Path], tmp_path: Path) -> None:
    page = files["html"].read_text("utf-8")
    own = re.search(r'name="aa-html-sha256" content="(\w+)"', page)[1]
    forged = page.replace(own, BLANK, 1).replace("positive = helped", "positive = hurt", 1)
    forged = forged.replace(BLANK, html_digest(forged), 1)
    with pytest.raises(IntegrityError, match=r"does not show what its data say: line \d+ has .*hurt.* make .*helped"):
        verify_file(changed(files["html"], forged.encode(), tmp_path))


def test_each_digit_of_a_table(files: dict[str, Path], report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.csv")
    for name, column in [("report.csv", "effect"), ("report-steps.csv", "effect"), ("report-groups.csv", "n")]:
        file = tmp_path / name
        original = file.read_bytes()
        header, first, *rest = original.decode().split("\n")
        cells = first.split(",")
        at = header.split(",").index(column)
        cells[at] = bumped(cells[at].encode(), place_of(cells[at].encode(), rb"\d")).decode()
        file.write_text("\n".join([header, ",".join(cells), *rest]), "utf-8")
        with pytest.raises(IntegrityError, match=f"{name}: row 1, column {column}: .* the report says"):
            verify_file(file)
        file.write_bytes(original)
        verify_file(file)
        file.write_bytes(original + original.splitlines()[-1] + b"\n")
        with pytest.raises(IntegrityError, match="lines"):
            verify_file(file)


def test_a_table_alone_cannot_be_verified(report: Report, tmp_path: Path) -> None:
    (tmp_path / "stages.csv").write_text(to_csv(report)["stages.csv"])
    with pytest.raises(RequestError, match=r"keep report\.json beside it"):
        verify_file(tmp_path / "stages.csv")


def test_each_part_of_a_pdf(files: dict[str, Path], tmp_path: Path) -> None:
    data = files["pdf"].read_bytes()
    assert data.startswith(b"%PDF-1.7") and len(re.findall(rb"/Type ?/EmbeddedFile", data)) == 1
    attached = re.search(rb"/Type ?/EmbeddedFile.*?stream\r?\n", data, re.DOTALL).end()
    content = data.index(b"stream\n", 200) + 40
    for at, named in [
        (attached + 2000, "report.json"),
        (content, "pages were changed after it was written, first at byte"),
        (place_of(data, rb"(?<=aa-pdf-sha256:)\w+"), "changed"),
        (place_of(data, rb"xref\n0 \d+"), "changed"),
    ]:
        other = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((IntegrityError, RunFormatError), match=named):
            verify_file(changed(files["pdf"], other, tmp_path))


def test_a_pdf_whose_digest_was_redone_must_still_show_its_data(files: dict[str, Path], tmp_path: Path) -> None:
    data = files["pdf"].read_bytes()
    own = re.search(rb"aa-pdf-sha256:(\w+)", data)[1]
    blank = data.replace(own, BLANK.encode())
    at = data.index(b"stream\n", 200) + 40
    blank = blank[:at] + bytes([blank[at] ^ 1]) + blank[at + 1 :]
    forged = blank.replace(BLANK.encode(), pdf_module.pdf_digest(blank).encode())
    with pytest.raises(IntegrityError, match="do not show what the attached data say"):
        verify_file(changed(files["pdf"], forged, tmp_path))


def test_a_pdf_is_verified_without_typst_and_written_only_with_it(
    files: dict[str, Path], report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise pdf_module.metadata.PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "typst", None)
    monkeypatch.setattr(pdf_module.metadata, "version", missing)
    verify_file(files["pdf"])
    data = files["pdf"].read_bytes()
    with pytest.raises(IntegrityError, match=r"pages were changed after it was written$"):
        verify_file(changed(files["pdf"], bumped(data, place_of(data, rb"xref\n0 \d+")), tmp_path))
    with pytest.raises(MissingExtraError, match=r"accountability-audit\[pdf\]"):
        write_report(report, tmp_path / "r.pdf")
    write_report(report, tmp_path / "r.zip")
    assert "report.pdf" not in zipfile.ZipFile(tmp_path / "r.zip").namelist()
    verify_file(tmp_path / "r.zip")


def test_a_zip_is_verified_file_by_file(files: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(files["zip"]) as archive:
        content = {n: archive.read(n) for n in archive.namelist()}
    assert {"report.html", "report.json", "report.pdf", "SHA256SUMS", "tables/stages.csv"} <= set(content)
    file = tmp_path / "report.zip"
    for name in ("tables/stages.csv", "report.html", "report.json", "extra.txt"):
        with zipfile.ZipFile(file, "w") as archive:
            for n, data in {"extra.txt": b"", **content}.items():
                if n in content or n == name:
                    archive.writestr(n, data + b"0" if n == name else data)
        with pytest.raises((IntegrityError, RunFormatError), match=name):
            verify_file(file)


def test_write_report_by_suffix(report: Report, tmp_path: Path) -> None:
    assert write_report(report, tmp_path / "new" / "r.json") == (tmp_path / "new" / "r.json",)
    names = {p.name for p in write_report(report, tmp_path / "r.csv")}
    tables = {"r-steps.csv", "r-groups.csv", "r-examples.csv", "r-checks.csv", "r-training.csv"}
    assert names == {"r.csv", "r.json", *tables}
    with pytest.raises(RequestError, match=r"\.html, \.json, \.pdf, \.csv, \.zip"):
        write_report(report, tmp_path / "r.docx")
    assert {p.name for p in tmp_path.iterdir()} == {"new", *names}
