"""dattri: TracIn, data value embeddings (DVEmb), and influence functions by conjugate gradients."""

from __future__ import annotations

from typing import Any

import torch
from dattri.algorithm.dvemb import DVEmbAttributor
from dattri.algorithm.influence_function import IFAttributorCG
from dattri.algorithm.tracin import TracInAttributor
from dattri.task import AttributionTask
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.job import Job, Method, Scores, few, summed

REGULARIZATION = 0.01
DIMENSIONS = 1024
"""That DVEmb's gradients are projected to, at random: without, it took 750 trainings on digits-shift."""


def _task(job: Job, steps: list[int]) -> AttributionTask:
    """Loss of one example, which comes without its dimension."""

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        outputs = functional_call(job.model, params, data[0].unsqueeze(0))
        return nn.functional.cross_entropy(outputs, data[1].unsqueeze(0))

    return AttributionTask(loss, job.model, [job.model_at(k).state_dict() for k in steps])


def _loader(*tensors: Tensor, size: int = 128) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=size)


def _everything(job: Job) -> tuple[Tensor, Tensor]:
    return job.x, job.y.long()


def tracin(job: Job) -> Scores:
    """A checkpoint at each stage's end; every example is scored at all of them."""
    ends = [steps.stop for steps in job.stages]
    weights = torch.tensor([job.lrs[min(k, len(job.lrs) - 1)] / len(job.batches[0]) for k in ends])
    attributor = TracInAttributor(_task(job, ends), weights, normalized_grad=False)
    attributor.projector_kwargs = None
    found = attributor.attribute(_loader(*_everything(job)), _loader(job.test_x, job.test_y))
    return Scores(summed(job, lambda _: found), range(len(job.judged)))


def dvemb(job: Job) -> Scores:
    """Every step is cached at its own parameters; a stage is what the method calls an epoch."""
    attributor = DVEmbAttributor(_task(job, [len(job.batches)]), proj_dim=DIMENSIONS)
    for i, steps in enumerate(job.stages):
        for k in steps:
            job.model.load_state_dict(job.states[k], strict=False)
            rows = job.batches[k]
            attributor.cache_gradients(i, (job.x[rows], job.y[rows].long()), rows, job.lrs[k])
    attributor.cache()
    job.model.load_state_dict(job.states[-1], strict=False)
    tests = _loader(job.test_x, job.test_y)
    effects = [attributor.attribute(tests, epoch=i).sum(0) for i in range(len(job.stages))]
    return Scores(torch.stack(effects), range(len(job.judged)))


def influence_functions(job: Job) -> Scores:
    """At the final model, which is taken for a minimum of the mean loss over all appearances."""

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(functional_call(job.model, params, data[0]), data[1])

    columns = few(len(job.judged))
    task = AttributionTask(loss, job.model, job.model.state_dict())
    attributor = IFAttributorCG(task, regularization=REGULARIZATION)
    everything = _loader(*_everything(job), size=len(job.x))
    attributor.cache(everything)
    found = attributor.attribute(everything, _loader(job.test_x[columns], job.test_y[columns]))
    appearances = sum(map(len, job.batches))
    return Scores(summed(job, lambda _: found / appearances), columns)


METHODS = (
    Method("TracIn, stage ends", tracin, False, "order, momentum, Adam's scaling, weight decay, curvature"),
    Method(
        f"DVEmb, projected to {DIMENSIONS}",
        dvemb,
        True,
        "momentum, Adam's scaling, weight decay; curvature is Fisher's",
    ),
    Method(
        f"influence functions, CG, damping {REGULARIZATION:g}",
        influence_functions,
        True,
        "training itself: order, optimizer, an unfinished minimum",
    ),
)
