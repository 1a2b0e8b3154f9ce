"""A million parameters in a budget: peak memory by the operating system, and time against unlimited memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import aa_core as aa
from benchmarks.performance_cases import batch, pictures, recorded

STEPS, STAGES, BATCH = 2_000, 2, 16
BUDGETS = {"unlimited": 1 << 40, "1 GiB": 1 << 30}


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 720), nn.GELU(), nn.Linear(720, 10))


def draw(n: int) -> Any:
    return pictures(n, 256)


def measure(folder: Path) -> dict[str, Any]:
    """Each budget in a process of its own, on the same recorded run."""
    model = build()
    recorded(folder / "memory", model, [batch(draw, k, BATCH) for k in range(STEPS)], STAGES)
    budgets = {}
    for name, memory in BUDGETS.items():
        command = [sys.executable, "-m", "benchmarks.memory_cost", str(folder / "memory"), str(memory)]
        budgets[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"parameters": sum(p.numel() for p in model.parameters()), "steps": STEPS, "budgets": budgets}


def attribute(path: str, memory: int) -> dict[str, float]:
    """Effects of all steps; seconds by CPU and by the clock, and the peak of the process before and after, bytes."""
    torch.set_num_threads(1)
    run, problem = aa.open_run(path), aa.Problem(build(), nn.functional.cross_entropy, device="cpu")
    gamma = aa.log_likelihood(*batch(draw, 999, 200)).mean()
    run.load(run.steps)
    before, start, began = _peak(), time.process_time(), time.perf_counter()
    aa.step_effects(run, problem, gamma, memory=memory)
    taken, clock = time.process_time() - start, time.perf_counter() - began
    return {"seconds": taken, "clock": clock, "before": before, "peak": _peak()}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(attribute(sys.argv[1], int(sys.argv[2]))))
