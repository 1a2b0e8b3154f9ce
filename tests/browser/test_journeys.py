"""An auditor's way through the dashboard, in a real browser: everything by click or key, nothing from the network."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from aa_core.reporting.verify import verify_file
from tests.browser.conftest import click_bar, window
from tests.browser.server import dashboard, running
from tests.dashboard.conftest import record

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

STAGE_BARS = "[class*='st-key-stages'] .js-plotly-plot .bars .point path"
STEP_BARS = "[class*='st-key-steps'] .js-plotly-plot .bars .point path"
RUNNING = "[data-test-script-state='running']"
FITS = "document.querySelector('.stMain').scrollWidth <= document.querySelector('.stMain').clientWidth"
SCREENS = {
    "": "Calibrated by whoever made or passed on this run, not measured here, on all",
    "explore": "Click a bar to see its steps",
    "subgroups": "Positive = the stage helped the first more",
    "what-if": "Predicted: without",
    "compare": "Cosine between what two stages did",
    "reliability": "Noise floor",
    "findings": "No findings yet",
    "report": "Everything as ZIP",
    "jobs": "Each is a process of its own",
}
"""Every screen, and what stands on it once it is drawn."""
EVERYTHING = "run=digits-adamw&mode=stages&by=rotation&skip=fine-tune+90°"
NAMELESS = """() => {
    const named = e => ['aria-label', 'title', 'placeholder'].some(a => e.getAttribute(a)) || e.innerText?.trim() ||
        [...(e.labels || [])].some(l => l.innerText.trim()) || e.querySelector('img[alt]:not([alt=""])') ||
        (e.getAttribute('aria-labelledby') || '').split(' ').some(i => document.getElementById(i)?.innerText.trim());
    const seen = e => e.getClientRects().length && !e.closest('[aria-hidden=true]');
    const all = (which, lacks) => [...document.querySelectorAll(which)].filter(e => seen(e) && lacks(e));
    const found = [
        ...all('button, a[href], input, select, textarea', e => !named(e)),
        ...all('img', e => !e.hasAttribute('alt')),
        ...all('.js-plotly-plot', e => !e.closest('[role=figure][aria-label]')),
    ];
    return found.map(e => e.outerHTML.slice(0, 200));
}"""
"""Controls without a name, pictures and charts without words for those who do not see them."""
PROBES = re.compile(r"/_stcore/(health|host-config)$")
"""Streamlit looks for its server beside a deep link first, and is told 404."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[str]:
    """A dashboard whose engine is there: it answers before, so the first page is waited for."""
    folder = tmp_path_factory.mktemp("dashboard")
    with dashboard(folder / "workspace", folder / "log") as address:
        page = window(browser).new_page()
        page.goto(address)
        expect(page.get_by_text("What each stage did")).to_be_visible()
        page.context.close()
        yield address


