"""docs/accuracy.md from the stored figures of the zoo."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from statistics import median
from typing import Any

from aa_core.effects.embedding import READOUTS
from benchmarks.accuracy_candidates import DROPPED, KEPT
from benchmarks.reliability_fit import HELD_OUT

Runs = list[dict[str, Any]]
SMOOTH = 0.5
"""Largest spread of the exact readouts, which is known without any retraining; as on the page of the verdicts."""
TARGET_R, TARGET_ERROR = 0.99, 0.05


def page(figures: dict[str, Any], grid: Runs) -> str:
    """The page as Markdown; `grid`: the runs of benchmarks/results/reliability.json."""
    runs, others = figures["runs"]["runs"], figures["architectures"]["runs"]
    parts = divide(runs)
    smooth, stiff = parts.values()
    return f"""# Accuracy beyond first order, and what it costs

Measured on {measured(figures["runs"])}. Written by `python -m benchmarks.accuracy_zoo` from
[the stored figures](../benchmarks/results/accuracy.json); with `page` after it, only this page is written anew.

{len(runs)} trainings of the digits MLP (64-64-10, float64, six stages of 20 or 40 steps, rotated digits or one stage with shifted labels),
SGD with and without momentum and AdamW, three activations, from smooth to stiff. Truth: each stage really left out (`freeze`); log-likelihood
of 200 digits. The runs are divided by how far the three readouts of the exact boundary embedding lie apart, which is known
without retraining: smooth (at most {SMOOTH:.0%}, {len(smooth)} runs) and stiff ({len(stiff)}).

*r* and *sign*: Pearson r and share of equal signs over all stage x example pairs; *error*: mean |estimate - truth| of the stages' means over
their mean size; medians over the runs; one that overflowed counts as r = 0 and an infinite error. *Cost*: CPU time for all six
stages in plain trainings, median. *Target*: in how many of the {len(runs)} runs r >= {TARGET_R} and error <= {TARGET_ERROR:.0%}.

**What to compare with**: really retraining without each stage costs {cost(runs, "one by one"):.1f} plain trainings one by one, {cost(runs, "together"):.1f}
together (`aa.retrain_all`), and is exact. Whatever costs more than that for a handful of stages is of interest only if it is asked
something that retraining cannot answer, as the adjoint can (all steps, one query).

## Kept

{table(parts, KEPT)}

Every readout that was tried on these sweeps is shown; the engine has `linear`, `displaced` and `link`. `blend` is displaced and
link, weighted by the spread of the readouts; `bent` displaced and linear, weighted stage by stage by the curvature of the performance along
what the stage did, in parts of its slope. `exact` and `ggn` are the boundary method with that curvature; `midpoint` is `method="midpoint"`. {verdict(parts)}

The midpoint method linearises each step not at the recorded state, but half way to the mean of the states that the tangents predict
for the run without a stage; a tangent that has grown counts as no longer than the change that its stage made. For one stage this is
the midpoint rule, an order more accurate than first order (the error falls with the third power of the change; tested); for several it is
so as far as they moved the model the same way, and one graph serves them all: one gradient a step more than boundary. Where training amplifies
changes many times over, it is worse than first order: use ggn there.

The cap was chosen on this zoo and on the same settings with seed 2, so the rows above flatter the method if anything.
The grid of [reliability.md](reliability.md) has a second seed that had no part in the choice. There, against boundary with exact curvature
(error of the stages' means and r, medians; *smaller in*: runs in which midpoint's error is the smaller):

{held_out(grid)}

Its verdicts have limits of their own, measured on the same grid.

## Dropped

{table(parts, DROPPED)}

{reasons(parts)}

Not in the tables: *Richardson extrapolation over the scale* of a treatment, without retraining: an embedding is linear in the scale, so
there is nothing to extrapolate; and a *secant* along the true displaced path is retraining itself.

## On other architectures

The same digits and stages (20 steps each, float64), by {len({r["architecture"] for r in others})} other architectures with AdamW (rotated) and SGD with momentum (one stage with
shifted labels). Measured on {measured(figures["architectures"])}. Medians, divided as above: {len(divide(others)["smooth"])} smooth runs, {len(divide(others)["stiff"])} stiff.

{table(divide(others), (*KEPT, *DROPPED), READOUTS)}

By run, displaced; smooth is a spread of the readouts of at most {SMOOTH:.0%}. The highest rates were chosen for what they teach in so few
steps, before any estimate was looked at; the lowest was added after that, to have smooth runs, too. At the highest, trainings start in
chaos, and no estimate that costs less than retraining follows them.

{by_architecture(others)}

The same candidates on runs that ship: sentences by a transformer with AdamW in ten stages (comments, float64), X-rays by a CNN with batch
normalisation and SGD in five (xray, float32). r over all pairs of stage and example, error of the stages' means. Measured on
{measured(figures["elsewhere"])}.

