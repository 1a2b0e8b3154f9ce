"""The bound on the error of a stage effect beside the error itself: python -m benchmarks.bounds > docs/bounds.md."""

from __future__ import annotations

import time
from pathlib import Path

import torch

import aa_core as aa
from aa_core.registry import load_problem

RUNS = ("digits-shift", "digits-mislabelled", "digits-adamw")
ABOUT = """# How far off an effect can be

`aa effects RUN --bounds`, or `aa.with_remainders`, bounds the error of a stage's effect on the mean performance
(boundary, exact, linear; freeze). What skipping the stage changed in the parameters can grow under gradient descent to
D exp(Λη) at most, and then first order neglects at most

    D² / 2 · exp(2 Λη) · (G ρ η + Λ_γ)

with D the displacement (the stage's steps, their lengths summed), η the learning rate that follows it, summed (momentum
included), Λ the largest curvature of the loss and ρ how fast it bends along what the stage did, G and Λ_γ slope and
curvature of the performance. Λ and ρ are taken in the metric of the optimizer, and estimated at four later steps: the
bound holds as far as these estimates do.

The sharp form takes the stage's net move for D, and for Λ only what makes a change grow: downhill curvature, and what a
step overshoots. Both are worst cases, and mostly say nothing: where many directions could conspire, they do not. What
verdicts rest on is measured instead: [reliability.md](reliability.md). The table shows how far apart the two are.
"""


def rows(name: str) -> list[str]:
    """One line a stage: constants, bounds, and the error against real retraining."""
    run = aa.open_run(Path(__file__).parents[1] / "sample_runs" / name / "run")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    assert run.evaluation is not None
    gamma = aa.log_likelihood(run.evaluation.x, run.evaluation.y.long()).mean()
    estimates = aa.stage_effects(run, problem, gamma).effects[:, 0]
    recorded = aa.final_model(run, problem).performance(gamma)
    lines = []
    for found, estimate in zip(aa.remainders(run, problem, gamma), estimates, strict=True):
        without = aa.retrain(run, problem, aa.Counterfactual.skip(found.stage)).performance(gamma)
        constants = (found.displacement, found.lr_after, found.largest, found.unstable, found.bend)
        cells = [f"{value:.2g}" for value in constants]
        bounds = [f"10^{found.log10_bound:.1f}", f"10^{found.log10_sharp:.1f}"]
        error = f"{abs(float(estimate - (recorded - without))):.2g}"
        lines.append(f"| {name} | {found.stage} | {' | '.join([*cells, *bounds, error])} |")
    return lines


def main() -> None:
    """Print the page."""
    print(ABOUT)
    print(
        f"Measured on {time.strftime('%Y-%m-%d')}, CPU, torch {torch.__version__}; in nats, mean over the examples.\n"
    )
    print("| run | stage | D | η after it | Λ | Λ of what grows | ρ | bound | sharp | true error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(line for name in RUNS for line in rows(name)))


if __name__ == "__main__":
    main()
