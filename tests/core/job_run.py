"""A small recorded run with an auditor's problem file beside it, for the tests of jobs and of the command line."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from aa_core.recording.recorder import Recorder
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.trajectory import Trajectory, open_run

STAGES = ("first", "=1+1", "last")
STEPS = 8
PROBLEM = """
import time
import torch
from torch import nn
from aa_core.problem import Problem

def net():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()

def problem(config):
    return Problem(net(), nn.functional.cross_entropy, device="cpu")

def slow_cross_entropy(outputs, targets):
    time.sleep(0.06)
    return nn.functional.cross_entropy(outputs, targets)

def slow(config):
    return Problem(net(), slow_cross_entropy, device="cpu")

def very_slow_cross_entropy(outputs, targets):
    time.sleep(1)
    return nn.functional.cross_entropy(outputs, targets)

def very_slow(config):
    return Problem(net(), very_slow_cross_entropy, device="cpu")

def other_loss(config):
    return Problem(net(), nn.functional.multi_margin_loss, device="cpu")

def broken(config):
    raise KeyError("no such setting")

def starved(config):
    raise MemoryError

def unmapped(config):
    raise OSError(12, "Cannot allocate memory")

def crowded(config):
    torch.empty(1 << 60, dtype=torch.uint8)
"""


def make(folder: Path) -> tuple[Trajectory, Path]:
    """(three stages of eight steps, problem file)."""
    torch.manual_seed(0)
    file = folder / "problem.py"
    file.write_text(PROBLEM)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    x, y = torch.randn(40, 4, dtype=torch.float64), torch.randint(0, 3, (40,))
    with Recorder(
        folder / "run",
        model,
        optimizer,
        nn.functional.cross_entropy,
        evaluation=Evaluation(x[:12], y[:12]),
        title="tiny",
    ) as recorder:
        for name in STAGES:
            with recorder.stage(name):
                for rows in torch.randint(0, 40, (STEPS, 8)):
                    recorder.batch(x[rows], y[rows])
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                    optimizer.step()
    return open_run(folder / "run"), file


def wait(reached: Callable[[], object], seconds: float = 120) -> float:
    """Wait until something holds; how long it took."""
    began = time.monotonic()
    while not reached():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - began
