"""kronfluence: influence functions at the final model with an eigenvalue-corrected Kronecker factored curvature."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.task import Task
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.peers.job import Job, Method, Scores, summed


class Classification(Task):
    """Cross entropy, summed over a batch; sampled labels give the true Fisher matrix."""

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        outputs = model(batch[0])
        labels = torch.multinomial(outputs.detach().softmax(1), 1).flatten() if sample else batch[1]
        return nn.functional.cross_entropy(outputs, labels, reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)


def ekfac(job: Job) -> Scores:
    """Scores of one appearance: its weight in the mean loss over all appearances."""
    train = TensorDataset(job.x, job.y.long())
    task = Classification()
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "peers",
            prepare_model(job.model_at(len(job.batches)), task),
            task,
            cpu=True,
            output_dir=folder,
            disable_tqdm=True,
        )
        analyzer.fit_all_factors("factors", train, per_device_batch_size=256)
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            query_dataset=TensorDataset(job.test_x, job.test_y),
            train_dataset=train,
            per_device_query_batch_size=len(job.test_x),
            per_device_train_batch_size=256,
        )
        found = analyzer.load_pairwise_scores("scores")["all_modules"].T
    appearances = sum(map(len, job.batches))
    return Scores(summed(job, lambda _: found / appearances), range(len(job.judged)))


METHODS = (
    Method(
        "EK-FAC influence, final model",
        ekfac,
        True,
        "training itself: order, optimizer, an unfinished minimum; layers other than linear and convolution",
    ),
)
