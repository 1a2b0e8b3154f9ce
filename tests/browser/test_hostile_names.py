"""Strings of a run in a real browser: shown as they are, on every screen and in every export, and nothing happens."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from aa_core.findings import ledger_path
from aa_core.runs.trajectory import open_run
from tests.browser.conftest import window
from tests.browser.server import dashboard
from tests.dashboard.conftest import record

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SCREENS = ("", "explore", "subgroups", "what-if", "compare", "reliability", "findings", "report", "jobs")
WORDS = (
    '=HYPERLINK("http://evil.example")<img src=x onerror=alert(1)><script>alert(2)</script>'
    "![p](http://evil.example/p.png) [a](javascript:alert(3)) </title> \u202eback"
)
LITERAL = "<img src=x onerror=alert(1)><script>alert(2)</script>![p](http://evil.example/p.png)"
OBEYED = "img[src='x'], img[src*=evil], a[href^='http://evil'], a[href^='javascript']"
PROBES = re.compile(r"/_stcore/(health|host-config)$")


class Site(NamedTuple):
    """A dashboard over one run, all of whose strings are hostile."""

    address: str
    workspace: Path
    run: Path
    log: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("dashboard")
    record(folder / "runs" / "hostile", words=WORDS, title=WORDS)
    with dashboard(folder / "workspace", folder / "log", folder / "runs") as address:
        yield Site(address, folder / "workspace", folder / "runs" / "hostile", folder / "log")


def watched(context: BrowserContext, own: str, events: list[str]) -> Page:
    """A page; whatever a hostile string could bring about is noted."""
    page = context.new_page()
    page.on("dialog", lambda d: (events.append(f"dialog {d.message}"), d.dismiss()))
    page.on("pageerror", lambda e: events.append(f"error {e}"))
    page.on(
        "request", lambda r: None if r.url.startswith((own, "data:", "blob:")) else events.append(f"request {r.url}")
    )
    page.on(
        "console",
        lambda m: None if m.type != "error" or PROBES.search(m.location["url"]) else events.append(f"console {m.text}"),
    )
    return page


@pytest.fixture
def visit(site: Site, browser: Browser) -> Iterator[Callable[[str], Page]]:
    """Opens a path; at the end nothing must have happened."""
    events: list[str] = []
    context = window(browser)

    def open_page(path: str) -> Page:
        page = watched(context, site.address, events)
        page.goto(f"{site.address}/{path}")
        return page

    yield open_page
    context.close()
    assert events == []


Visit = Callable[[str], Page]


def settled(page: Page) -> str:
    """The words on the page, once it stands still."""
    expect(page.get_by_role("heading").first).to_be_visible()
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)
    return page.locator("body").inner_text()


@pytest.mark.parametrize("screen", SCREENS)
def test_strings_are_shown_and_nothing_happens(visit: Visit, screen: str) -> None:
    page = visit(f"{screen}?run=hostile&examples=1,2")
    if screen in ("", "subgroups", "what-if", "report"):
        expect(page.get_by_text("<img src=x onerror=alert(1)><script>alert(2)</script>").first).to_be_visible()
    words = settled(page)
    assert "Traceback" not in words and "\u202e" not in words, "it would turn what follows"
    assert page.locator(OBEYED).count() == 0
    assert page.title().count("alert") == 0
    scripts = page.evaluate("[...document.scripts].filter(s => s.textContent.includes('alert(2)')).length")
    assert scripts == 0


def test_an_exported_report_is_harmless_in_browser_and_spreadsheet(
    visit: Visit, browser: Browser, tmp_path: Path
) -> None:
    page = visit("report?run=hostile&examples=1,2")
    for name in ("HTML report", "Everything as ZIP"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / name)
    events: list[str] = []
    opened = tmp_path / "report.html"
    (tmp_path / "HTML report").rename(opened)
    context = window(browser, offline=True)
    shown = watched(context, "file://", events)
    shown.goto(opened.as_uri())
    shown.locator(".js-plotly-plot .bars .point path").first.wait_for()
    words = shown.locator("main").inner_text()
    assert LITERAL in words and "\u202e" not in words and shown.locator(OBEYED).count() == 0
    context.close()
    assert events == []
    with zipfile.ZipFile(tmp_path / "Everything as ZIP") as files:
        tables = [files.read(n).decode() for n in files.namelist() if n.endswith(".csv") and "SUMS" not in n]
    cells = [cell for table in tables for row in csv.reader(io.StringIO(table)) for cell in row]
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)
    assert not [cell for cell in cells if re.match(r"[=+@\t\r]|-(?![\d.])", cell)]


def test_tables_offer_no_file_that_a_spreadsheet_would_obey(visit: Visit) -> None:
    page = visit("explore?run=hostile")
    page.get_by_text("Table", exact=True).click()
    table = page.get_by_test_id("stDataFrame")
    expect(table).to_be_visible()
    table.hover()
    expect(page.get_by_role("button", name="Search")).to_be_visible()
    expect(page.get_by_role("button", name="Download as CSV")).to_be_hidden()


@pytest.mark.parametrize(
    "run", ["../../../../etc", "/etc/passwd", "hostile/../hostile", "file:///etc", "%2e%2e", WORDS]
)
def test_a_run_is_named_by_its_id_and_by_no_path(visit: Visit, run: str) -> None:
    page = visit(f"?{'run=' + run.replace('%', '%25').replace('&', '%26').replace('#', '%23')}")
    expect(page.get_by_text("There is no run of this name here")).to_be_visible()
    assert "root:" not in settled(page)


def test_an_error_of_ours_tells_a_visitor_nothing(visit: Visit, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_WORKSPACE", str(site.workspace))
    ledger = ledger_path(open_run(site.run))
    ledger.mkdir(parents=True)  # no view expects a folder in its place
    try:
        page = visit("findings?run=hostile")
        expect(page.get_by_test_id("stException")).to_be_visible()
        words = settled(page)
    finally:
        ledger.rmdir()
    assert "IsADirectoryError" in site.log.read_text(), "the operator reads it"
    assert not re.search(r"Traceback|IsADirectory|\.py|/tmp|jsonl", words)
