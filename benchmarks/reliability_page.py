"""docs/reliability.md from the stored figures of the grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from aa_core.confidence.calibration import BESIDE_A_RUN, Calibration, Figures
from aa_core.confidence.reliability import disagreement
from aa_core.confidence.verdict import (
    GREW,
    GROWTH_LIMITS,
    LADDER,
    MOVED_LIMITS,
    SPREAD_LIMITS,
    Estimator,
    Limits,
    Trust,
    earned,
    judge_growth,
    judge_readouts,
)
from aa_core.effects.embedding import READOUTS
from aa_core.runs.trajectory import open_run
from aa_core.state import State, as_rays, norm
from benchmarks.reliability_fit import (
    FALSE_TRUST,
    FITTED,
    HELD_OUT,
    Case,
    Pair,
    Runs,
    earned_by_steps,
    right,
    said_and_earned,
    shares,
    step_cases,
    steps_said_and_earned,
)

SHIPPED = Path(__file__).parents[1] / "sample_runs"
EXPLODES = 100
"""Growth from which propagation is said to explode."""
CALM = 0.5
"""Spread of the exact readouts that divides the grid in two, for the tables that compare estimators."""


def page(figures: dict[str, Any]) -> str:
    """The page as Markdown."""
    runs = figures["runs"]
    held = said_and_earned(runs, HELD_OUT, judge)
    calm, rough = split(runs)
    return f"""# How far an estimate can be believed

Measured on {figures["date"]}; {figures["machine"]}; {figures["cpu_minutes"]:.0f} minutes. Written by
`python -m benchmarks.reliability_grid` from [the stored figures](../benchmarks/results/reliability.json); with `page` after it,
only this page is written anew. The verdicts are those of `aa_core/confidence/verdict.py`.

## The grid

{len(runs)} trainings of the digits MLP of the sample runs (64-64-10, float64, batches of 64) in six stages of 20 or 40 steps: SGD with
learning rates .01 to .4, with and without momentum .9, and AdamW with .001 to .01; {activations(runs)}; rotated digits, or one stage
with shifted labels. Every stage of every run was really left out (`freeze`), and {len(runs[0]["estimators"])} estimators compared with that truth on the
log-likelihood of 200 digits. Moving the start by 1e-6 of itself moved the mean effect by {exponent(median(r["noise_of_mean"] for r in runs))} in the median run, and by
{exponent(max(r["noise_of_mean"] for r in runs))} at most: in {len(runs) - undefined(runs)} runs the truth is well defined and the errors are the estimators'; in the other {undefined(runs)} that noise is more
than a tenth of the mean size of the effects, so that retraining itself is hardly one number.
{sum(r["below_noise"] for r in runs):,} of {sum(len(r["truth"]) for r in runs) * 200:,} effects were within the noise, and are left out.

## What a verdict says, and when it is right

Agreed on before anything was fitted. Each asks for what stands above it, too.

| verdict | is right if, against real retraining |
|---|---|
| sign | 90 % of the stages' mean effects have the right sign (of six stages: all) |
| rank | over all stage x example pairs r >= .9 and 90 % of the signs are right |
| size | r >= .95, and the stages' means are off by 20 % of their mean size or less |
| nothing | always; a *false alarm* if more was earned |

A verdict on stages comes from the three readouts of the same embeddings, which every result carries: *nothing* if they
disagree in the sign of any stage's mean; else the least that two figures allow, each with its limits: their spread, and
how far a stage moved the parameters (boundary and midpoint). The limits were fitted on
the {sum(r["seed"] == FITTED for r in runs)} runs of one seed, a false trust counting as {FALSE_TRUST} false alarms; all that follows is about the
{sum(r["seed"] == HELD_OUT for r in runs)} runs of the other. Both halves have the same settings with other data order, initial weights and stages, so this
says how the verdicts do on *such* trainings; other models and data are an extrapolation, and a calibration of the run itself
(`aa.calibrate`) always goes before.

## How often the verdicts were right

{verdict_table(held)}

Too much was promised in {shares(held)["false trust"]:.0%} of {len(held)} cases (false trust), too little in {shares(held)["false alarm"]:.0%} (false alarm), and exactly
what was earned in {shares(held)["exact"]:.0%}. On the default question (boundary, exact):

{by_readout(runs)}

Over all estimators, by optimizer:

{by_optimizer(runs)}

For comparison, the words before this was measured (growth over 10 or 1000, spread over .5, by judgement) on the
boundary estimates with exact and Gauss-Newton curvature: {compared(runs)}. So the
verdicts promise too much far less often, and pay with false alarms. Growth alone predicts little: it was low in many runs whose estimates were wrong, since it
says nothing of how far the stage itself moved the model. Cases of one run are not independent, and {sum(r["seed"] == HELD_OUT for r in runs)} runs are few:
take the shares as rough.

