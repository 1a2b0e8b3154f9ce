"""bergson's MAGIC: the exact gradient of a final loss in the weight of every appearance, one backward pass a query."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
import torchopt
from bergson.magic.trainer import BackwardState, Trainer
from torch import Tensor, nn
from torchopt.pytree import tree_iter

from benchmarks.peers.job import Job, Method, Scores, few

EPS_ROOT = 1e-17
"""bergson's own default: at 0 its derivative is not a number where a weight has had no gradient yet."""


class Weighted(nn.Module):
    """The model and its loss, each example weighted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor, example_weight: Tensor, shift_loss_mask: Tensor) -> Tensor:
        return (example_weight * nn.functional.cross_entropy(self.model(x), y, reduction="none")).mean()


class Stream:
    """The recorded batches, with a weight for every appearance."""

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, torch.device("cpu")
        self.weights = nn.Parameter(torch.ones(sum(map(len, job.batches)), dtype=job.states[0][_any(job)].dtype))
        ends = torch.tensor([len(b) for b in job.batches]).cumsum(0).tolist()
        self.places = [slice(end - len(b), end) for b, end in zip(job.batches, ends, strict=True)]

    @property
    def requires_grad(self) -> bool:
        return self.weights.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.weights.requires_grad = value

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rows, weights = self.job.batches[i], self.weights[self.places[i]]
        ones = torch.ones(len(rows), 1)
        return {"x": self.job.x[rows], "y": self.job.y[rows].long(), "example_weight": weights, "shift_loss_mask": ones}


def magic(job: Job) -> Scores:
    """Effect of a stage = the sum of the derivatives in the weights of its appearances, at weight 1."""
    columns, stream = few(len(job.judged)), Stream(job)
    trainer, state = Trainer.initialize(Weighted(job.model_at(0)), _optimizer(job))
    with tempfile.TemporaryDirectory() as folder:
        state = trainer.train(state, stream, inplace=False, save_dir=folder)  # type: ignore[arg-type]
        final = {name: p.detach().clone() for name, p in state.params.items()}
        found = [_of_query(job, c, trainer, state, stream, folder, final) for c in columns]
    by_step = torch.stack(found, 1).split([len(b) for b in job.batches])
    return Scores(torch.stack([sum(by_step[k].sum(0) for k in steps) for steps in job.stages]), columns)


def _of_query(
    job: Job, column: int, trainer: Trainer, state: Any, stream: Stream, folder: str, final: dict[str, Tensor]
) -> Tensor:
    """[appearances]: how much each helped the log-likelihood of one evaluation example."""
    model = job.model_at(len(job.batches))
    loss = nn.functional.cross_entropy(model(job.test_x[[column]]), job.test_y[[column]])
    gradients = dict(zip(final, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    zeros = [torch.zeros_like(t) for t in tree_iter(state.opt_state) if isinstance(t, Tensor) and t.is_floating_point()]
    state.detach_()
    begun = BackwardState(gradients, zeros, torch.zeros_like(stream.weights))
    done = trainer.backward(folder, stream, begun, state, cleanup=False)  # type: ignore[arg-type]
    return -done.weight_grads.detach()


def _optimizer(job: Job) -> Any:
    first, lrs = job.hypers[0], job.lrs
    if job.run.optimizer == "SGD":
        return torchopt.sgd(lambda k: lrs[int(k)], momentum=first["momentum"], weight_decay=first["weight_decay"])
    return torchopt.adamw(lambda k: lrs[int(k)], weight_decay=first["weight_decay"], eps_root=EPS_ROOT)


def _any(job: Job) -> str:
    return next(iter(job.states[0]))


METHODS = (
    Method(
        "MAGIC",
        magic,
        True,
        "leaving a stage out: weight decay and momentum still act in a derivative at weight 1; all examples at once",
    ),
)