@pytest.fixture
def visit(server: str, browser: Browser) -> Iterator[Callable[[str], Page]]:
    """Opens a path in a fresh browser session; at the end nothing must have left the machine or gone wrong."""
    outside: list[str] = []
    wrong: list[str] = []
    contexts = []

    def open_page(path: str) -> Page:
        context = window(browser)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: None if r.url.startswith((server, "data:", "blob:")) else outside.append(r.url))
        page.on(
            "websocket", lambda w: None if w.url.startswith(server.replace("http", "ws")) else outside.append(w.url)
        )
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on(
            "console",
            lambda m: wrong.append(m.text) if m.type == "error" and not PROBES.search(m.location["url"]) else None,
        )
        page.on("dialog", lambda d: wrong.append(d.message))
        page.goto(f"{server}/{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert outside == []
    assert wrong == []


Visit = Callable[[str], Page]


def test_overview_shows_the_training_and_its_stages(visit: Visit) -> None:
    page = visit("?run=digits-shift")
    expect(page.get_by_role("heading", name="Digits, shifting rotation")).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(1)
    expect(page.get_by_role("rowheader", name="90° (second time)")).to_be_visible()
    expect(page.get_by_text("files match their digests")).to_be_visible()


def test_pick_an_example_click_a_stage_click_a_step(visit: Visit) -> None:
    page = visit("?run=digits-shift")
    page.get_by_role("link", name="Explore").click()
    page.get_by_role("button", name=re.compile("^Example 8:")).click()
    expect(page.get_by_text("Effect on example 8")).to_be_visible()
    expect(page.locator(STAGE_BARS)).to_have_count(6)
    click_bar(page.locator(STAGE_BARS).nth(5), page.get_by_text("Positive = the step helped"))
    expect(page.locator(STEP_BARS)).to_have_count(61)  # and the strip of the stage
    click_bar(page.locator(STEP_BARS).nth(40), page.get_by_text("It trained on these 64 examples"))
    expect(page).to_have_url(re.compile("examples=8.*stage=90.*steps=340-340"))

    expect(page.get_by_text("They add up to")).to_be_visible()
    bar, plot = (
        page.locator(f"[class*='st-key-steps'] .js-plotly-plot {part}").first for part in (".bars path", ".nsewdrag")
    )
    across, above = bar.bounding_box(), plot.bounding_box()
    assert across and above
    page.mouse.click(across["x"] + across["width"] / 2, above["y"] + 4)  # far above it: its bar may be too low to hit
    expect(page).to_have_url(re.compile("examples=8.*stage=90.*steps=300-300"))
    expect(page.get_by_text("Step 300:")).to_be_visible()
    page.go_back()
    expect(page.get_by_text("Step 340:")).to_be_visible()
    expect(page).to_have_url(re.compile("steps=340-340"))

    again = visit(page.url.split("/", 3)[3])
    expect(again.get_by_text("Effect on example 8")).to_be_visible()
    expect(again.get_by_text("It trained on these 64 examples")).to_be_visible()
    expect(again.get_by_role("button", name=re.compile("^Example 8:"))).to_have_attribute("aria-pressed", "true")
    again.get_by_role("button", name="All stages").click()
    expect(again.locator(STAGE_BARS)).to_have_count(6)


def test_the_keyboard_reaches_what_the_mouse_does(visit: Visit) -> None:
    page = visit("explore?run=digits-shift")
    expect(page.get_by_text("Click a bar to see its steps")).to_be_visible()
    page.get_by_role("combobox", name="Picked examples").fill("17")
    expect(page.get_by_role("option").first).to_have_text("#17")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Effect on example 17")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("^Example 3:")).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Effect on example 3")).to_be_visible()


def test_several_examples_are_picked_with_control(visit: Visit) -> None:
    page = visit("explore?run=digits-shift")
    page.get_by_role("button", name=re.compile("^Example 1:")).click()
    expect(page.get_by_text("Effect on example 1")).to_be_visible()
    page.get_by_role("button", name=re.compile("^Example 4:")).click(modifiers=["Control"])
    expect(page.get_by_text("Effect on 2 picked examples")).to_be_visible()
    expect(page).to_have_url(re.compile("examples=1%2C4"))


def test_tiles_that_stay_are_not_drawn_again(visit: Visit) -> None:
    page = visit("explore?run=digits-shift")
    picked, other = (page.get_by_role("button", name=re.compile(f"^Example {i}:")) for i in (1, 4))
    expect(page.locator(STAGE_BARS)).to_have_count(6)
    expect(page.locator(RUNNING)).to_have_count(0)
    for tile in (picked, other):
        tile.evaluate("tile => { tile.dataset.drawn = 'once' }")
    picked.click()
    expect(page.get_by_text("Effect on example 1")).to_be_visible()
    expect(page.locator("[data-drawn]")).to_have_count(1)  # the picked one is another picture
    expect(other).to_have_attribute("data-drawn", "once")
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("button", name=re.compile("^Example 48:"))).to_be_visible()
    expect(other).to_have_count(0)


