"""Small models, optimizers and runs on which every claim of the engine is checked. Trained by torch.optim itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from aa_core.problem import Problem
from aa_core.records import Batch, MicroBatch, Phase, StepInput, StepRecord
from aa_core.rules import rule_for
from aa_core.stages import Stage
from aa_core.state import Snapshot, State

CLASSES, FEATURES = 4, 6


def mlp(activation: type[nn.Module] = nn.GELU) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 7), activation(), nn.Linear(7, CLASSES))


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, CLASSES))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.reshape(-1, 3, 2))
        return self.out((h + self.attend(h, h, h, need_weights=False)[0]).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 5, batch_first=True)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x.reshape(-1, 3, 2))[0][:, -1])


MODELS: dict[str, Callable[[], nn.Module]] = {"linear": linear, "mlp": mlp, "attention": Attention, "lstm": Recurrent}

OPTIMIZERS: dict[str, Callable[[list], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, dampening=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-4),
    "adam-decay": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.05, betas=(0.8, 0.95), eps=1e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, eps=1e-4),
}


@dataclass
class MemoryRun:
    """A run that was never written: the engine's contract (records.RunLike) over plain lists."""

    optimizer: str
    groups: tuple[tuple[str, ...], ...]
    stages: tuple[Stage, ...]
    inputs: list[StepInput] = field(default_factory=list)
    states: list[Snapshot] = field(default_factory=list)
    """Every state 0..K as torch.optim made it."""
    every: int = 1
    digest: str = "memory"
    first_nonfinite: int | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase(0, self.optimizer, self.groups, (tuple(n for names in self.groups for n in names),)),)

    @property
    def steps(self) -> int:
        return len(self.inputs)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        return tuple(sorted({*range(0, self.steps + 1, self.every), self.steps}))

    def load(self, step: int) -> Snapshot:
        assert step in self.checkpoints, "the engine asked for a state that is not stored"
        return self.states[step]

    def step_input(self, step: int, device: torch.device) -> StepInput:
        return self.inputs[step]

    def record(self, step: int) -> StepRecord:
        at = self.inputs[step]
        micro = tuple(MicroBatch(torch.zeros(0, dtype=torch.int64), w) for _, w in at.batches)
        return StepRecord(step, "", at.hyper, micro, at.training, 0.0, 0.0)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets)


def examples(n: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, CLASSES, (n,), generator=generator)


def record(
    model: nn.Module,
    make_optimizer: Callable[[list], torch.optim.Optimizer],
    *,
    steps: int = 12,
    stages: tuple[tuple[str, int], ...] = (("a", 4), ("b", 5), ("c", 3)),
    micro_batches: int = 1,
    every: int = 1,
    dtype: torch.dtype = torch.float64,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    batch: int = 8,
) -> tuple[MemoryRun, Problem, nn.Module]:
    """Train with torch.optim and write down everything; (run, problem, trained model)."""
    torch.manual_seed(0)
    model = copy.deepcopy(model).to(dtype)
    problem = Problem(model, loss_fn, device="cpu")
    optimizer = make_optimizer(list(model.parameters()))
    rule, names = rule_for(optimizer), {id(p): n for n, p in model.named_parameters()}
    groups = tuple(tuple(names[id(p)] for p in g["params"]) for g in optimizer.param_groups)
    blocks, start = [], 0
    for name, length in stages:
        blocks.append(Stage(name, ((start, start + length),)))
        start += length
    run = MemoryRun(rule.name, groups, tuple(blocks), every=every)

    def snapshot() -> Snapshot:
        slots = {n: rule.read_slots(optimizer.state.get(p, {}), p) for n, p in model.named_parameters()}
        by_slot = {s: {n: slots[n][s] for n in slots} for s in rule.slots}
        params = {n: p.detach().clone() for n, p in model.named_parameters()}
        count = torch.tensor([float(len(run.inputs))], dtype=torch.float64)
        return Snapshot(
            len(run.inputs), State(params, by_slot, count), {n: b.clone() for n, b in model.named_buffers()}
        )

    run.states.append(snapshot())
    for k in range(start if steps == 12 else steps):
        optimizer.zero_grad()
        batches = []
        for j in range(micro_batches):
            x, y = examples(batch + 2 * j, seed=100 * k + j, dtype=dtype)
            weight = 1.0 if micro_batches == 1 else (j + 1) / 4
            loss = loss_fn(model(x), y)
            (loss if weight == 1.0 else loss * weight).backward()
            batches.append((Batch(x, y), weight))
        hyper = tuple(rule.read_hyper(g) for g in optimizer.param_groups)
        optimizer.step()
        run.inputs.append(StepInput(k, hyper, tuple(batches), model.training))
        run.states.append(snapshot())
    return run, problem, model
