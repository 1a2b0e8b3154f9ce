"""docs/checkpoints-only.md from the stored figures."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

from aa_core.checkpoints_only.segments import EXAMPLES
from aa_core.confidence.verdict import LADDER, SEGMENT_MOVED_LIMITS, SEGMENT_SPREAD_LIMITS
from aa_core.effects.embedding import READOUTS
from benchmarks.reliability_fit import FITTED, HELD_OUT, Runs, said_and_earned, shares
from benchmarks.reliability_page import judge, limit_table, verdict_table

KEPT = ("states of model and optimizer", "states of the model")
"""What was kept of a training, in two degrees."""
GAUSS_NEWTON, NONE = "ggn", "none"
HOLDS = 0.8
"""Pearson r from which exact propagation is said to hold on a run."""


def page(figures: dict[str, Any]) -> str:
    """The page as Markdown."""
    runs = figures["runs"]
    held = said_and_earned(runs, HELD_OUT, judge)
    return f"""# When only checkpoints are known

A training that was not recorded can still be asked which of its stages helped, if the states at the ends of its stages
were kept, with the hyperparameters and the data. The answer is **an approximation**, and every result, chart and
file says so.

```python
import aa_core as aa

run = aa.from_checkpoints(
    "runs/kept",
    model,
    loss_fn,
    initial_state,  # model.state_dict() before training, or a .safetensors file of it
    stages=[  # {{steps done: state}}, the last at the end of the stage; more of them make it more exact
        aa.SegmentStage("pretrain", {{400: aa.Checkpoint(state_1, optimizer_1)}}, "AdamW", {{"lr": 1e-3}}, (x_1, y_1)),
        aa.SegmentStage("fine-tune", {{100: aa.Checkpoint(state_2, optimizer_2)}}, "AdamW", {{"lr": 1e-4}}, (x_2, y_2)),
    ],
    evaluation=aa.Evaluation(x_test, y_test),
)
effects = aa.segment_effects(run, aa.Problem(model, loss_fn), aa.log_likelihood(x_test, y_test))
print(effects.to_frame(), effects.reliability.words)
```

`optimizer_1` is `optimizer.state_dict()`; without it, give the state dict alone and `batch_size=`. Nothing is unpickled:
files must be safetensors, other formats are yours to load. The folder is a run of its own kind (`aa.open_checkpoints`;
`run.json` with a digest of every file, `states/`, `data/`), which `aa info`, `aa check`, `aa effects --by stage`, `aa report`
and the dashboard open; a report says on its pages what is not known. Steps, training examples of a step, replay,
retraining, what-ifs and findings, which only retraining can confirm, are refused: the batches and their order are not known.
`aa.forget_steps(run, path)` makes such a run of a recorded one, to compare.

## What is computed

