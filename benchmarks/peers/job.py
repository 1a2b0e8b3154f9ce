"""A recorded training as plain tensors and a plain model: all that another library needs to score it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.registry import load_problem
from aa_core.replay import at_steps, prepare

ROOT = Path(__file__).parents[2] / "sample_runs"
EXAMPLES = 60
"""At most so many evaluation examples, evenly spread."""
FEW = 8
"""For methods whose cost grows with every example."""


class Job(NamedTuple):
    """One optimizer, one parameter group, mean cross-entropy over each batch: what all peers can be given."""

    run: aa.Trajectory
    problem: aa.Problem
    model: nn.Module
    """As trained, in evaluation mode."""
    x: Tensor
    y: Tensor
    """The training examples, each once."""
    batches: Sequence[Tensor]
    """Rows of x in each step."""
    hypers: Sequence[Mapping[str, float]]
    stages: Sequence[range]
    """The steps of each stage."""
    states: Sequence[dict[str, Tensor]]
    """Parameters before each step, and after the last."""
    judged: Tensor
    """Rows of the evaluation examples."""
    test_x: Tensor
    test_y: Tensor

    @property
    def lrs(self) -> list[float]:
        return [hyper["lr"] for hyper in self.hypers]

    def model_at(self, step: int) -> nn.Module:
        """A copy of the model with the parameters before a step."""
        model = deepcopy(self.model)
        model.load_state_dict(self.states[step], strict=False)
        return model

    def counts(self, steps: Sequence[int]) -> Tensor:
        """[n]: how often each training example was seen in these steps."""
        return torch.bincount(torch.cat([self.batches[k] for k in steps]), minlength=len(self.x)).to(torch.float64)


class Scores(NamedTuple):
    """What a method finds: the effects of the stages, positive = helped, on some evaluation examples."""

    effects: Tensor
    """[stages, examples]"""
    columns: Sequence[int]
    """Which of the job's evaluation examples."""


class Method(NamedTuple):
    """One way to score the stages of a job."""

    name: str
    compute: Callable[[Job], Scores]
    scaled: bool
    """Whether its scores are in the unit of the performance."""
    lacks: str
    """What it cannot express of the question."""


def read_job(name: str) -> Job:
    """The shipped run of this name."""
    run = aa.open_run(ROOT / name / "run")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    records = [run.record(k) for k in range(run.steps)]
    assert all(len(r.micro_batches) == len(r.hyper) == 1 and r.clip is None for r in records) and run.evaluation
    rows = [r.micro_batches[0].rows for r in records]
    used, places = torch.cat(rows).unique(return_inverse=True)
    seen = run.examples(used)
    states = [s.state.params for s in at_steps(run, prepare(run, problem), range(run.steps + 1))]
    judged = torch.tensor(spread(EXAMPLES, len(run.evaluation)))
    assert isinstance(seen.inputs, Tensor) and isinstance(run.evaluation.x, Tensor)
    model = deepcopy(problem.model).eval()
    model.load_state_dict(states[-1], strict=False)
    return Job(
        run=run,
        problem=problem,
        model=model,
        x=seen.inputs,
        y=seen.targets,
        batches=places.split([len(r) for r in rows]),
        hypers=[r.hyper[0] for r in records],
        stages=[range(s.start, s.stop) for s in run.stages],
        states=states,
        judged=judged,
        test_x=run.evaluation.x[judged],
        test_y=run.evaluation.y[judged].long(),
    )


def spread(count: int, of: int) -> list[int]:
    """So many of the numbers below `of` (or all), evenly spread."""
    return torch.linspace(0, of - 1, min(count, of)).round().long().tolist()


def few(examples: int) -> list[int]:
    """Those of so many evaluation examples that every method scores."""
    return spread(FEW, examples)


def summed(job: Job, scores: Callable[[int], Tensor]) -> Tensor:
    """[stages, examples]: scores(stage) [n, examples] of one appearance, summed over those in the stage's steps."""
    return torch.stack([job.counts(steps) @ scores(i).to(torch.float64) for i, steps in enumerate(job.stages)])


def train(job: Job) -> nn.Module:
    """The training as its author would write it: what costs are counted in."""
    model = job.model_at(0).train()
    first = dict(job.hypers[0])
    optimizer = (
        torch.optim.SGD(
            model.parameters(), lr=first["lr"], momentum=first["momentum"], weight_decay=first["weight_decay"]
        )
        if job.run.optimizer == "SGD"
        else torch.optim.AdamW(model.parameters(), lr=first["lr"], weight_decay=first["weight_decay"])
    )
    for rows, lr in zip(job.batches, job.lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(job.x[rows]), job.y[rows].long()).backward()
        optimizer.step()
    return model
