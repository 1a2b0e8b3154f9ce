"""digits-shift: six stages of digits rotated by 0, 45, 90, 0, 45, 90 degrees."""

import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from sample_runs.digits import Plan, record  # noqa: E402

NOTES = {0: "upright digits", 45: "digits turned by 45 degrees", 90: "digits turned by 90 degrees"}
PLANS = [
    Plan(f"{turn}° ({half} time)", NOTES[turn], rotation=turn) for half in ("first", "second") for turn in (0, 45, 90)
]


def main(path: Path = HERE / "run") -> None:
    record(path, "Digits, shifting rotation", PLANS, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