The limits of the spread (0: never trusted that far):

{limit_table(SPREAD_LIMITS)}

The limits of how far any stage may have moved the parameters, over the norm of the final ones:

{limit_table(MOVED_LIMITS)}

## Where propagation explodes

{exploding(runs)}

## The shipped runs

Longer stages than the grid's, on all of their evaluation examples. No limit was fitted on them, but they are not innocent: the
second figure, how far a stage moved the parameters, came in when the first alone trusted the Gauss-Newton ranks on
digits-mislabelled, which are wrong. The held-out half had been looked at by then, so its shares may flatter a little.

{shipped()}

Where a run has a calibration, its results say so and are judged by it.

## Which estimator

All {len(runs)} runs, divided by whether the exact readouts lie at most {CALM:.0%} apart ({len(calm)} calm, {len(rough)} rough). Error: mean |estimate - truth|
over mean |truth|, all pairs; medians over the runs. *Size*, *rank*: share of all runs in which the estimate earned at least that.

{estimator_table(runs)}

The rows before the last take the exact estimate up to its rank limit, and the Gauss-Newton one beyond: two sweeps where
the first does not suffice. No estimator is best on every run, so ask the run: `aa.calibrate` names the best one.

Path share answers another question; it is here to show that it cannot stand in for an effect.

What else was tried, and at what cost: [accuracy.md](accuracy.md).

## Single steps

Effects of 8 steps of each run on the mean, each left out for real. The growth of the adjoint gives the verdict, with limits
{", ".join(f"{limit:.3g} ({trust})" for trust, limit in zip(LADDER, GROWTH_LIMITS, strict=False) if limit)}, each the one that was
fitted for one rung more; sizes of steps are never vouched for: even among the runs whose adjoint did not grow,
{_unborne(runs, FITTED)} of the first half and {_unborne(runs, HELD_OUT)} of the second earned nothing, since of 8 steps one had the wrong
sign. On the held-out half:

{verdict_table(steps_said_and_earned(runs, HELD_OUT, lambda growth: judge_growth(growth).trust))}

## A bound from theory

The remainder of the first-order effect can be bounded by a constant times D_S^2 exp(Lambda x total lr), with D_S the length of the path
within the stage and Lambda the sharpness by power iteration on recorded steps. On the SGD runs, for the first stage and
with the constant taken as 1, this is 10^{bound(runs, min):.0f} at least, 10^{bound(runs, median):.0f} in the median and 10^{bound(runs, max):.0f} at most, for effects of
{median(abs(t) for r in runs for t in r["truth"]):.1g} nats: {vacuous(runs)} of {len(sgd(runs))} bounds lie above 1 nat. It is vacuous, and results carry a bound only on request ([bounds.md](bounds.md)).

## What every result carries, and what has to be asked for

Always there, since the computation of the effects yields it: growth, effective learning rate, the share of stiff coordinates (a
second moment of exactly zero at the end, by the last optimizer), the drift of the replay, the named assumptions, the verdict, and
what a stored calibration says; for effects of stages and what-ifs also the spread and signs of the three readouts and how far the
model was moved (by boundary and midpoint), from end to end and not along the path. On request, since each costs sweeps of its own: the agreement of all estimators
(`aa.with_disagreement`: one sweep for every method and curvature), the bound and its constants (`aa.with_remainders`, `aa effects --bounds`:
power iterations on recorded steps), the noise floor and the calibration (`aa.noise_floor`, `aa.calibrate`, `aa calibrate`: retrainings).

## What this does not say

One small architecture, one data set, six stages, float64, one performance (log-likelihood), `freeze`. Verdicts on other
performances, on `zero_gradient` and on subgroups use the same limits without having been tried; so do those on training examples
that are left out, which are judged by the limits of single steps. Rank stands for Pearson's r and the signs over all pairs;
Spearman's coefficient is in every calibration, and decides nothing. A verdict is about all
stages of a result together; one stage can be wrong where all together are right.
"""


def judge(case: Case) -> Trust:
    """The engine's verdict on stage effects."""
    return judge_readouts(*case[:4]).trust


def split(runs: Runs) -> tuple[Runs, Runs]:
    """The calm and the rough runs."""

    def spread(run: dict[str, Any]) -> float:
        found = next(e["spread"] for e in run["estimators"] if (e["method"], e["curvature"]) == ("boundary", "exact"))
        return math.inf if found is None else found

    return [r for r in runs if spread(r) <= CALM], [r for r in runs if spread(r) > CALM]


def verdict_table(pairs: list[Pair]) -> str:
    rows = [
        f"| {trust} | {said} | {f'{held / said:.0%}' if said and trust != 'nothing' else '-'} "
        f"| {sum(e == trust for _, e in pairs)} |"
        for trust, (said, held) in right(pairs).items()
    ]
    return "\n".join(["| verdict | said | of these right | earned |", "|---|---|---|---|", *rows])


