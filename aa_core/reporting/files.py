"""A report as files: written whole or not at all, and checked again by anyone."""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from pathlib import Path

from aa_core.errors import IntegrityError, RequestError, RunFormatError
from aa_core.reporting.html import BLANK, GENERATOR, html_digest, to_html
from aa_core.reporting.model import Report, read_report, to_json, verify
from aa_core.reporting.tables import to_csv

SUFFIXES = (".html", ".json", ".csv", ".zip")
LONG_AGO = (1980, 1, 1, 0, 0, 0)
SUMS = "SHA256SUMS"
MOST_BYTES = 64 * 2**20


def write_report(report: Report, path: str | Path) -> tuple[Path, ...]:
    """Write the format of the path's suffix; the files written.

    .csv is the table of stages, with the other tables beside it: report.csv, report-steps.csv, ...
    Raises RequestError for another suffix.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".html":
            files = {path: to_html(report).encode()}
        case ".json":
            files = {path: to_json(report).encode()}
        case ".zip":
            files = {path: to_zip(report)}
        case ".csv":
            files = {_beside(path, name): text.encode() for name, text in to_csv(report).items()}
        case other:
            found = repr(other) if other else "a file without suffix"
            raise RequestError(f"{path}: cannot write a report as {found}; use one of {', '.join(SUFFIXES)}")
    for target, data in files.items():
        _write(target, data)
    return tuple(files)


def to_zip(report: Report) -> bytes:
    """report.html, report.json, tables/*.csv and their SHA256SUMS; the same bytes for the same report."""
    files = {"report.html": to_html(report).encode(), "report.json": to_json(report).encode()}
    files |= {f"tables/{name}": text.encode() for name, text in to_csv(report).items()}
    files[SUMS] = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())
    ).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.create_system, entry.external_attr, entry.compress_type = 3, 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()


def verify_file(path: str | Path) -> None:
    """Check report.json, .html or .zip against the digests in it.

    Raises IntegrityError naming what differs, RunFormatError if it is no report, RequestError for another suffix.
    """
    path = Path(path)
    checks = {".json": verify, ".html": verify_html, ".zip": verify_zip}
    if path.suffix.lower() not in checks:
        raise RequestError(f"{path}: only .json, .html and .zip reports carry digests")
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    if path.stat().st_size > MOST_BYTES:
        raise RunFormatError(f"{path}: {path.stat().st_size} bytes, a report has at most {MOST_BYTES}")
    checks[path.suffix.lower()](path.read_bytes())


def verify_html(data: bytes) -> None:
    """Check the data in the page, the page's own digest and, with the version that wrote it, that both say the same."""
    page = data.decode("utf-8", "replace")
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    own = re.search(r'<meta name="aa-html-sha256" content="([0-9a-f]{64})">', page)
    if not found or not own:
        raise RunFormatError("report.html: not a report of this package: its data or its digest is missing")
    report = read_report(found[1].encode())
    if html_digest(page.replace(own[1], BLANK, 1)) != own[1]:
        raise IntegrityError(
            "report.html: its data are intact, but the page around them was changed after it was written"
        )
    if f'<meta name="generator" content="{GENERATOR}">' in page and to_html(report) != page:
        raise IntegrityError("report.html: the page does not show what its data say")


def verify_zip(data: bytes) -> None:
    """Check every file against SHA256SUMS, and the report within."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(i.file_size for i in archive.infolist()) > MOST_BYTES:
                raise RunFormatError(f"report.zip: holds more than {MOST_BYTES} bytes")
            files = {i.filename: archive.read(i) for i in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise RunFormatError(f"report.zip: not a readable zip file: {error}") from None
    lines = files.pop(SUMS, b"").decode("utf-8", "replace").splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    actual = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    wrong = sorted(n for n in {*listed, *actual} if listed.get(n) != actual.get(n))
    if wrong or not {"report.json", "report.html"} <= set(actual):
        raise IntegrityError(f"report.zip: {', '.join(wrong) or 'the report'} missing, added or changed against {SUMS}")
    verify(files["report.json"])
    verify_html(files["report.html"])


def _beside(path: Path, table: str) -> Path:
    return path if table == "stages.csv" else path.with_name(f"{path.stem}-{table}")


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
