"""Twenty people explore at once while two jobs run: errors, how long a click takes, and the server's memory.

`make bench-load` measures, writes docs/load.md, and fails where the promise is not kept; ARGS=page writes the page from
the stored figures only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aa_core as aa
from aa_core.jobs import submit, whatif_spec
from benchmarks.load_page import page
from sample_runs.machine import machine
from tests.browser.server import SAMPLES, Running, running
from tests.browser.session import Click, connected

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "load.json", ROOT / "docs" / "load.md"
SESSIONS, SECONDS, JOBS = 20, 120, 2
THINKING = (5.0, 15.0)
"""Seconds between an answer and the next click, evenly spread: about two clicks a second from all of them together."""
SLOWEST, GROWTH = 2.0, 0.05
"""Promised: no errors, 95 of 100 clicks answered in so many seconds, so much more memory at most in the second half."""
RUNS = {name: aa.open_run(SAMPLES / name / "run") for name in ("digits-shift", "digits-mislabelled", "digits-adamw")}


def pick(rng: random.Random) -> tuple[str, dict[str, str]]:
    """A screen and a selection, as somebody would click their way to it."""
    name = rng.choice(list(RUNS))
    stage, example = rng.choice(RUNS[name].stages).name, str(rng.randrange(300))
    screen, selection = rng.choice(
        [
            ("overview", {}),
            ("explore", {"examples": example}),
            ("explore", {"examples": example, "stage": stage}),
            ("explore", {"wrong": "1", "page": str(rng.randint(1, 2))}),
            ("explore", {"labels": str(rng.randrange(10))}),
            ("what-if", {"skip": stage, "examples": example}),
            ("subgroups", {"labels": str(rng.randrange(10))}),
            ("reliability", {}),
            ("jobs", {}),
        ]
    )
    return screen, {"run": name, **selection}


async def explore(address: str, seed: int, until: float) -> list[Click]:
    """One session: it opens the dashboard, and clicks until the time is over."""
    rng, clicks = random.Random(seed), []
    async with connected(address) as session:
        await session.click("overview", run="digits-shift")
        while time.monotonic() < until:
            await asyncio.sleep(rng.uniform(*THINKING))
            screen, selection = pick(rng)
            clicks.append(await session.click(screen, **selection))
            if clicks[-1].error == "ConnectionClosed":
                break
    return clicks


def questions(lane: int) -> Any:
    """Retrainings without end, no two alike."""
    for k in itertools.count(lane, JOBS):
        run = list(RUNS.values())[k % len(RUNS)]
        yield whatif_spec(run, aa.Counterfactual((run.stages[0].name,), scale=k / 1000), "log-likelihood", None)


async def work(lane: int, until: float) -> list[str]:
    """One job after the other until the time is over; how each ended."""
    ends = []
    for spec in questions(lane):
        if time.monotonic() > until:
            return ends
        job = await asyncio.to_thread(submit, spec)
        while await asyncio.to_thread(lambda job=job: job.living):
            await asyncio.sleep(0.2)
        ends.append(job.status)
    return ends


async def watch(pid: int, until: float) -> list[float]:
    """The server's resident memory each second, MiB."""
    seen = []
    while time.monotonic() < until:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        seen.append(int(fields["VmRSS"].split()[0]) / 1024)
        await asyncio.sleep(1)
    return seen


async def measure(server: Running, sessions: int, seconds: float) -> dict[str, Any]:
    """Everything at once, after one visitor has seen each run."""
    load = os.getloadavg()
    first = await explore_once(server.address)
    until = time.monotonic() + seconds
    visitors = asyncio.gather(*(explore(server.address, seed, until) for seed in range(sessions)))
    workers = asyncio.gather(*(work(lane, until) for lane in range(JOBS)))
    before = cpu_seconds(server.pid)
    memory = await watch(server.pid, until)
    clicks = [click for session in await visitors for click in session]
    spent = cpu_seconds(server.pid) - before
    ends = [end for lane in await workers for end in lane]
    return {
        "sessions": sessions,
        "seconds": seconds,
        "thinking_s": list(THINKING),
        "load_before": [round(x, 2) for x in load],
        "first_visit_s": first,
        "clicks": summary(clicks),
        "cpu_s_per_click": spent / len(clicks),
        "by_screen": {s: summary([c for c in clicks if c.screen == s]) for s in sorted({c.screen for c in clicks})},
        "errors": sorted({c.error for c in clicks if c.error}),
        "jobs": {end: ends.count(end) for end in sorted(set(ends))},
        "memory_mib": {
            "start": median(memory[:5]),
            "middle": median(memory[len(memory) // 2 - 2 : len(memory) // 2 + 3]),
            "end": median(memory[-5:]),
            "most": max(memory),
        },
    }


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor, which does not depend on who else wants it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def explore_once(address: str) -> dict[str, float]:
    """How long the first visit of each run takes, before anything is cached."""
    async with connected(address) as session:
        return {name: (await session.click("overview", run=name)).seconds for name in RUNS}


def summary(clicks: list[Click]) -> dict[str, float]:
    took = [click.seconds for click in clicks]
    cuts = quantiles(took, n=20, method="inclusive") if len(took) > 1 else took * 19
    wrong = sum(bool(c.error) for c in clicks)
    return {"n": len(clicks), "errors": wrong, "p50": median(took), "p95": cuts[-1], "most": max(took)}


def broken(found: dict[str, Any]) -> list[str]:
    """Which promises were not kept."""
    clicks, memory = found["clicks"], found["memory_mib"]
    growth = memory["end"] / memory["middle"] - 1
    said = {
        f"{clicks['errors']} errors": clicks["errors"] > 0,
        f"95 % of the clicks within {clicks['p95']:.2f} s, promised {SLOWEST:g} s": clicks["p95"] >= SLOWEST,
        f"memory grew by {growth:.1%}, promised {GROWTH:.0%} at most": growth > GROWTH,
    }
    return [words for words, holds in said.items() if holds]


def main() -> None:
    """Measure anew, or with `page` only write the page from the stored figures."""
    if sys.argv[1:] != ["page"]:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["AA_WORKSPACE"] = f"{folder}/workspace"  # of the jobs, too
            with running(Path(folder) / "workspace", Path(folder) / "log") as server:
                figures = asyncio.run(measure(server, SESSIONS, SECONDS))
        about = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine().replace(", 1 thread", ""),
            "cores": os.cpu_count(),
        }
        RESULTS.write_text(json.dumps({**about, "streamlit": version("streamlit"), **figures}, indent=1) + "\n")
    found = json.loads(RESULTS.read_text())
    PAGE.write_text(page(found))
    print(PAGE.read_text())
    if failed := broken(found):
        sys.exit("not kept: " + "; ".join(failed))


if __name__ == "__main__":
    main()
