"""Estimates against real retraining by optimizer, the table of docs/optimizers.md: python -m benchmarks.optimizers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Adagrad, Adam, Adamax, AdamW, Muon, RAdam, RMSprop

import aa_core as aa
from aa_core.rules.lion import LION
from sample_runs.digits import Plan, evaluation, record
from sample_runs.problems import DigitsMLP

PLANS = [Plan(f"{rotation}°, {nth}", "", rotation) for nth in ("first", "second") for rotation in (0, 45)]
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Lion(torch.optim.Optimizer):
    """Lion as its paper writes it."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                mean = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_((mean * beta1).add(p.grad, alpha=1 - beta1).sign(), alpha=-group["lr"])
                mean.mul_(beta2).add_(p.grad, alpha=1 - beta2)


OPTIMIZERS: dict[str, Make] = {
    "SGD, lr .01, momentum .9": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "Adam, lr 5e-4": lambda p: Adam(p, lr=5e-4),
    "Adam with amsgrad, lr 5e-4": lambda p: Adam(p, lr=5e-4, amsgrad=True),
    "AdamW, lr 5e-4": lambda p: AdamW(p, lr=5e-4, weight_decay=0.1),
    "RMSprop, lr 2e-4": lambda p: RMSprop(p, lr=2e-4),
    "Adagrad, lr .01": lambda p: Adagrad(p, lr=0.01),
    "Adamax, lr 5e-4": lambda p: Adamax(p, lr=5e-4),
    "RAdam, lr 5e-4": lambda p: RAdam(p, lr=5e-4),
    "Muon on the matrices, lr .003": lambda p: Muon([q for q in p if q.dim() == 2], lr=0.003),
    "Lion, lr 3e-4": lambda p: Lion(p, lr=3e-4),
}


def row(name: str, make: Make, folder: Path) -> str:
    """Record, estimate, retrain without each stage, compare."""
    record(folder / "run", name, PLANS, make)
    run, problem = aa.open_run(folder / "run"), aa.Problem(DigitsMLP(64), nn.functional.cross_entropy, device="cpu")
    upright = evaluation((0,))
    gamma = aa.log_likelihood(upright.x, upright.y)
    recorded = aa.final_model(run, problem).performance(gamma)
    skipped = [aa.retrain(run, problem, aa.Counterfactual.skip(s.name)).performance(gamma) for s in run.stages]
    truth = torch.stack([recorded - without for without in skipped])
    found = aa.stage_effects(run, problem, gamma)
    additive = aa.stage_effects(run, problem, gamma, method="additive")
    readings = [found.readings["linear"], found.readings["displaced"], found.readings["link"], additive.effects]
    fits = [f"{aa.agreement(values.numpy(), truth.numpy()).pearson:.2f}" for values in readings]
    sign = aa.agreement(found.effects.mean(1).numpy(), truth.mean(1).numpy()).sign
    return f"| {name} | {' | '.join(fits)} | {sign:.0%} | {found.reliability.verdict.trust} |"


def main() -> None:
    """Print the table."""
    aa.register_rule(Lion, LION)
    columns = ("optimizer", "boundary, linear", "displaced", "link", "additive", "sign of means", "verdict")
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for name, make in OPTIMIZERS.items():
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, make, Path(folder)), flush=True)
    print(f"\nMeasured on {time.strftime('%Y-%m-%d')}, CPU, torch {torch.__version__}.")


if __name__ == "__main__":
    main()
