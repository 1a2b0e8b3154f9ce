"""`make bench-ui`: how long the dashboard keeps one waiting, in a real Chromium, written to docs/ui-speed.md.

What the command line adds is printed on the page: how the machine was shared.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from torch import nn

import aa_core as aa
from sample_runs.machine import machine
from sample_runs.problems import DigitsMLP
from tests.browser.find_chromium import NONE_FOUND, find_chromium
from tests.browser.server import dashboard

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ui-speed.md"
BEFORE = Path(__file__).with_name("ui.json")
"""The fastest of the last measurement."""
PATIENCE = 600_000
STARTS, CLICKS = 3, 6
SETTLED = 300
"""Milliseconds between two clicks: nobody clicks faster."""
STAGES = [f"{turn}° ({time} time)" for time in ("first", "second") for turn in (0, 45, 90)]
RUNNING = "[data-test-script-state='running']"
DONE = "[data-test-script-state='notRunning']"
STAGE_BARS = "[class*='st-key-stages'] .js-plotly-plot .bars .point path"
WORKING = "[data-testid=stProgress]"
STEP_BARS = "[class*='st-key-steps'] .js-plotly-plot .bars .point path"
CHART = "[class*='st-key-{}'] .js-plotly-plot .main-svg"
TITLE = "Digits, shifting rotation"
"""The run, as the first screen is headed."""
EVERYWHERE = "run=digits-shift&mode=stages&by=rotation&skip=90°+(second+time)&examples=3"
SCREENS = {
    "Overview": CHART.format("timeline"),
    "Subgroups": CHART.format("gap"),
    "What-if": "text=The model would be",
    "Compare": CHART.format("cosines"),
    "Reliability": "text=Noise floor",
    "Findings": "text=No findings yet",
    "Report": "text=Everything as ZIP",
    "Jobs": "text=Each is a process of its own",
    "Explore": CHART.format("stages"),
}
"""Every screen, and the chart or the words that stand on it last."""
SWITCHES = {
    "Explore": {
        "By layer": CHART.format("split-layer"),
        "Path shares": CHART.format("path"),
        "Effect": CHART.format("stages"),
    },
    "Compare": {"Two groups": "text=whiskers of the difference", "Two stages": CHART.format("cosines")},
}
"""What else can be looked at there, and its chart."""
EXAMPLES, STEPS = 20_000, 10_000


class Row(NamedTuple):
    """What was waited for, how long each time, and what is wanted."""

    what: str
    seconds: list[float]
    wanted: str = ""


def main() -> None:
    """Measure, print, write."""
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit(NONE_FOUND)
    expect.set_options(timeout=PATIENCE)
    load = os.getloadavg()[0]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        rows = [*_samples(browser, Path(folder) / "samples"), *_large(browser, Path(folder) / "large")]
        browser.close()
    before = json.loads(BEFORE.read_text()) if BEFORE.exists() else {}
    PAGE.write_text(_page(rows, before, load))
    figures = {"machine": machine(), **{row.what: round(min(row.seconds), 3) for row in rows}}
    BEFORE.write_text(json.dumps(figures, indent=1) + "\n")
    print(PAGE.read_text())


# ---- what is measured ------------------------------------------------------------------------------------------------


def _samples(browser: Browser, folder: Path) -> list[Row]:
    """From a server that is not running to clicks, on the shipped runs."""
    scale = Row("for scale: torch imported by a process of its own", [_torch_alone() for _ in range(STARTS)])
    starts = [_start(browser, folder / str(i)) for i in range(STARTS)]
    names = (
        "server answers after its start",
        "first chart (the training), cold server and empty browser cache",
        "all of the first page",
    )
    rows = [
        scale,
        *(Row(n, list(t), w) for n, t, w in zip(names, zip(*starts, strict=True), ("2 s", "5 s", ""), strict=True)),
    ]
    with dashboard(folder / "workspace", folder / "log") as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/explore?run=digits-shift")
        expect(page.locator(STAGE_BARS)).to_have_count(6)
        rows += [Row("a filter switched, gallery and stages shown", _each(page, _filter), "0.5 s")]
        rows += [Row("the gallery turned to the next page", _each(page, _turn), "0.5 s")]
        _gone_to(page, f"{address}/explore?run=digits-shift", STAGE_BARS)
        rows += [Row("an example clicked, its stages shown", _each(page, _example), "0.5 s")]
        rows += _drilled(page)
        _gone_to(page, f"{address}/what-if?run=digits-shift", "[class*=st-key-skip] label")
        rows += [Row("a stage ticked in What-if, prediction shown", _each(page, _tick), "0.5 s")]
        _gone_to(page, f"{address}/explore?run=digits-shift&examples=3", STAGE_BARS)
        report = page.get_by_role("heading", name="Report"), page.get_by_text("Everything as ZIP")
        opened, made = _timed_each(page, page.get_by_role("link", name="Report").click, *report)
        rows += [
            Row("Report opened the first time", [opened], "0.5 s"),
            Row("... and what is shown of an example is made and sealed", [made]),
        ]
        rows += _screens(page, f"{address}/explore?{EVERYWHERE}")
    return rows


def _start(browser: Browser, folder: Path) -> tuple[float, float, float]:
    """Seconds until a new server answers, until its first chart is drawn, and until its first page is complete."""
    folder.mkdir(parents=True)
    began = perf_counter()
    with dashboard(folder / "workspace", folder / "log") as address:
        answers = perf_counter() - began
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE)
        began = perf_counter()
        page.goto(f"{address}/?run=digits-shift")
        _seen(page, page.locator(SCREENS["Overview"]))
        chart = perf_counter() - began
        _seen(page, page.get_by_role("rowheader", name="90° (second time)"))
        complete = perf_counter() - began
        page.context.close()
        return answers, chart, complete


def _torch_alone() -> float:
    """Seconds; much of what the first chart waits for, and a measure of how fast the machine is just now."""
    began = perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return perf_counter() - began


def _drilled(page: Page) -> list[Row]:
    """A stage, then a step, the first time and again."""
    stage, steps = page.locator(STAGE_BARS).nth(4), page.locator(STEP_BARS)
    shown = page.get_by_text("They add up to")
    said, into = _timed_each(page, lambda: stage.click(force=True), page.locator(WORKING), steps.nth(59))
    named, step = _timed_each(page, lambda: steps.nth(30).click(force=True), page.get_by_text("Step 270:"), shown)
    others = [_step(page, i) for i in range(10, 10 + CLICKS)]
    back, again = [], []
    for _ in range(CLICKS):
        back += [_timed(page, page.get_by_role("button", name="All stages").click, page.locator(STAGE_BARS).nth(5))]
        again += [_timed(page, lambda: stage.click(force=True), steps.nth(59))]
    return [
        Row("a stage clicked the first time: a bar says that it is being computed", [said], "0.5 s"),
        Row("... and its steps are shown", [into]),
        Row("a step clicked the first time: named with its effect", [named], "0.5 s"),
        Row("... and its training examples, ranked now", [step]),
        Row("another step of that stage clicked", others, "0.5 s"),
        Row("back to all stages", back, "0.5 s"),
        Row("the same stage clicked again", again, "0.5 s"),
    ]


def _screens(page: Page, address: str) -> list[Row]:
    """Every screen opened from the one before, the first time and again, and charts switched to others."""
    said: list[float] = []
    first: list[float] = []
    opened: list[float] = []
    switched: list[float] = []
    _gone_to(page, address, STAGE_BARS)
    page.locator(DONE).wait_for()
    for turn in range(3):
        for screen, shown in SCREENS.items():
            name = TITLE if screen == "Overview" else screen
            awaited = page.get_by_role("heading", name=name, exact=True), page.locator(shown)
            heading, whole = _timed_each(page, page.get_by_role("link", name=screen, exact=True).click, *awaited)
            said += [] if turn else [heading]
            (opened if turn else first).append(whole)
            for chart, instead in SWITCHES.get(screen, {}).items():
                seconds = _timed(page, page.get_by_role("radio", name=chart).click, page.locator(instead))
                switched += [seconds] if turn else []
    return [
        Row("a screen opened the first time, all nine in turn: its heading stands", said, "0.5 s"),
        Row("... and all of it", first),
        Row("another screen opened, all nine in turn: all of it", opened, "0.5 s"),
        Row("another chart of a screen: by layer, path shares, two groups, two stages", switched, "0.5 s"),
    ]


def _gone_to(page: Page, address: str, shown: str) -> None:
    page.goto(address)
    page.locator(shown).first.wait_for()


def _large(browser: Browser, folder: Path) -> list[Row]:
    """20,000 evaluation examples and 10,000 steps."""
    _record_large(folder / "runs" / "large")
    with dashboard(folder / "workspace", folder / "log", folder / "runs") as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        began = perf_counter()
        page.goto(f"{address}/?run=large")
        _seen(page, page.locator(SCREENS["Overview"]))
        size = f"{EXAMPLES:,} examples, {STEPS:,} steps"
        rows = [Row(f"{size}: first chart, cold", [perf_counter() - began])]
        page.goto(f"{address}/explore?run=large")
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        began = perf_counter()
        _seen(page, page.locator(STAGE_BARS))
        rows += [Row(f"{size}: stages embedded by a job, with its progress on the page", [perf_counter() - began])]
        rows += [Row(f"{size}: a filter switched", _each(page, _filter))]
        rows += [Row(f"{size}: the gallery turned", _each(page, _turn), "0.5 s")]
        _gone_to(page, f"{address}/explore?run=large", STAGE_BARS)
        rows += [Row(f"{size}: an example clicked", _each(page, _example), "0.5 s")]
    return rows


def _record_large(path: Path) -> None:
    torch.manual_seed(0)
    model = DigitsMLP(hidden=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randint(0, 256, (EXAMPLES, 8, 8), dtype=torch.uint8), torch.arange(EXAMPLES) % 10
    judged = aa.Evaluation(x, y, display={"kind": "image", "shape": [8, 8]})
    loss_fn, config = nn.functional.cross_entropy, {"hidden": 8}
    with aa.Recorder(
        path, model, optimizer, loss_fn, evaluation=judged, problem="digits-mlp", config=config, checkpoint_every=1_000
    ) as recorder:
        for part in ("one", "two"):
            with recorder.stage(part):
                for step in range(STEPS // 2):
                    rows = torch.arange(16) + 16 * (step % 100)
                    recorder.batch(x[rows], y[rows])
                    optimizer.zero_grad()
                    loss_fn(model(x[rows]), y[rows]).backward()
                    optimizer.step()


# ---- one click -------------------------------------------------------------------------------------------------------


def _timed(page: Page, click: Callable[[], None], awaited: Locator) -> float:
    """Seconds from the click until what it asks for is on the page, which stood still before."""
    (seconds,) = _timed_each(page, click, awaited)
    return seconds


def _timed_each(page: Page, click: Callable[[], None], *awaited: Locator) -> Iterator[float]:
    """The same of several things, one after another."""
    expect(page.locator(RUNNING)).to_have_count(0)
    page.wait_for_timeout(SETTLED)
    began = perf_counter()
    click()
    for thing in awaited:
        _seen(page, thing)
        yield perf_counter() - began


def _seen(page: Page, thing: Locator) -> None:
    """Until it is on the page, looked for every 10 ms: Playwright's own waiting looks after 20, 70, 170 and 270 ms and
    then twice a second, and what it looked for may have been there long before."""
    until = perf_counter() + PATIENCE / 1000
    while not thing.first.is_visible():
        if perf_counter() > until:
            raise TimeoutError(f"{thing} is not on the page")
        page.wait_for_timeout(10)


def _each(page: Page, click: Callable[[Page, int], float]) -> list[float]:
    return [click(page, i) for i in range(CLICKS)]


def _example(page: Page, i: int) -> float:
    tile = page.get_by_role("button", name=f"Example {i + 3}:")
    return _timed(page, tile.click, page.get_by_text(f"Effect on example {i + 3}", exact=True))


def _filter(page: Page, i: int) -> float:
    """Wrong only, on and off."""
    answer = page.get_by_text(re.compile("^Effect on " + ("all" if i % 2 else r"[\d,]+ filtered")))
    return _timed(page, page.get_by_text("Wrong only").click, answer)


def _step(page: Page, i: int) -> float:
    return _timed(page, lambda: page.locator(STEP_BARS).nth(i).click(force=True), page.get_by_text(f"Step {240 + i}:"))


def _turn(page: Page, i: int) -> float:
    return _timed(page, page.get_by_role("button", name="Next").click, page.get_by_text(re.compile(f"^{i + 2} / ")))


def _tick(page: Page, i: int) -> float:
    """One more stage left out: the headline names it, too, and the prediction below it is made."""
    headline = page.get_by_text(re.compile("^Predicted: .*" + re.escape(STAGES[i])))
    *_, made = _timed_each(
        page, page.locator("[class*='st-key-skip'] label").nth(i).click, headline, page.locator(DONE)
    )
    return made


# ---- the page --------------------------------------------------------------------------------------------------------


def _page(rows: list[Row], before: dict[str, Any], load: float) -> str:
    then = before.get("machine", "a machine that was not named")
    elsewhere = "" if then == machine() else f", on {then}: times of two machines do not compare"
    here = f"{os.cpu_count()} cores; {machine()}"
    return "\n".join(
        [
            "# How long the dashboard keeps one waiting",
            "",
            f"Measured by `make bench-ui` in a real Chromium on {datetime.now(UTC):%d %B %Y} ({here}),",
            f"from a click until its answer is on the page: {CLICKS} clicks and {STARTS} starts each. Browser, server",
            f"and jobs share the machine with whatever else runs on it (its load was {load:.1f} at the start), so the",
            "fastest is nearest to what a machine of one's own gives. *Before*: the fastest of the last",
            f"measurement{elsewhere}.",
            *sys.argv[1:],
            "",
            "| what | fastest | median | slowest | before | wanted |",
            "|---|---|---|---|---|---|",
            *(_line(row, before.get(row.what)) for row in rows),
            "",
        ]
    )


def _line(row: Row, before: float | None) -> str:
    figures = [min(row.seconds), statistics.median(row.seconds), max(row.seconds), before]
    cells = [row.what, *("–" if f is None else f"{f:.2f} s" for f in figures), row.wanted or "–"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
