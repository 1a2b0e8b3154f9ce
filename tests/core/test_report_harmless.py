"""Reports are harmless to whoever opens them, in a browser, a spreadsheet or a PDF reader."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from aa_core.reporting.blocks import NOWHERE, Figure
from aa_core.reporting.escape import safe_cell
from aa_core.reporting.html import _chart, to_html
from aa_core.reporting.model import Report
from aa_core.reporting.pdf import to_pdf
from aa_core.reporting.report import DASHBOARD, Context, build_report
from aa_core.reporting.tables import to_csv
from tests.core.report_case import FORMULA, SCRIPT, TURNED, make, shown, whatif


@pytest.fixture(scope="module")
def report() -> Report:
    run, problem = make()
    return build_report(run, problem, context=Context(whatifs=[whatif(SCRIPT, 0.1)], shown=shown()))


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return to_html(report)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of the title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_names_are_shown_and_never_run(page: str) -> None:
    tags = Tags(page).tags
    assert [t for t, _ in tags].count("title") == 1
    assert not [t for t in tags if t[0] == "img" or "onerror" in t[1]]
    kinds = [a.get("type") for t, a in tags if t == "script"]
    assert kinds.count(None) == 2, "plotly and the ten lines that draw"
    assert set(kinds) == {None, "application/json"}
    visible = without_scripts(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in visible
    assert "<b>line</b>" not in visible


def test_a_performance_named_after_a_column_is_shown_literally_in_charts() -> None:
    data = {"stage": ["a"], "share": [0.5], "start": -1.0, "performance": "confounder:<b>line</b>", "unit": "nats"}
    drawn = _chart(Figure("path", "Path", data, "", "", "", NOWHERE)).json
    assert "confounder:&lt;b&gt;line&lt;/b&gt;" in drawn and "<b>line" not in drawn


def test_direction_characters_are_spelled_out(report: Report, page: str) -> None:
    assert TURNED in [r.stage for r in report.stages]
    assert "\u202e" not in page
    assert "a\\u202eb" in without_scripts(page)


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    for tag, attributes in Tags(page).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster", "background"):
            value = attributes.get(name)
            followed = tag == "a" and value is not None and value.startswith(("#section-", f"{DASHBOARD}/"))
            assert followed or value in (None, "data:,"), f"<{tag} {name}={value!r}>"
    assert not re.search(r"@import|url\(", without_scripts(page))
    policy = next(a["content"] for t, a in Tags(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and "unsafe-inline" not in policy.split("style-src")[0]


def test_one_page_stays_under_six_megabytes() -> None:
    run, problem = make(tuple(f"stage {i}" for i in range(12)), n=3_000)
    assert len(to_html(build_report(run, problem)).encode()) < 6_000_000


def test_csv_cells_are_no_formulas(report: Report) -> None:
    tables = {name: list(csv.reader(io.StringIO(text))) for name, text in to_csv(report).items()}
    chosen = ("parts", "shares", "training_examples", "chosen_groups", "gap", "two_stages", "cosines", "prediction")
    always = ("stages", "steps", "groups", "examples", "checks", "training")
    assert set(tables) == {f"{name}.csv" for name in (*always, *chosen)}
    strings = [cell for table in tables.values() for row in table for cell in row if not _is_number(cell)]
    assert f"'{FORMULA}" in strings and "'@note" in strings
    assert not [cell for cell in strings if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_safe_cell_prefixes_text_and_leaves_numbers(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    assert safe_cell(-1.5) == -1.5
    assert safe_cell("a=1") == "a=1"


def test_a_pdf_shows_what_was_chosen_whatever_it_is_called(report: Report) -> None:
    assert to_pdf(report).startswith(b"%PDF-1.7")


def test_a_pdf_shows_strange_names_and_characters_that_no_font_has() -> None:
    run, problem = make(("#panic()", "*a* $x$", "\u202e\u0000b", "\u4e2d\u6587 \U0001f600", ']#read("/etc/passwd")'))
    assert to_pdf(build_report(run, problem, with_steps=False)).startswith(b"%PDF-1.7")
