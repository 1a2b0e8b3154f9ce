"""One Chromium for the tests of a file, and windows in it that wait as long as a busy machine needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, expect, sync_playwright

PATIENCE = 120_000
"""Milliseconds; other tests keep the cores busy."""
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


def window(browser: Browser, **options: Any) -> BrowserContext:
    """A browser session of its own: nothing kept from another one, and as patient as `expect` is."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(PATIENCE)
    return context


def click_bar(bar: Locator, opens: Locator) -> None:
    """Click a bar until what it opens is there: a click is lost on a chart that is just being drawn again."""
    for _ in range(5):
        bar.click(force=True)
        try:
            return expect(opens).to_be_visible(timeout=PATIENCE / 5)
        except AssertionError:
            continue
    expect(opens).to_be_visible()
