"""`make bench`: measure, print, and write docs/benchmarks.md from the figures."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import digits_shift
from sample_runs.machine import machine

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "digits-shift.json", ROOT / "docs" / "benchmarks.md"


def main() -> None:
    """Measure anew, or with `page` only write the page from the stored figures."""
    if sys.argv[1:] != ["page"]:
        figures = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), **digits_shift.measure()}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE.read_text())


def page(figures: dict[str, Any]) -> str:
    """The page as Markdown."""
    costs = "\n".join(
        f"| {name} | {c['median']:.2f} | {c['min']:.2f} to {c['max']:.2f} |" for name, c in figures["costs"].items()
    )
    accuracy = "\n".join(
        f"| {r['method']} | {r['curvature']} | {r['readout']} | {r['pearson']:.3f} | {r['spearman']:.3f} "
        f"| {r['sign']:.2f} | {r['slope']:.2f} | {r['relative_error_of_stage_means']:.0%} |"
        for r in figures["accuracy"]
    )
    steps = figures["steps_accuracy"]
    return f"""# Cost and accuracy on digits-shift

Measured on {figures["date"]}; {figures["machine"]}. Written by `make bench` from
[the stored figures](../benchmarks/results/digits-shift.json); nothing here is typed by hand.

The run: {figures["steps"]} steps in {figures["stages"]} stages, {figures["parameters"]:,} parameters in float64, SGD
with momentum 0.9 and learning rate 0.01, digest `{figures["run"][:12]}`. Judged by the log-likelihood of
{figures["examples"]} held-out upright digits. One run and one seed: small differences are not resolved.

## Cost

CPU time as a ratio to one plain replay of the run (all recorded steps, no derivatives), each pair measured in turn in
one process; median of {digits_shift.ROUNDS} rounds, with the lowest and the highest.

| task | plain replays | range |
|---|---|---|
{costs}

## Stage effects against real retraining

Truth: the run trained again without each stage (`freeze`), over all {figures["stages"]} x {figures["examples"]}
stage-example pairs. `slope` is that of truth on estimate (1 = right size); the last column is the mean over stages of
|mean estimate - mean truth| / |mean truth|.

| method | curvature | readout | Pearson r | Spearman | same sign | slope | error of stage means |
|---|---|---|---|---|---|---|---|
{accuracy}

`boundary, exact, linear` is the default; `additive, exact, linear` is the form of the paper; `none` neglects curvature.

## Step effects against real retraining

{steps["n"]} steps spread evenly over the run, each left out for real; effect on the mean log-likelihood:
Pearson r = {steps["pearson"]:.5f}, same sign {steps["sign"]:.2f}, slope {steps["slope"]:.3f},
relative error {steps["relative_error"]:.1%}.
"""


if __name__ == "__main__":
    main()