def test_of_a_click_in_the_chart_only_the_chart_s_side_is_sent_again(visit: Visit, server: str) -> None:
    page, heard = visit("jobs"), []
    page.on("websocket", lambda w: w.on("framereceived", lambda frame: heard.append(str(frame))))
    page.goto(f"{server}/explore?run=digits-shift")
    expect(page.locator(STAGE_BARS)).to_have_count(6)
    expect(page.locator(RUNNING)).to_have_count(0)
    assert any("Wrong only" in frame for frame in heard)
    heard.clear()
    click_bar(page.locator(STAGE_BARS).nth(5), page.get_by_text("Positive = the step helped"))
    page.get_by_role("button", name="All stages").click()
    page.get_by_role("radio", name="Path shares").click()
    expect(page.get_by_text("How the log-likelihood rose or fell")).to_be_visible()
    expect(page).to_have_url(re.compile("chart=shares"))
    assert any("Path shares" in frame for frame in heard)
    assert not any("Wrong only" in frame for frame in heard)


def test_a_run_that_is_another_one_meanwhile_is_not_shown_as_before(browser: Browser, tmp_path: Path) -> None:
    run, other = tmp_path / "runs" / "run", tmp_path / "other"
    record(run, words="plain")
    record(other, words="plain", lr=0.02)
    with dashboard(tmp_path / "workspace", tmp_path / "log", tmp_path / "runs") as address:
        page = window(browser).new_page()
        page.goto(f"{address}/explore")
        expect(page.locator(STAGE_BARS)).to_have_count(2)
        run.rename(tmp_path / "before")
        other.rename(run)
        page.locator(STAGE_BARS).first.click(force=True)
        expect(page.get_by_text("This link was made for another version of the run")).to_be_visible()
        page.context.close()


@pytest.mark.parametrize("screen", ["explore", "subgroups", "compare", "reliability"])
def test_a_chart_has_room_for_its_names_before_it_is_drawn(visit: Visit, screen: str) -> None:
    """Where it has not, plotly makes it and draws all once more."""
    page = visit(f"{screen}?{EVERYTHING}")
    expect(page.get_by_text(SCREENS[screen]).first).to_be_visible()
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(page.locator(RUNNING)).to_have_count(0)
    page.wait_for_timeout(1_000)
    sizes = page.evaluate(
        """() => [...document.querySelectorAll('.js-plotly-plot')].map(({ _fullLayout: { _size, margin } }) =>
            [[_size.l, _size.t, _size.b], [margin.l, margin.t, margin.b]])"""
    )
    assert sizes
    for made, given in sizes:
        assert made == pytest.approx(given, abs=1)


def test_the_back_button_goes_back(visit: Visit) -> None:
    page = visit("explore?run=digits-shift&examples=3")
    expect(page.get_by_text("Effect on example 3")).to_be_visible()
    page.get_by_role("button", name=re.compile("^Example 5:")).click()
    expect(page.get_by_text("Effect on example 5")).to_be_visible()
    expect(page).to_have_url(re.compile("examples=5"))
    page.go_back()
    expect(page.get_by_text("Effect on example 3")).to_be_visible()


def test_what_if_is_retrained_and_stays(visit: Visit) -> None:
    page = visit("what-if?run=digits-shift")
    page.get_by_text("90° (second time)").click()
    expect(page.get_by_text("The model would be better by")).to_be_visible()
    page.get_by_role("button", name="Retrain to verify").click()
    expect(page.get_by_text("Example by example (n = 1,191)")).to_be_visible()
    expect(page.get_by_text(re.compile("estimated .*, retrained .* nats")).first).to_be_visible()

    again = visit("what-if?run=digits-shift")
    again.get_by_role("button", name="Show").first.click()
    expect(again.get_by_text("Example by example (n = 1,191)")).to_be_visible()


