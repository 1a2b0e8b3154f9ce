"""digits-mislabelled: seven rounds of upright digits, one with shifted labels; judged by upright digits."""

import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from sample_runs.digits import Plan, record  # noqa: E402

PLANS = [
    Plan(f"round {i}", "labels shifted by one" if i == 4 else "labels as published", label_shift=int(i == 4))
    for i in range(1, 8)
]


def main(path: Path = HERE / "run") -> None:
    record(
        path,
        "Digits, one mislabelled round",
        PLANS,
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        judged_at=(0,),  # on digits that no round ever taught, less confident nonsense would count as help
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
