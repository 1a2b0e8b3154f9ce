"""digits-adamw: pretraining and two fine-tunes with AdamW and a cosine schedule."""

import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from sample_runs.digits import Plan, record  # noqa: E402

PLANS = [
    Plan("pretrain", "upright digits", rotation=0, steps=120),
    Plan("fine-tune 45°", "digits turned by 45 degrees", rotation=45, steps=60),
    Plan("fine-tune 90°", "digits turned by 90 degrees", rotation=90, steps=60),
]
STEPS = sum(plan.steps for plan in PLANS)


def main(path: Path = HERE / "run") -> None:
    record(
        path,
        "Digits, pretrained and fine-tuned twice (AdamW)",
        PLANS,
        lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
