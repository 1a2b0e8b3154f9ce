"""The report in a real browser with the network off: it draws, it asks for nothing, nothing hostile runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from aa_core.reporting.files import write_report
from aa_core.reporting.report import Context, build_report
from tests.browser.conftest import window
from tests.core.report_case import HOSTILE, make, whatif

pytestmark = pytest.mark.browser
SIZES = {"desk": {"width": 1100, "height": 900}, "phone": {"width": 390, "height": 844}}


class Opened(NamedTuple):
    """A page, and what happened while it was opened."""

    page: object
    events: list[str]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, problem = make()
    path = tmp_path_factory.mktemp("report") / "report.html"
    context = Context(whatifs=[whatif(name, 0.1) for name in HOSTILE])
    write_report(build_report(run, problem, context=context), path)
    return path


@pytest.fixture(params=SIZES)
def opened(request: pytest.FixtureRequest, browser, file: Path) -> Iterator[Opened]:
    context = window(browser, offline=True, viewport=SIZES[request.param])
    page, events = context.new_page(), []
    page.on("request", lambda r: None if r.url.startswith(("file://", "data:")) else events.append(f"request {r.url}"))
    page.on("console", lambda m: events.append(f"console {m.type}: {m.text}"))
    page.on("pageerror", lambda e: events.append(f"error {e}"))
    page.on("dialog", lambda d: (events.append(f"dialog {d.message}"), d.dismiss()))
    page.goto(file.as_uri())
    page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 5")
    page.locator(".js-plotly-plot .bars .point path").first.wait_for()
    yield Opened(page, events)
    context.close()


def test_charts_are_drawn_and_nothing_else_happens(opened: Opened) -> None:
    page, events = opened
    assert page.locator(".plot.js-plotly-plot").count() == 5
    assert page.locator(".plot").nth(1).locator(".bars .point path").count() == len(HOSTILE)
    assert events == []


def test_hostile_names_are_text(opened: Opened) -> None:
    page = opened.page
    shown = page.locator("main").inner_text()
    assert "<script>alert(1)</script>" in shown and "a\\u202eb" in shown
    assert page.locator("main img").count() == 0
    assert page.locator(".plot a").count() == 0


def test_the_page_is_never_wider_than_the_screen(opened: Opened) -> None:
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_every_figure_links_to_its_view_by_the_digest_of_the_run_or_says_why_not(opened: Opened) -> None:
    links = opened.page.locator("figure .evidence a")
    targets = [links.nth(i).get_attribute("href") for i in range(links.count())]
    figures = opened.page.locator("figure")
    linked = opened.page.locator("figure:has(.evidence a)").count()
    assert 3 <= linked == figures.count() - figures.filter(has_text="no link: ").count()
    digest = opened.page.locator("dl.facts dd").first.inner_text()
    assert all(t.startswith("http://127.0.0.1:8501/") and f"digest={digest}" in t for t in targets)
    opened.page.locator("nav a").last.click()
    assert "section-" in opened.page.url and opened.events == []


def test_text_of_charts_follows_the_theme(opened: Opened) -> None:
    page = opened.page
    seen = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        seen.append(
            page.evaluate("""() => {
            const fill = getComputedStyle(document.querySelector('.plot .gtitle')).fill;
            return [fill, getComputedStyle(document.documentElement).backgroundColor];
        }""")
        )
    (light_text, light_page), (dark_text, dark_page) = seen
    assert light_text == dark_page.replace("21, 23, 27", "26, 28, 32") and dark_text == "rgb(228, 230, 233)"
    assert light_page == "rgb(255, 255, 255)"


def test_the_policy_stops_a_script_that_got_in(browser, file: Path) -> None:
    page = window(browser).new_page()
    page.goto(file.as_uri())
    page.evaluate("""() => {
        const added = document.createElement('script');
        added.textContent = 'window.ran = true';
        document.body.append(added);
    }""")
    assert page.evaluate("window.ran === undefined")
    page.context.close()


def test_it_prints_in_dark_ink_on_white(browser, file: Path) -> None:
    page = window(browser, color_scheme="dark").new_page()
    page.goto(file.as_uri())
    page.locator(".js-plotly-plot .bars .point path").first.wait_for()
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.context.close()
