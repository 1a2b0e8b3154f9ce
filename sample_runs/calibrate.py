"""`python -m sample_runs.calibrate`: retrain the shipped runs without each stage, and store beside each what was found.

To be run after `make samples` changed a run: a calibration is used only for the very run that it names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import aa_core as aa
from aa_core.confidence.calibrate import calibrate
from aa_core.confidence.calibration import BESIDE_A_RUN
from aa_core.registry import load_problem
from aa_core.run_performance import run_performance
from sample_runs.record import NAMES, ROOT


def calibrate_again(name: str) -> Path:
    """Calibrate one shipped run on the log-likelihood of its whole evaluation set."""
    run = aa.open_run(ROOT / name / "run")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    path = ROOT / name / BESIDE_A_RUN
    path.write_bytes(calibrate(run, problem, run_performance(run, "log-likelihood")).to_bytes())
    return path


def main() -> None:
    """Calibrate the named runs (all by default)."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or NAMES:
        print(calibrate_again(name))


if __name__ == "__main__":
    main()
