"""A report as files, each written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import zipfile
from contextlib import suppress
from pathlib import Path

from aa_core.errors import MissingExtraError, RequestError
from aa_core.files import write_atomic
from aa_core.reporting.html import to_html
from aa_core.reporting.model import Report, to_json
from aa_core.reporting.pdf import to_pdf
from aa_core.reporting.tables import to_csv

SUFFIXES = (".html", ".json", ".pdf", ".csv", ".zip")
LONG_AGO = (1980, 1, 1, 0, 0, 0)
SUMS = "SHA256SUMS"
DIGITS = 64


def write_report(report: Report, path: str | Path) -> tuple[Path, ...]:
    """Write the format of the path's suffix; the files written.

    .csv is the table of stages, with the other tables beside it, report-steps.csv and so on, and report.json, which
    they are verified against.
    Raises RequestError for another suffix, MissingExtraError for a PDF without typst.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".html":
            files = {path: to_html(report).encode()}
        case ".json":
            files = {path: to_json(report).encode()}
        case ".pdf":
            files = {path: to_pdf(report)}
        case ".zip":
            files = {path: to_zip(report)}
        case ".csv":
            files = {_beside(path, name): text.encode() for name, text in to_csv(report).items()}
            files |= {path.with_suffix(".json"): to_json(report).encode()}
        case other:
            found = repr(other) if other else "a file without suffix"
            raise RequestError(f"{path}: cannot write a report as {found}; use one of {', '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, data in files.items():
        write_atomic(target, data)
    return tuple(files)


def to_zip(report: Report) -> bytes:
    """report.html, .json, .pdf (with typst), tables/*.csv and their SHA256SUMS; the same bytes for the same report.

    The comment of the archive is the sha256 of all that stands before it.
    """
    files = {"report.html": to_html(report).encode(), "report.json": to_json(report).encode()}
    with suppress(MissingExtraError):
        files["report.pdf"] = to_pdf(report)
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
        archive.comment = bytes(DIGITS)
    content = buffer.getvalue()[:-DIGITS]
    return content + hashlib.sha256(content).hexdigest().encode()


def _beside(path: Path, table: str) -> Path:
    return path if table == "stages.csv" else path.with_name(f"{path.stem}-{table}")
