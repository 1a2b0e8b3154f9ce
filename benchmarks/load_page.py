"""docs/load.md from the stored figures."""

from __future__ import annotations

from typing import Any

BUSY = 0.5
"""Load average per core from which the machine had other work to do."""


def page(figures: dict[str, Any]) -> str:
    """The page as Markdown."""
    all_clicks, memory, jobs = figures["clicks"], figures["memory_mib"], figures["jobs"]
    rows = "\n".join(row(name, found) for name, found in figures["by_screen"].items())
    ended = ", ".join(f"{count} {status}" for status, count in jobs.items()) or "none ended"
    first = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in figures["first_visit_s"].items())
    thinking = " to ".join(f"{t:.0f}" for t in figures["thinking_s"])
    growth = memory["end"] / memory["middle"] - 1
    return f"""# Many people at once

Measured on {figures["date"]}; {figures["machine"]}, {figures["cores"]} cores, streamlit {figures["streamlit"]}. Written by `make bench-load` from
[the stored figures](../benchmarks/results/load.json); nothing here is typed by hand.{caveat(figures)}

{figures["sessions"]} sessions explore the sample runs on loopback for {figures["seconds"]:.0f} s, while two lanes of jobs retrain without a pause, each job in
a process of its own on the same cores. A session speaks the browser's protocol over its own websocket: a click asks for a
screen with a selection (a run, an example, a stage, a filter, a what-if) and is timed until all of the new page has arrived.
What a browser needs to draw it is not in these figures. Between an answer and the next click somebody thinks for {thinking} s;
the {figures["sessions"]} of them made {all_clicks["n"] / figures["seconds"]:.1f} clicks a second.

| screen | clicks | errors | median, s | 95 %, s | longest, s |
|---|---|---|---|---|---|
{row("**all**", all_clicks)}
{rows}

Errors ({all_clicks["errors"]:.0f}) are a lost connection, an exception or a refusal on the page, or no answer within 60 s{kinds(figures)}. Jobs: {ended}.

A click takes {figures["cpu_s_per_click"]:.2f} s of the server's processor time on average, whoever else wants the processor.

The first visit of each run, before anything is cached: {first}.

Resident memory of the server: {memory["start"]:.0f} MiB when the sessions came, {memory["middle"]:.0f} MiB half way, {memory["end"]:.0f} MiB at the end ({growth:+.1%} over
the second half), {memory["most"]:.0f} MiB at most. In the first half caches fill; they hold a bounded number of answers.
"""


def row(name: str, found: dict[str, float]) -> str:
    times = " | ".join(f"{found[key]:.2f}" for key in ("p50", "p95", "most"))
    return f"| {name} | {found['n']:.0f} | {found['errors']:.0f} | {times} |"


def kinds(figures: dict[str, Any]) -> str:
    return f": {', '.join(figures['errors'])}" if figures["errors"] else ""


def caveat(figures: dict[str, Any]) -> str:
    """Said where the machine was busy with something else."""
    load = figures["load_before"][0]
    if load < BUSY * figures["cores"]:
        return ""
    return (
        f" **The machine had other work to do**: its load average was {load:.1f} on {figures['cores']} cores before this began, so the times\n"
        "are longer than those of a machine of its own."
    )