{elsewhere(figures["elsewhere"]["runs"])}

One seed a setting, and few settings; differences of a few points are not resolved. What was kept is measured on more runs and seeds in
[results.md](results.md).
"""


def measured(part: dict[str, Any]) -> str:
    return f"{part['date']}; {part['machine']}"


def by_architecture(runs: Runs) -> str:
    """What was kept, and the best of what was dropped, run by run."""
    heads = " | ".join(f"r, {name} | error" for name in KEPT)
    lines = [f"| architecture | optimizer, learning rate | spread | {heads} | largest r of what was dropped |"]
    lines += ["|" + "---|" * (4 + 2 * len(KEPT))]
    for run in runs:
        cells = " | ".join(_reached(find(run, name, "displaced")) for name in KEPT)
        spread = percent(run["spread"])
        how = f"{run['optimizer']}, {run['lr']:g}"
        lines.append(f"| {run['architecture']} | {how} | {spread} | {cells} | {_best(run, DROPPED)} |")
    return "\n".join(lines)


def elsewhere(runs: Runs) -> str:
    """Every candidate on runs that ship, and the best of what was kept and of what was dropped."""
    lines = ["| candidate | readout | " + " | ".join(f"r, {run['run']} | error" for run in runs) + " |"]
    lines += ["|" + "---|" * (2 + 2 * len(runs))]
    for name in (*KEPT, *DROPPED):
        for readout in ("displaced", "link"):
            lines.append(f"| {name} | {readout} | {' | '.join(_reached(find(r, name, readout)) for r in runs)} |")
    best = [
        f"{run['run']}: {_best(run, KEPT)} of what was kept, {_best(run, DROPPED)} of what was dropped" for run in runs
    ]
    return "\n".join(lines) + f"\n\nLargest r: {'; '.join(best)}."


def _reached(row: dict[str, Any]) -> str:
    r, error = middle([row], "pearson", 0.0), middle([row], "error", math.inf)
    return f"{r:.3f} | {percent(error)}"


def _best(run: dict[str, Any], names: Iterable[str]) -> str:
    rows = [row for row in run["rows"] if row["candidate"] in names and row["readout"] in READOUTS]
    row = max(rows, key=lambda row: middle([row], "pearson", 0.0))
    return f"{middle([row], 'pearson', 0.0):.3f} ({row['candidate']}, {row['readout']}; cost {row['cost']:.1f})"


def divide(runs: Runs) -> dict[str, Runs]:
    """Smooth and stiff."""
    return {
        "smooth": [r for r in runs if r["spread"] <= SMOOTH],
        "stiff": [r for r in runs if r["spread"] > SMOOTH],
    }


def table(parts: dict[str, Runs], names: Iterable[str], shown: Collection[str] = ()) -> str:
    """Every candidate by these readouts, or all; a part without runs is left out."""
    parts = {part: runs for part, runs in parts.items() if runs}
    heads = " | ".join(f"r, {part} | sign | error" for part in parts)
    lines = [f"| candidate | readout | cost | {heads} | target |", "|" + "---|" * (4 + 3 * len(parts))]
    runs = [run for part in parts.values() for run in part]
    for name in names:
        readouts = [row["readout"] for row in runs[0]["rows"] if row["candidate"] == name]
        lines += [_row(parts, runs, name, readout) for readout in readouts if not shown or readout in shown]
    return "\n".join(lines)


def _row(parts: dict[str, Runs], runs: Runs, name: str, readout: str) -> str:
    cells = []
    for part in parts.values():
        found = [find(run, name, readout) for run in part]
        cells += [
            f"{middle(found, 'pearson', 0.0):.2f}",
            f"{middle(found, 'sign', 0.0):.2f}",
            percent(middle(found, "error", math.inf)),
        ]
    every = [find(run, name, readout) for run in runs]
    price = median(row["cost"] for row in every)
    return f"| {name} | {readout} | {price:.1f} | {' | '.join(cells)} | {sum(map(reached, every))} |"


def find(run: dict[str, Any], name: str, readout: str) -> dict[str, Any]:
    return next(row for row in run["rows"] if (row["candidate"], row["readout"]) == (name, readout))


def middle(found: list[dict[str, Any]], figure: str, lost: float) -> float:
    """Median; a figure that overflowed counts as `lost`."""
    return median(lost if row[figure] is None else row[figure] for row in found)


def reached(row: dict[str, Any]) -> bool:
    r, error = row["pearson"], row["error"]
    return r is not None and error is not None and r >= TARGET_R and error <= TARGET_ERROR


def percent(share: float) -> str:
    return f"{share:.0%}" if share < 10 else "> 1000%"


def cost(runs: Runs, way: str) -> float:
    return median(run["retraining"][way] for run in runs)


def _says(parts: dict[str, Runs]) -> Callable[[str, str, str], str]:
    def said(name: str, readout: str, part: str) -> str:
        found = [find(run, name, readout) for run in parts[part]]
        r, error = middle(found, "pearson", 0.0), middle(found, "error", math.inf)
        return f"r {r:.2f}, error {percent(error)}"

    return said


def verdict(parts: dict[str, Runs]) -> str:
    said = _says(parts)
    pairs = [[find(run, name, "displaced") for name in ("exact", "midpoint")] for run in parts["smooth"]]
    better = sum(below(b["error"], a["error"]) for a, b in pairs)
    return f"""Displaced, smooth runs: midpoint {said("midpoint", "displaced", "smooth")} against