def by_readout(runs: Runs) -> str:
    lines = ["| readout | false trust | false alarm | exact |", "|---|---|---|---|"]
    for readout in READOUTS:
        chosen = [_only(run, ("boundary", "exact", readout)) for run in runs]
        found = shares(said_and_earned(chosen, HELD_OUT, judge))
        lines.append(f"| {readout} | " + " | ".join(f"{share:.0%}" for share in found.values()) + " |")
    return "\n".join(lines)


def compared(runs: Runs) -> str:
    """The former words against the verdicts, on the estimates that had both."""
    known = ("exact", "ggn")
    chosen = [
        {**r, "estimators": [e for e in r["estimators"] if e["method"] == "boundary" and e["curvature"] in known]}
        for r in runs
    ]
    before = [
        (former(r["growth"][e["curvature"]], e["spread"], e["signs_agree"]), e["earned"])
        for r in chosen
        if r["seed"] == HELD_OUT
        for e in r["estimators"]
    ]
    old, new = shares(before), shares(said_and_earned(chosen, HELD_OUT, judge))
    return f"false trust {old['false trust']:.0%} then, {new['false trust']:.0%} now; exact {old['exact']:.0%} then, {new['exact']:.0%} now"


def _unborne(runs: Runs, seed: int) -> str:
    """Of the runs whose adjoint did not grow, those of which the effects of steps earned nothing."""
    known = [s for s in step_cases(runs, seed) if s["growth"] is not None and s["growth"] < GREW]
    return f"{sum(earned_by_steps(s) == 'nothing' for s in known)} of {len(known)}"


def former(growth: float | None, spread: float | None, signs_agree: float) -> Trust:
    """What the constants chosen by judgement said."""
    if growth is None or growth > 1e3 or spread is None or signs_agree < 1:
        return "nothing"
    return "nothing" if growth > 10 else "sign" if spread > 0.5 else "size"


