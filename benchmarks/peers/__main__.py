"""`make bench-peers`: every library on some runs, the figures as JSON, and docs/peers.md.

`ARGS="coloured mnist"` measures these runs and keeps what is known of others; `ARGS=page` writes only the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from aa_core.confidence.agreement import agreement
from benchmarks.peers.job import few
from benchmarks.peers.page import PAGE, page
from sample_runs.machine import machine

RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
RUNS = ("digits-shift", "coloured", "digits-adamw", "mnist", "comments")
MODULES = {
    "ours": "",
    "captum_tracin": "captum",
    "dattri_scores": "dattri",
    "kronfluence_ekfac": "kronfluence",
    "bergson_magic": "bergson",
}
"""The module that asks a library, and the library."""


def main(arguments: Sequence[str]) -> None:
    """Measure and write, unless only the page is asked for."""
    for run in [] if arguments == ["page"] else arguments or RUNS:
        keep(run, measure(run))
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE)


def measure(run: str) -> dict[str, list[dict[str, Any]]]:
    """{library: what its methods find}, this engine under ""; what does not import or run is kept as its error."""
    found = {library: ask(run, module) for module, library in MODULES.items()}
    truth = np.array(found[""][0]["effects"])
    return {library: [judged(f, truth) for f in methods] for library, methods in found.items()}


def keep(run: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Store the figures of a run, beside those of other runs."""
    runs = json.loads(RESULTS.read_text())["runs"] if RESULTS.is_file() else {}
    runs[run] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "load": f"{os.getloadavg()[2]:.0f} on {os.cpu_count()} processors",
        "versions": {library: version(library) for library in found if library},
        "found": found,
    }
    RESULTS.write_text(json.dumps({"runs": runs}, indent=1) + "\n")


def ask(run: str, module: str) -> list[dict[str, Any]]:
    """What the methods of a module find on a run; one error in place of them if the process ends without an answer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers.one", run, module, str(file)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if file.is_file():
            return json.loads(file.read_text())
        said = (ended.stderr.strip().splitlines() or ["no word"])[-1]
        return [{"name": MODULES[module], "scaled": True, "lacks": "", "error": said}]


def judged(found: dict[str, Any], truth: np.ndarray) -> dict[str, Any]:
    """Figures in place of the scores: over all pairs of stage and example, and of the stages' means."""
    if "error" in found:
        return found
    columns = found["columns"]
    estimate, true = np.array(found["effects"]), truth[:, columns]
    some = [columns.index(c) for c in few(truth.shape[1])]
    best = float((estimate * true).sum() / (estimate**2).sum())
    return {k: found[k] for k in ("name", "scaled", "lacks", "cost")} | {
        "pairs": agreement(estimate, true)._asdict(),
        "few": agreement(estimate[:, some], true[:, some])._asdict(),
        "stages": agreement(estimate.mean(1), true.mean(1))._asdict(),
        "error_at_best_scale": agreement(best * estimate, true).relative_error,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
