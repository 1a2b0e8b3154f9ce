"""captum's TracInCP: products of gradients at checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from captum.influence import TracInCP
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.peers.job import Job, Method, Scores, summed

EVERY = 10
"""Steps between checkpoints, where it is given more of them than a user keeps."""
LACKS = "order, momentum, Adam's scaling, weight decay, curvature between step and end"


class Differentiable(nn.Module):
    """The model on floating point inputs that want a gradient, as the library's fast path asks of the first layer's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.double().requires_grad_())


def _scores(job: Job, steps: Sequence[int], rows: Tensor) -> Tensor:
    """[rows, examples]: summed over checkpoints before these steps; one appearance in a mean over a batch."""
    model = job.model_at(0)

    def load(_: nn.Module, step: int) -> float:
        model.load_state_dict(job.states[step], strict=False)
        return job.lrs[min(step, len(job.lrs) - 1)] / len(job.batches[0])

    fast = all(isinstance(m, nn.Linear | nn.Conv2d) for m in model.modules() if list(m.parameters(recurse=False)))
    tracin = TracInCP(
        Differentiable(model) if fast else model,
        TensorDataset(job.x[rows], job.y[rows].long()),
        checkpoints=iter(steps),
        checkpoints_load_func=load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum" if fast else "none"),
        batch_size=256 if fast else 1,
        sample_wise_grads_per_batch=fast,
    )
    return tracin.influence((job.test_x, job.test_y)).T


def usual(job: Job) -> Scores:
    """A checkpoint at each stage's end; every example is scored at all of them."""
    everything = torch.arange(len(job.x))
    found = _scores(job, [steps.stop for steps in job.stages], everything)
    return Scores(summed(job, lambda _: found), range(len(job.judged)))


def own_block(job: Job) -> Scores:
    """A checkpoint before each block of EVERY steps, at which only what the block saw is scored."""
    effects = []
    for steps in job.stages:
        blocks = [range(k, min(k + EVERY, steps.stop)) for k in steps[::EVERY]]
        effects.append(sum(_of_block(job, block) for block in blocks))
    return Scores(torch.stack(effects), range(len(job.judged)))


def _of_block(job: Job, block: range) -> Tensor:
    counts = job.counts(block)
    rows = counts.nonzero().flatten()
    return counts[rows] @ _scores(job, [block.start], rows).to(torch.float64)


METHODS = (
    Method("TracInCP, stage ends", usual, False, LACKS),
    Method(f"TracInCP, a checkpoint every {EVERY} steps, own block", own_block, True, LACKS),
)
