"""Is a report as it was written, to the digit? If not: which file, which field."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import struct
import zipfile
import zlib
from bisect import bisect_left
from pathlib import Path

from aa_core.errors import IntegrityError, RequestError, RunFormatError
from aa_core.reporting.files import DIGITS, SUMS
from aa_core.reporting.html import BLANK, GENERATOR, html_digest, to_html
from aa_core.reporting.model import Report, read_report
from aa_core.reporting.pdf import verify_pdf
from aa_core.reporting.seal import verified
from aa_core.reporting.tables import to_csv

MOST_BYTES = 64 * 2**20
SHOWN = 80


def verify_file(path: str | Path) -> None:
    """Check report.json, .html, .pdf or .zip against the digests in it, a .csv against the report.json beside it.

    Raises IntegrityError naming what differs, RunFormatError if it is no report, RequestError for another suffix.
    """
    path = Path(path)
    data = read_bounded(path)
    match path.suffix.lower():
        case ".json":
            verified(data, path.name)
        case ".html":
            verify_html(data, path.name)
        case ".pdf":
            verify_pdf(data, path.name)
        case ".zip":
            verify_zip(data, path.name)
        case ".csv":
            beside, table = _record_of(path)
            verify_csv(data, table, read_report(read_bounded(beside), beside.name), path.name)
        case _:
            raise RequestError(f"{path}: a report is a .html, .json, .pdf, .csv or .zip file")


def read_bounded(path: Path) -> bytes:
    """The bytes of a file that may be a report."""
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    if path.stat().st_size > MOST_BYTES:
        raise RunFormatError(f"{path}: {path.stat().st_size} bytes, a report has at most {MOST_BYTES}")
    return path.read_bytes()


def verify_html(data: bytes, where: str) -> None:
    """Check the data in the page, the page's own digest and, with the version that wrote it, that both say the same."""
    page = data.decode("utf-8", "replace")
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    own = re.search(r'<meta name="aa-html-sha256" content="([0-9a-f]{64})">', page)
    if not found or not own:
        raise RunFormatError(f"{where}: not a report of this package: its data or its digest is missing")
    report = read_report(found[1].encode(), f"{where}, the data in it")
    same_version = f'<meta name="generator" content="{GENERATOR}">' in page
    place = _first_line(page, to_html(report)) if same_version else ""
    if html_digest(page.replace(own[1], BLANK, 1)) != own[1]:
        raise IntegrityError(
            f"{where}: its data are intact, but the page around them was changed after it was written{place}"
        )
    if place:
        raise IntegrityError(f"{where}: the page does not show what its data say{place}")


def _first_line(page: str, expected: str) -> str:
    """The first line in which a page is not the one that its data make; empty if there is none."""
    pairs = enumerate(zip(page.splitlines(), expected.splitlines(), strict=False), 1)
    differs = next(((i, a, b) for i, (a, b) in pairs if a != b and "aa-html-sha256" not in a), None)
    if differs is None:
        return "" if page == expected else ": lines are missing, or the digest was changed"
    line, found, wanted = differs
    shorter = range(min(len(found), len(wanted)))
    start = max(bisect_left(shorter, True, key=lambda i: found[: i + 1] != wanted[: i + 1]) - SHOWN // 2, 0)
    a, b = found[start : start + SHOWN], wanted[start : start + SHOWN]
    return f": line {line} has {a!r}, its data make {b!r}"


def verify_zip(data: bytes, where: str) -> None:
    """Check every file against SHA256SUMS, what each of them says against the data, and the archive's own digest."""
    files = _unpacked(data, where)
    lines = files.pop(SUMS, b"").decode("utf-8", "replace").splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    actual = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if not {"report.json", "report.html"} <= set(actual):
        raise IntegrityError(f"{where}: report.json or report.html is missing")
    report = read_report(files["report.json"], f"{where}, report.json")
    verify_html(files["report.html"], f"{where}, report.html")
    if "report.pdf" in files:
        verify_pdf(files["report.pdf"], f"{where}, report.pdf")
    for name in sorted(n for n in files if n.startswith("tables/")):
        verify_csv(files[name], name.removeprefix("tables/"), report, f"{where}, {name}")
    if wrong := sorted(n for n in {*listed, *actual} if listed.get(n) != actual.get(n)):
        raise IntegrityError(f"{where}: {', '.join(wrong)} missing, added or changed against {SUMS}")
    if hashlib.sha256(data[:-DIGITS]).hexdigest().encode() != data[-DIGITS:]:
        raise IntegrityError(
            f"{where}: its files are intact, but the archive around them was damaged or packed anew; unpack it, and "
            "verify report.json or report.html"
        )


def _unpacked(data: bytes, where: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(i.file_size for i in archive.infolist()) > MOST_BYTES:
                raise RunFormatError(f"{where}: holds more than {MOST_BYTES} bytes")
            return {i.filename: archive.read(i) for i in archive.infolist()}
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
    ) as error:
        raise RunFormatError(f"{where}: not a readable zip file: {str(error)[:200]}") from None


def verify_csv(data: bytes, table: str, report: Report, where: str) -> None:
    """Compare a table with the one that the report makes, cell by cell."""
    expected = to_csv(report).get(table)
    if expected is None:
        raise IntegrityError(f"{where}: the report has no table {table}; it has {', '.join(to_csv(report))}")
    if data == expected.encode():
        return
    try:
        found = list(csv.reader(io.StringIO(data.decode("utf-8", "replace"))))
    except csv.Error as error:
        raise IntegrityError(f"{where}: no table any more ({error}), the report makes {table}") from None
    wanted = list(csv.reader(io.StringIO(expected)))
    for number, (a, b) in enumerate(zip(found, wanted, strict=False)):
        for column, (x, y) in enumerate(zip(a, b, strict=False)):
            if x != y:
                name = f"row {number}, column {wanted[0][column]}" if number else f"title of column {column + 1}"
                raise IntegrityError(f"{where}: {name}: {x[:SHOWN]!r}, the report says {y[:SHOWN]!r}")
    raise IntegrityError(
        f"{where}: {len(found)} lines, the report makes {len(wanted)}, or cells or layout were changed"
    )


def _record_of(path: Path) -> tuple[Path, str]:
    """(report.json beside report.csv or report-steps.csv, the table's name)."""
    stem, dash, table = path.stem.rpartition("-")
    candidates = [(path.with_suffix(".json"), "stages.csv")]
    candidates += [(path.with_name(f"{stem}.json"), f"{table}.csv")] if dash else []
    candidates += [(path.parent.parent / "report.json", path.name)]
    found = next((c for c in candidates if c[0].is_file()), None)
    if found is None:
        raise RequestError(
            f"{path}: a table carries no digest; keep report.json beside it (or one folder above, as in report.zip)"
        )
    return found