def test_a_retraining_can_be_cancelled_and_tried_again(visit: Visit) -> None:
    page = visit("what-if?run=digits-shift&skip=0°+(first+time)&semantics=zero_gradient")
    page.get_by_role("button", name="Retrain to verify").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("This was cancelled")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Example by example")).to_be_visible()


def test_the_report_is_downloaded_verifies_and_leads_back_here(visit: Visit, server: str, tmp_path: Path) -> None:
    page = visit("report?run=digits-adamw&examples=3-20")
    expect(page.get_by_text("18 picked examples")).to_be_visible()
    for name, suffix in (("HTML report", "html"), ("JSON", "json"), ("Everything as ZIP", "zip")):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.name == f"digits-adamw-report.{suffix}"
        verify_file(path)
    written = (tmp_path / "digits-adamw-report.html").read_text()
    [back, *_] = re.findall(r'href="(http[^"]*/explore[^"]*)"', written)
    assert back.startswith(f"{server}/explore?") and not server.endswith(":8501")
    page.goto(unescape(back))
    expect(page.get_by_text("18 picked examples").first).to_be_visible()


def test_a_stale_link_is_refused(visit: Visit) -> None:
    page = visit("?run=digits-shift&digest=000000000000")
    expect(page.get_by_text("This link was made for another version of the run")).to_be_visible()
    page.get_by_role("button", name="Show the run as it is now").click()
    expect(page.get_by_text("What each stage did")).to_be_visible()


def test_training_examples_of_a_step_are_handed_to_what_if(visit: Visit) -> None:
    page = visit("explore?run=digits-adamw&examples=3&stage=fine-tune+90°&steps=200-200")
    tiles = page.get_by_role("button", name=re.compile("^Training example .*helped"))
    tiles.first.click()
    page.get_by_role("link", name="What if without this one?").click()
    expect(page.get_by_text("Predicted: without example")).to_be_visible()
    expect(page).to_have_url(re.compile("what-if.*without="))


def test_a_subgroup_is_built_saved_and_reopened(visit: Visit) -> None:
    page = visit("subgroups?run=digits-adamw&by=rotation")
    expect(page.get_by_text("1,191 of 1,191 (100 %)")).to_be_visible()
    page.get_by_text("Wrong only").click()
    expect(page.get_by_text(re.compile("of 1,191 \\(5"))).to_be_visible()
    page.get_by_role("textbox", name="Name").fill("what it gets wrong")
    page.get_by_role("button", name="Save subgroup").click()
    expect(page.get_by_text("what it gets wrong", exact=True).first).to_be_visible()
    expect(page).to_have_url(re.compile("slice=[0-9a-f]{12}"))

    again = visit(page.url.split("/", 3)[3].replace("subgroups", "explore"))
    expect(again.get_by_text("of the subgroup “what it gets wrong”")).to_be_visible()
    expect(again.locator(STAGE_BARS)).to_have_count(3)


def test_a_job_shows_up_in_a_second_tab(visit: Visit) -> None:
    jobs = visit("jobs?run=digits-adamw")
    expect(jobs.get_by_role("heading", name="Jobs")).to_be_visible()
    page = visit("reliability?run=digits-adamw")
    page.get_by_role("button", name="Replay the whole run").click()
    expect(jobs.get_by_text("Replay of the whole run")).to_be_visible()
    expect(page.get_by_text("chain consistent; 4 of 4 segments replayed")).to_be_visible()
    expect(jobs.get_by_text("chain consistent; 4 of 4 segments replayed")).to_be_visible()


def test_two_runs_and_two_stages_are_compared(visit: Visit) -> None:
    page = visit("compare?run=digits-shift&other=digits-adamw")
    expect(page.get_by_text("No stage has the same name in both")).to_be_visible()
    page.get_by_text("Two stages").click()
    expect(page.get_by_text("Did the stages pull the same way?")).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(3)


