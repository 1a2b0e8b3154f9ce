"""Changed hyperparameters, estimated and retrained, the table of docs/what-if.md: python -m benchmarks.changes."""

from __future__ import annotations

import time
from pathlib import Path

import torch

import aa_core as aa
from aa_core.registry import load_problem

SGD_RUNS, ALL_RUNS = ("digits-shift", "digits-mislabelled"), ("digits-shift", "digits-mislabelled", "digits-adamw")
QUESTIONS: list[tuple[dict[str, str | float], tuple[str, ...]]] = [
    ({"lr": "0.5x"}, ALL_RUNS),
    ({"lr": "0.9x"}, ALL_RUNS),
    ({"lr": "2x"}, ALL_RUNS),
    ({"lr": "0.01 to 0"}, SGD_RUNS),
    ({"momentum": 0.5}, SGD_RUNS),
    ({"beta1": 0.5}, ALL_RUNS[2:]),
    ({"weight_decay": 0}, ALL_RUNS[2:]),
]
READOUTS = ("linear", "displaced", "link")


def row(name: str, changes: dict[str, str | float]) -> str:
    """Over all pairs of stage and example: r of each readout, signs and sizes of the stages' means by displaced."""
    run = aa.open_run(Path(__file__).parents[1] / "sample_runs" / name / "run")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    assert run.evaluation is not None
    gamma = aa.log_likelihood(run.evaluation.x, run.evaluation.y.long())
    what = [aa.Counterfactual.change(s.name, **changes) for s in run.stages]
    recorded = aa.final_model(run, problem).performance(gamma)
    truth = torch.stack([recorded - aa.retrain(run, problem, w).performance(gamma) for w in what])
    found = [aa.estimate(run, problem, w, gamma).readings for w in what]
    by = {readout: torch.cat([f[readout] for f in found]) for readout in READOUTS}  # type: ignore[index]
    fits = [f"{aa.agreement(values.numpy(), truth.numpy()).pearson:.3f}" for values in by.values()]
    means = aa.agreement(by["displaced"].mean(1).numpy(), truth.mean(1).numpy())
    question = ", ".join(f"{hyper} {how}" for hyper, how in changes.items())
    return f"| {question} | {name} | {' | '.join(fits)} | {means.sign:.0%} | {means.relative_error:.0%} |"


def main() -> None:
    """Print the table."""
    columns = ("in each stage", "run", *READOUTS, "sign of means", "error of means")
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for changes, runs in QUESTIONS:
        for name in runs:
            print(row(name, changes), flush=True)
    print(f"\nMeasured on {time.strftime('%Y-%m-%d')}, CPU, torch {torch.__version__}.")


if __name__ == "__main__":
    main()