exact {said("exact", "displaced", "smooth")}, and a smaller error in {better} of {len(pairs)} runs.
Stiff runs: ggn {said("ggn", "displaced", "stiff")}; exact {said("exact", "displaced", "stiff")}; midpoint {said("midpoint", "displaced", "stiff")}.
No one is best everywhere: the spread of the readouts says which regime a run is in, and a calibration (`aa.calibrate`) names the
best for a run."""


def held_out(grid: Runs) -> str:
    """Midpoint against boundary on the seed of the grid that had no part in choosing it."""
    lines = ["| runs | readout | error, boundary | error, midpoint | smaller in | r, boundary | r, midpoint |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for label, chosen in divide([{**run, "spread": _spread(run)} for run in grid if run["seed"] == HELD_OUT]).items():
        for readout in READOUTS:
            pairs = [[_estimator(run, m, readout) for m in ("boundary", "midpoint")] for run in chosen]
            boundary, midpoint = zip(*pairs, strict=True)
            errors = [percent(middle(list(e), "stage_error", math.inf)) for e in (boundary, midpoint)]
            rs = [f"{middle(list(e), 'pearson', 0.0):.3f}" for e in (boundary, midpoint)]
            better = sum(below(b["stage_error"], a["stage_error"]) for a, b in pairs)
            lines.append(
                f"| {label} | {readout} | {' | '.join(errors)} | {better} of {len(pairs)} | {' | '.join(rs)} |"
            )
    return "\n".join(lines)


def _estimator(run: dict[str, Any], method: str, readout: str) -> dict[str, Any]:
    wanted = (method, "exact", readout)
    return next(e for e in run["estimators"] if (e["method"], e["curvature"], e["readout"]) == wanted)


def _spread(run: dict[str, Any]) -> float:
    found = _estimator(run, "boundary", "linear")["spread"]
    return math.inf if found is None else found


def below(a: float | None, b: float | None) -> bool:
    """None: it overflowed."""
    return a is not None and (b is None or a < b)


def reasons(parts: dict[str, Runs]) -> str:
    said = _says(parts)

    def both(name: str, readout: str = "displaced") -> str:
        return f"smooth {said(name, readout, 'smooth')}; stiff {said(name, readout, 'stiff')}"

    return f"""Displaced throughout:

- *Mixtures of exact and ggn*, half and half: {both("1/2 exact + 1/2 ggn")}. Between the two, at the cost of both.
- *One curvature, then the other*, exact first: {both("exact for 20 steps, then ggn")}; ggn first: {both("ggn for 20 steps, then exact")}. The same.
- *Trust region*: {both("trust region: the smaller of exact and ggn")}. ggn with a small gain, at the cost of both; at the midpoint
  {both("trust region at the midpoint")}.
- *Growth capped*: {both("exact, growth capped at 1")}. It helps stiff runs about as much as ggn does, and biases smooth ones. *Damped*:
  {both("exact, damped by 0.01")}; a fixed damping is not small for every optimizer.
- *Midpoint of each stage's own*: {both("midpoint of each stage's own")}. About as accurate as the shared one, and several times as dear as the truth.
- *Midpoint, its path not capped*: {both("midpoint, its path not capped")}. Where tangents grow, the path runs away with them.
- *Relinearised after m real steps*, 80: {both("relinearised after 80 real steps")}. With 80 steps most of these trainings are simply retrained;
  after 20: {both("relinearised after 20 real steps")}.
- *Second order in the treatment*: {both("second order")}. Several times as dear as the truth.
- *Blend* of displaced and link by the stage's spread: for exact {both("exact", "blend")}: between the two that it blends.
  *Bent*, displaced and linear by measured curvature: for exact {both("exact", "bent")}: worse than displaced on either.
  Displacement *clipped* to what the stage itself moved: for exact {both("exact", "displaced, clipped")}. It helps stiff runs and
  biases smooth ones; where it helps, ggn does as well."""
