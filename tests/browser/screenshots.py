"""`make screenshots`: the pictures of README and guide, taken from the real dashboard on the shipped runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.find_chromium import NONE_FOUND, find_chromium
from tests.browser.server import dashboard

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
PATIENCE = 120_000
WIDTH, LOW = 1280, 900
HEIGHT = "document.querySelector('.stMain').scrollHeight"
STAGE_BARS = "[class*='st-key-stages'] .js-plotly-plot .bars .point path"


def main() -> None:
    """Take all pictures, in the light theme at 1280 x 900 or as tall as the page."""
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit(NONE_FOUND)
    IMAGES.mkdir(exist_ok=True)
    expect.set_options(timeout=PATIENCE)
    with (
        tempfile.TemporaryDirectory() as folder,
        dashboard(Path(folder), Path(folder) / "log") as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": LOW}, color_scheme="light")
        for take in (overview, explore, step, subgroups, whatif, compare, reliability, report, jobs):
            take(page, address)
        browser.close()


def overview(page: Page, address: str) -> None:
    page.goto(f"{address}/?run=digits-mislabelled")
    expect(page.get_by_role("link", name="What if without round 4?")).to_be_visible()
    save(page, "overview", tall=True)


def explore(page: Page, address: str) -> None:
    page.goto(f"{address}/explore?run=digits-mislabelled")
    expect(page.locator(STAGE_BARS)).to_have_count(7)
    save(page, "explore")


def step(page: Page, address: str) -> None:
    page.goto(f"{address}/explore?run=digits-mislabelled&stage=round+4&steps=201-201")
    expect(page.get_by_text("They add up to")).to_be_visible()
    save(page, "step", tall=True)


def subgroups(page: Page, address: str) -> None:
    page.goto(f"{address}/subgroups?run=digits-mislabelled&by=true+label&first=is+1&second=is+5")
    expect(page.get_by_text("Positive = the stage helped the first more")).to_be_visible()
    save(page, "subgroups", tall=True)


def whatif(page: Page, address: str) -> None:
    page.goto(f"{address}/what-if?run=digits-mislabelled&skip=round+4")
    page.get_by_role("button", name="Retrain to verify").click()
    expect(page.get_by_text("Example by example (n = 397)")).to_be_visible()
    save(page, "what-if")


def compare(page: Page, address: str) -> None:
    page.goto(f"{address}/compare?run=digits-mislabelled&mode=stages&first=round+4&second=round+5")
    expect(page.locator(".js-plotly-plot")).to_have_count(3)
    save(page, "compare", tall=True)


def reliability(page: Page, address: str) -> None:
    page.goto(f"{address}/reliability?run=digits-mislabelled")
    expect(page.get_by_text("Noise floor")).to_be_visible()
    save(page, "reliability", tall=True)


def jobs(page: Page, address: str) -> None:
    page.goto(f"{address}/jobs?run=digits-mislabelled")
    expect(page.get_by_text("Without round 4")).to_be_visible()
    save(page, "jobs")


def report(page: Page, address: str) -> None:
    page.goto(f"{address}/report?run=digits-mislabelled")
    expect(page.get_by_role("button", name="HTML report")).to_be_visible()
    save(page, "report")


def save(page: Page, name: str, *, tall: bool = False) -> None:
    """Wait until the page stands still, then keep it; all of it if it is `tall`."""
    expect(page.locator("[data-test-script-state='running']")).to_have_count(0)
    if tall:
        page.set_viewport_size({"width": WIDTH, "height": page.evaluate(HEIGHT)})
    page.wait_for_timeout(800)  # transitions of the charts
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    page.set_viewport_size({"width": WIDTH, "height": LOW})
    print(path)


if __name__ == "__main__":
    main()
