"""`make screenshots`: the pictures of README and docs, taken from the real dashboard on the shipped runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.find_chromium import NONE_FOUND, find_chromium
from tests.browser.server import dashboard

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
PATIENCE = 60_000
STAGE_BARS = "[class*='st-key-stages'] .js-plotly-plot .bars .point path"


def main() -> None:
    """Take all pictures, in the light theme at 1280 x 900."""
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
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        for take in (overview, explore, whatif, report):
            take(page, address)
        browser.close()


def overview(page: Page, address: str) -> None:
    page.goto(f"{address}/?run=digits-shift")
    expect(page.get_by_role("rowheader", name="90° (second time)")).to_be_visible()
    save(page, "overview")


def explore(page: Page, address: str) -> None:
    page.goto(f"{address}/explore?run=digits-mislabelled&examples=0-396")
    expect(page.locator(STAGE_BARS)).to_have_count(7)
    save(page, "explore")


def whatif(page: Page, address: str) -> None:
    page.goto(f"{address}/what-if?run=digits-mislabelled&examples=0-396&skip=round+4")
    page.get_by_role("button", name="Retrain to verify").click()
    expect(page.get_by_text("Example by example (n = 397)")).to_be_visible()
    save(page, "what-if")


def report(page: Page, address: str) -> None:
    page.goto(f"{address}/report?run=digits-mislabelled&examples=0-396")
    expect(page.get_by_role("button", name="HTML report")).to_be_visible()
    save(page, "report")


def save(page: Page, name: str) -> None:
    """Wait until the page stands still, then keep it."""
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)
    page.wait_for_timeout(800)  # transitions of the charts
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    print(path)


if __name__ == "__main__":
    main()
