"""Small trainings of other architectures than the MLP, on the same digits and in the same stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import aa_core as aa
from benchmarks.reliability_grid import Config, plans
from sample_runs.digits import batches, evaluation
from sample_runs.models import PicturesCNN, TextTransformer

F64 = torch.float64


class RowsLSTM(nn.Module):
    """Pictures [n, 8, 8] (0..255) read row by row -> logits."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 24, batch_first=True, dtype=F64)
        self.classify = nn.Linear(24, 10, dtype=F64)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.classify(self.lstm(pictures.to(F64) / 255)[0][:, -1])


class InkTransformer(nn.Module):
    """Pictures [n, 8, 8] (0..255) as sentences of 16 words, the shades of their 2x2 squares, nine of them -> logits."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextTransformer(9, 16, classes=10, dtype="float64")

    def forward(self, pictures: Tensor) -> Tensor:
        squares = nn.functional.avg_pool2d(pictures.to(F64)[:, None], 2)
        return self.text(1 + squares.flatten(1).long() // 32)


class PooledInk(nn.Module):
    """The mean of the embeddings of a picture's dark pixels -> logits: a text classifier, with pixels for words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 32, dtype=F64)
        self.classify = nn.Sequential(nn.Linear(32, 32, dtype=F64), nn.GELU(), nn.Linear(32, 10, dtype=F64))

    def forward(self, pictures: Tensor) -> Tensor:
        dark = (pictures.flatten(1) > 96).to(F64)
        embedded = self.words(torch.arange(64).expand(len(dark), 64))
        return self.classify((embedded * dark[:, :, None]).sum(1) / dark.sum(1, keepdim=True).clamp(min=1))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "CNN": lambda: PicturesCNN(8, 10, widths=(8, 16), dtype="float64"),
    "CNN with batch norm": lambda: PicturesCNN(8, 10, widths=(8, 16), batch_norm=True, dtype="float64"),
    "transformer": InkTransformer,
    "pooled embeddings": PooledInk,
    "LSTM": RowsLSTM,
}
SETTINGS = (
    Config("AdamW", 0.001, 0.0, "", 20, "rotated", 0),
    Config("AdamW", 0.003, 0.0, "", 20, "rotated", 0),
    Config("SGD", 0.2, 0.9, "", 20, "mislabelled", 0),
)


def train(name: str, config: Config, path: Path) -> tuple[aa.Trajectory, aa.Problem]:
    """The run of one architecture and setting, and how to open it."""
    torch.manual_seed(config.seed)
    model, loss_fn = ARCHITECTURES[name](), nn.functional.cross_entropy
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.01)
        if config.optimizer == "AdamW"
        else torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    )
    generator = torch.Generator().manual_seed(config.seed + 1)
    with aa.Recorder(path, model, optimizer, loss_fn, evaluation=evaluation()) as recorder:
        for plan in plans(config):
            with recorder.stage(plan.name):
                for ids, x, y in batches(plan, generator):
                    recorder.batch(x, y, ids=ids)
                    optimizer.zero_grad()
                    loss_fn(model(x), y).backward()
                    optimizer.step()
    return aa.open_run(path), aa.Problem(model, loss_fn, device="cpu")
