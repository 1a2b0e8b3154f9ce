"""Trains a case and records it as a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.errors import MissingExtraError
from aa_core.registry import load_problem
from sample_runs.experiment.plan import Case, Optimizer, Stage

ONLY_AT_STAGES = 1_000_000
"""Steps between checkpoints: none but those at the ends of stages, which keeps runs small."""


class Pool(NamedTuple):
    """The examples of one stage, [n, ...] each, drawn from in shuffled epochs."""

    x: Tensor
    y: Tensor
    ids: list[str]
    always: int = 0
    """The first so many are in every batch."""


class Course(NamedTuple):
    """What an experiment's script makes of a case: the data of each stage, and the evaluation."""

    pool: Callable[[Stage], Pool]
    evaluation: aa.Evaluation
    config: Mapping[str, Any] = MappingProxyType({})
    """Joins the case's own, for what only the data tell, such as a vocabulary."""


def script(name: str) -> Callable[[Case, int, Path], Course]:
    """`course(case, seed, data)` of an experiment; MissingExtraError where it needs what is not installed."""
    try:
        return import_module(f"sample_runs.{name}.course").course
    except ModuleNotFoundError:
        raise MissingExtraError(f"experiment {name!r}", "experiments") from None


def record(path: Path, case: Case, course: Course, seed: int, title: str) -> aa.Trajectory:
    """Train the case and record it at `path`, replacing what is there.

    The seed gives initial weights and the order of the data (the script gives it the examples, too).
    """
    shutil.rmtree(path, ignore_errors=True)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = {**case.config, **course.config}
    problem = load_problem(case.problem, config)
    model, loss_fn = (problem.previous or problem).model, problem.loss_fn
    optimizer, schedule = _optimizer(case.optimizer, model, sum(s.steps for s in case.stages))
    generator = torch.Generator().manual_seed(seed)
    recorder = aa.Recorder(
        path,
        model,
        optimizer,
        loss_fn,
        evaluation=course.evaluation,
        title=title,
        problem=case.problem,
        config=config,
        checkpoint_every=ONLY_AT_STAGES,
    )
    with recorder:
        for i, stage in enumerate(case.stages):
            if stage.optimizer is not None:
                problem.model.load_state_dict(model.state_dict(), strict=False)
                model = problem.model
                optimizer, schedule = _optimizer(stage.optimizer, model, sum(s.steps for s in case.stages[i:]))
            with recorder.stage(stage.name, note=stage.note, metadata=stage.data, model=model, optimizer=optimizer):
                for ids, x, y in batches(course.pool(stage), stage.steps, case.batch, generator):
                    recorder.batch(x, y, ids=ids)
                    optimizer.zero_grad()
                    loss_fn(model(x), y).backward()
                    optimizer.step()
                    schedule.step()
    return aa.open_run(path)


def batches(
    pool: Pool, steps: int, size: int, generator: torch.Generator
) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """(ids, x, y) of each step: those that are always there, and the rest in shuffled epochs."""
    drawn, rest = size - pool.always, len(pool.y) - pool.always
    epochs = [torch.randperm(rest, generator=generator) for _ in range(steps * drawn // rest + 1)]
    for rows in (torch.cat(epochs) + pool.always).split(drawn)[:steps]:
        chosen = torch.cat([torch.arange(pool.always), rows])
        yield [pool.ids[i] for i in chosen.tolist()], pool.x[chosen], pool.y[chosen]


def _optimizer(asked: Optimizer, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    options = {"lr": asked.lr, "weight_decay": asked.weight_decay}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = (
        torch.optim.SGD(trained, momentum=asked.momentum, **options)
        if asked.name == "SGD"
        else torch.optim.AdamW(trained, **options)
    )
    schedules = torch.optim.lr_scheduler
    if asked.cosine:
        return optimizer, schedules.CosineAnnealingLR(optimizer, steps)
    return optimizer, schedules.ConstantLR(optimizer, factor=1.0)