def by_optimizer(runs: Runs) -> str:
    lines = [
        "| optimizer | runs held out | verdicts | false trust | false alarm | exact |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run["optimizer"] for run in runs):
        chosen = [run for run in runs if run["optimizer"] == name]
        pairs = said_and_earned(chosen, HELD_OUT, judge)
        held = sum(run["seed"] == HELD_OUT for run in chosen)
        lines.append(
            f"| {name} | {held} | {len(pairs)} | " + " | ".join(f"{s:.0%}" for s in shares(pairs).values()) + " |"
        )
    return "\n".join(lines)


def exploding(runs: Runs) -> str:
    """What the verdicts say of exact curvature where changes grew without measure, in both halves."""
    found = [run for run in runs if run["growth"]["exact"] is None or run["growth"]["exact"] > EXPLODES]
    only = [{**run, "estimators": [e for e in run["estimators"] if e["curvature"] == "exact"]} for run in found]
    pairs = [pair for seed in (FITTED, HELD_OUT) for pair in said_and_earned(only, seed, judge)]
    silent, nothing = (sum(pair[i] == "nothing" for pair in pairs) for i in (0, 1))
    steps = [judge_growth(math.inf if (g := run["step_effects"]["growth"]) is None else g).trust for run in found]
    return f"""In {len(found)} of the {len(runs)} runs a change grew more than {EXPLODES}-fold on its way (exact curvature, boundary). Of {len(pairs)} estimates with exact
curvature there, {nothing} deserved nothing, and the verdict said *nothing* of {silent}. Of the {len(steps)} verdicts on single steps there, {steps.count("nothing")}
said *nothing*."""


def undefined(runs: Runs) -> int:
    """Runs whose noise floor is more than a tenth of the mean size of their stages' effects."""
    return sum(r["noise_of_mean"] > 0.1 * sum(map(abs, r["truth"])) / len(r["truth"]) for r in runs)


def activations(runs: Runs) -> str:
    known = {"gelu": "GELU", "relu": "ReLU", "tanh": "tanh"}
    return " and ".join(", ".join(known[a] for a in dict.fromkeys(r["activation"] for r in runs)).rsplit(", ", 1))


def limit_table(limits: Mapping[Any, Limits]) -> str:
    rows = [f"| {', '.join(name)} | " + " | ".join(f"{x:.2g}" for x in of) + " |" for name, of in limits.items()]
    return "\n".join(["| estimator | size | rank | sign |", "|---|---|---|---|", *rows])


def estimator_table(runs: Runs) -> str:
    names = [(e["method"], e["curvature"], e["readout"]) for e in runs[0]["estimators"]]
    lines = [_head("estimator"), "|---|---|---|---|---|---|---|"]
    lines += [_row(", ".join(name), runs, lambda run, name=name: _only(run, name)["estimators"][0]) for name in names]
    lines += [
        _row(
            f"boundary, {readout}: exact, or ggn where readouts lie apart",
            runs,
            lambda run, r=readout: switched(run, r),
        )
        for readout in READOUTS
    ]
    return "\n".join([*lines, _row("path share", runs, lambda run: {**run["path_share"], "earned": "-"})])


def _head(first: str) -> str:
    return f"| {first} | r, calm | error, calm | r, rough | error, rough | size | rank |"


def _row(name: str, runs: Runs, pick: Any) -> str:
    cells = []
    for part in split(runs):
        found = [pick(run) for run in part]
        cells += [f"{_median(f['pearson'] for f in found):.2f}", f"{_median_error(found):.0%}"]
    levels = [pick(run)["earned"] for run in runs]
    if levels[0] == "-":
        return f"| {name} | {' | '.join(cells)} | - | - |"
    size, rank = (sum(level in wanted for level in levels) / len(runs) for wanted in (("size",), ("size", "rank")))
    return f"| {name} | {' | '.join(cells)} | {size:.0%} | {rank:.0%} |"


def switched(run: dict[str, Any], readout: str) -> dict[str, Any]:
    """The exact estimate where its readouts lie close, else the Gauss-Newton one."""
    exact, ggn = (_only(run, ("boundary", curvature, readout))["estimators"][0] for curvature in ("exact", "ggn"))
    limit = SPREAD_LIMITS["boundary", "exact", readout][1]
    return exact if exact["spread"] is not None and exact["spread"] <= limit else ggn


def shipped() -> str:
    """The sample runs: what the figures say of each estimate, and what its calibration says."""
    cases = {path.parent.name: _shipped_cases(path) for path in sorted(SHIPPED.glob(f"*/{BESIDE_A_RUN}"))}
    lines = ["| run | estimator | spread | moved | said | earned |", "|---|---|---|---|---|---|"]
    for name, found in cases.items():
        lines += [
            f"| {name} | {', '.join(c.estimator)} | {c.spread:.0%}{'' if c.signs_agree == 1 else ', signs differ'} "
            f"| {c.moved:.0%} | {judge(c)} | {c.earned} |"
            for c in found
            if c.moved is not None and c.estimator[1] != "none"
        ]
    every = shares([(judge(c), c.earned) for found in cases.values() for c in found])
    return "\n".join(
        [
            *lines,
            "",
            f"Over all estimators: false trust {every['false trust']:.0%}, false alarm {every['false alarm']:.0%}.",
        ]
    )


def _shipped_cases(path: Path) -> list[Case]:
    """Every estimator of a calibrated run."""
    calibration = Calibration.model_validate_json(path.read_bytes())
    run = open_run(path.parent / "run")
    moved = max(
        _distance(run.load(start).state, run.load(stop).state) for s in run.stages for start, stop in s.blocks
    ) / length(run.load(run.steps).state)
    sweeps: dict[tuple[str, str], list[Figures]] = {}
    for e in calibration.estimators:
        sweeps.setdefault((e.method, e.curvature), []).append(e)
    cases = []
    for (method, curvature), found in sweeps.items():
        spread, signs = disagreement({e.readout: torch.tensor([m or 0.0 for m in e.means])[:, None] for e in found})
        known = moved if method != "additive" else None
        cases += [Case((method, curvature, e.readout), spread, signs, known, earned(e.pairs, e.stages)) for e in found]
    return cases


def length(state: State) -> float:
    return float(norm(as_rays(state))[0])


def _distance(a: State, b: State) -> float:
    """Between the parameters that both have: adapters may come in between."""
    shared = [(p, b.params[n]) for n, p in a.params.items() if n in b.params]
    return float(sum(((p - q).double() ** 2).sum() for p, q in shared)) ** 0.5


def sgd(runs: Runs) -> Runs:
    return [r for r in runs if r["optimizer"] == "SGD"]


def bound(runs: Runs, of: Any) -> float:
    return of(r["log10_bound"] for r in sgd(runs))


def vacuous(runs: Runs) -> int:
    return sum(r["log10_bound"] > 0 for r in sgd(runs))


def exponent(value: float) -> str:
    return f"{value:.0e}"


def _only(run: dict[str, Any], name: Estimator) -> dict[str, Any]:
    """The run with one estimator."""
    found = [e for e in run["estimators"] if (e["method"], e["curvature"], e["readout"]) == name]
    return {**run, "estimators": found}


def _median(values: Any) -> float:
    """A figure that overflowed counts as no correlation."""
    return median(0.0 if v is None else v for v in values)


def _median_error(found: list[dict[str, Any]]) -> float:
    return median(math.inf if f["relative_error"] is None else f["relative_error"] for f in found)