What a stage did is known exactly: the difference of two stored states. How the later stages carried it to the end is
approximated as in SOURCE (Bae, Lin, Lorraine and Grosse 2024, [arXiv 2405.12186](https://arxiv.org/abs/2405.12186)): between two
checkpoints, curvature, preconditioner and learning rate stand still, so that K steps take a change d to

    P^1/2 exp(-rate K P^1/2 (H + lam) P^1/2) P^-1/2 d

with H the Gauss-Newton matrix of the stage's loss, the mean of both checkpoints over up to {EXAMPLES:,} of its examples; P the
preconditioner of Adam (1 for SGD), from its second moment if it was kept, else estimated from gradients; the rate lr, or
lr / (1 - momentum); and decoupled weight decay as a factor. The exponential is applied by Lanczos, so that no matrix is formed. Momentum
that a stage leaves to the next is counted where the optimizer went on (`resumes=True`) and its state was kept. On a linear model with quadratic loss
under gradient descent the error vanishes with the learning rate (a test); the last stage's effect, read `displaced`, is exact.

Not modelled: batch noise, clipping, dropout, running batch statistics, schedules inside a stage. The Hessian is no choice:
held still over a whole segment, its negative curvature would let changes grow without bound.

## How good is it?

Measured on {figures["date"]}; {figures["machine"]}; {figures["cpu_minutes"]:.0f} minutes. Written by `python -m benchmarks.checkpoints_only` from
[the stored figures](../benchmarks/results/checkpoints-only.json): recorded runs whose steps were forgotten, against really
leaving out each stage (`freeze`), over all pairs of stage and example, on the log-likelihood.

### The shipped runs

On all their evaluation examples; only the ends of the stages are known. *exact* is the boundary estimate of the recorded run, in the same readout.

{shipped_table(figures["shipped"])}

### Training examples

`aa.segment_example_effects(run, problem, gamma.mean(), "pretrain")` ranks the examples of a stage, as SOURCE does. Against `aa.example_effects`
of the recorded runs, stage by stage; a shipped run only knows two states a stage here, and its small batches used some examples more often than others:

{example_table(figures["shipped"])}

So it finds what stands out, not an order; its verdict is "nothing", since three runs are no basis for another.

### {len(runs)} trainings of the grid

Those of [reliability.md](reliability.md) with GELU and ReLU: SGD and AdamW, smooth to exploding, six stages of 20 or 40 steps, {len(set(r["seed"] for r in runs))} seeds; medians over the
runs, the share of right signs of stage means as a mean. "Earned" counts the runs by what the estimate deserved to be trusted for.

{grid_table(runs)}

`displaced` is the default: of the three readouts it has the smallest error of stage means. {compared(runs)}

## What its verdicts say

The verdicts mean what they mean elsewhere ([reliability.md](reliability.md)), with limits of their own, fitted on the {sum(r["seed"] == FITTED for r in runs)} runs of one seed and tried on the {sum(r["seed"] == HELD_OUT for r in runs)} of the
other, both degrees of what was kept together. On the held-out runs too much was promised in {shares(held)["false trust"]:.0%} of {len(held)} cases, too little in {shares(held)["false alarm"]:.0%}.
Cases of one run are not independent, and the runs are few: take the shares as rough. On other models and data this is an extrapolation, and no retraining of such a run can check it.

{verdict_table(held)}

The limits of the spread of the readouts (0: never trusted that far):

{limit_table(SEGMENT_SPREAD_LIMITS)}

The limits of how far any stage may have moved the parameters, over the norm of the final ones:

{limit_table(SEGMENT_MOVED_LIMITS)}
"""


def shipped_table(runs: Runs) -> str:
    """The default and its readouts, run by run."""
    lines = [
        "| run | readout | kept | r | same sign | error of stage means | r with exact | exact: r | exact: same sign |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for e in (e for e in run["estimators"] if e["curvature"] == GAUSS_NEWTON):
            exact = run["exact"][e["readout"]]
            lines.append(
                f"| {run['run']} | {e['readout']} | {e['kept']} | {e['pearson']:.3f} | {e['sign']:.2f} | {e['stage_error']:.0%} "
                f"| {e['with_exact']:.3f} | {exact['pearson']:.3f} | {exact['sign']:.2f} |"
            )
    return "\n".join(lines)


def example_table(runs: Runs) -> str:
    """Median and range over the stages."""
    lines = [
        "| run | examples of a stage | r, median over stages | lowest to highest | Spearman, median |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        found = list(run["examples"].values())
        r, counts = [e["pearson"] for e in found], [e["n"] for e in found]
        lines.append(
            f"| {run['run']} | {min(counts):,} to {max(counts):,} | {median(r):.2f} | {min(r):.2f} to {max(r):.2f} "
            f"| {median(e['spearman'] for e in found):.2f} |"
        )
    return "\n".join(lines)


def grid_table(runs: Runs) -> str:
    """Medians of each estimator, and of exact propagation on the same runs."""
    lines = [
        f"| estimate | r | same sign | sign of stage means | error of stage means | earned {', '.join(LADDER)} |",
        "|---|---|---|---|---|---|",
    ]
    for curvature, kept in ((GAUSS_NEWTON, KEPT[0]), (GAUSS_NEWTON, KEPT[1]), (NONE, KEPT[0])):
        for readout in READOUTS:
            found = [pick(run, curvature, readout, kept) for run in runs]
            lines.append(_row(f"segments, {curvature}, {readout}; {kept}", found))
    lines += [_row(f"recorded: boundary, exact, {r}", [run["exact"][r] for run in runs]) for r in READOUTS]
    return "\n".join(lines)


def compared(runs: Runs) -> str:
    """The default beside exact propagation in the same readout, where that holds and where it explodes."""
    pairs = [
        (run["exact"]["displaced"]["pearson"] or 0.0, pick(run, GAUSS_NEWTON, "displaced", KEPT[0])["pearson"] or 0.0)
        for run in runs
    ]
    calm, rough = ([p for p in pairs if (p[0] >= HOLDS) == holds] for holds in (True, False))
    exact, own, exact_rough, own_rough = (median(p[i] for p in group) for group in (calm, rough) for i in (0, 1))
    return (
        f"In the {len(calm)} runs where exact propagation in the same readout reaches r = {HOLDS} the approximation is the worse of the two (median r "
        f"{own:.2f} against {exact:.2f}). In the other {len(rough)}, where exact propagation breaks down, it is the better one in "
        f"{sum(own > exact for exact, own in rough)} ({own_rough:.2f} against {exact_rough:.2f}): Gauss-Newton flows stay bounded."
    )


def pick(run: dict[str, Any], curvature: str, readout: str, kept: str) -> dict[str, Any]:
    wanted = (curvature, readout, kept)
    return next(e for e in run["estimators"] if (e["curvature"], e["readout"], e["kept"]) == wanted)


def _row(name: str, found: list[dict[str, Any]]) -> str:
    earned = ", ".join(str(sum(e["earned"] == trust for e in found)) for trust in LADDER)
    r, sign, error = (median(e[figure] or 0.0 for e in found) for figure in ("pearson", "sign", "stage_error"))
    of_means = mean(e["stage_sign"] or 0.0 for e in found)
    return f"| {name} | {r:.2f} | {sign:.2f} | {of_means:.2f} | {error:.0%} | {earned} |"