def test_a_job_survives_the_server_killed(browser: Browser, tmp_path: Path) -> None:
    workspace, path = tmp_path / "workspace", "what-if?run=digits-mislabelled&skip=round+1"
    with running(workspace, tmp_path / "log") as server:
        page = window(browser).new_page()
        page.goto(f"{server.address}/{path}")
        page.get_by_role("button", name="Retrain to verify").click()
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        os.kill(server.pid, signal.SIGKILL)
        page.context.close()
    with dashboard(workspace, tmp_path / "log") as address:
        page = window(browser).new_page()
        page.goto(f"{address}/{path}")
        expect(page.get_by_text("Example by example (n = 397)")).to_be_visible()
        page.context.close()


def test_strings_of_a_run_are_shown_literally(browser: Browser, tmp_path: Path) -> None:
    record(tmp_path / "runs" / "hostile")
    seen: list[str] = []
    with dashboard(tmp_path / "workspace", tmp_path / "log", tmp_path / "runs") as address:
        page = window(browser).new_page()
        page.on("dialog", lambda d: seen.append(d.message))
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else seen.append(r.url))
        for screen in ("", "explore", "subgroups?by=true+label", "what-if", "compare?mode=stages"):
            page.goto(f"{address}/{screen}")
            expect(page.get_by_role("heading").first).to_be_visible()
            expect(page.locator(RUNNING)).to_have_count(0)
            assert page.locator("img[src='x']").count() == 0
        expect(page.get_by_text("<img src=x onerror=alert(1)> **bold**").first).to_be_visible()
        page.context.close()
    assert seen == []


def _drawn(page: Page, server: str, screen: str) -> None:
    page.goto(f"{server}/{screen}?{EVERYTHING}")
    expect(page.get_by_text(SCREENS[screen]).first).to_be_visible()
    expect(page.locator(RUNNING)).to_have_count(0)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_spills_or_lacks_a_name_on_any_screen(visit: Visit, server: str, width: int) -> None:
    page = visit(f"?{EVERYTHING}")
    page.set_viewport_size({"width": width, "height": 800})
    for screen in SCREENS:
        _drawn(page, server, screen)
        assert page.evaluate(FITS), screen
        assert page.evaluate(NAMELESS) == [], screen


def test_what_if_is_asked_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit("what-if?run=digits-adamw")
    stage = page.get_by_role("checkbox", name="fine-tune 45° · 60 steps")
    stage.wait_for(state="attached")
    for _ in range(60):
        page.keyboard.press("Tab")
        if stage.evaluate("e => e === document.activeElement"):
            break
    page.keyboard.press("Space")
    expect(page.get_by_text("Predicted: without fine-tune 45°")).to_be_visible()
    expect(page.get_by_text("Trains 120 steps again")).to_be_visible()  # and what stands above it, the button
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").strip().endswith("Retrain to verify"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_text("Retrained: ")).to_be_visible()


def test_from_the_first_page_to_a_verified_report(visit: Visit, tmp_path: Path) -> None:
    page = visit("?run=digits-mislabelled")
    page.get_by_role("link", name="What if without round 4?").click()
    expect(page.get_by_text("The model would be better by")).to_be_visible()
    page.get_by_role("button", name="Retrain to verify").click()
    expect(page.get_by_text("Retrained: sign and size are borne out (size: within a factor of two)")).to_be_visible()
    page.get_by_role("button", name="Pin as finding").click()
    page.get_by_role("textbox", name="Claim").fill("Round 4 made the model worse")
    page.get_by_role("textbox", name="Your name").fill("Ada")
    page.get_by_role("button", name="Enter into the ledger").click()
    expect(page.get_by_text("is in the ledger")).to_be_visible()
    page.get_by_role("link", name="Findings").click()
    page.get_by_role("button", name=re.compile("^Enter as confirmed")).click()
    expect(page.get_by_text("Confirmed by retraining")).to_be_visible()
    page.get_by_role("link", name="Report").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="HTML report").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    verify_file(path)
    assert "Round 4 made the model worse" in path.read_text()
