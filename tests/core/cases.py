"""What the core tests share: runs recorded once, questions to ask of them, and how closely two answers must agree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.problem import Problem
from aa_core.replay import prepare
from aa_core.state import Params, Snapshot, State, map_state
from tests import zoo
from tests.core.oracle import Loss, Oracle

STAGES = ("a", "b", "c")
MakeOptimizer = Callable[[list[Any]], torch.optim.Optimizer]


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Quadratic in the outputs: with a linear model every step of SGD is affine in the state."""
    return (outputs - nn.functional.one_hot(targets, zoo.CLASSES).to(outputs)).square().mean()


LOSSES: dict[str, Loss] = {"cross-entropy": zoo.cross_entropy, "squares": squares}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A recorded run with its problem, the model that torch.optim trained, and the oracle."""

    run: zoo.MemoryRun
    problem: Problem
    model: nn.Module
    oracle: Oracle

    def every(self, steps: int) -> zoo.MemoryRun:
        """The same run with fewer checkpoints."""
        return dataclasses.replace(self.run, every=steps)

    def training(self) -> Any:
        return prepare(self.run, self.problem)

    def propagator(self, at: Snapshot, k: int, curvature: str = "exact") -> Any:
        return self.training().linearize(at, self.run.inputs[k], curvature)[1]


def make_case(
    build: Callable[[], nn.Module], optimizer: MakeOptimizer, loss_fn: Loss = zoo.cross_entropy, **options: Any
) -> Case:
    torch.manual_seed(1)
    run, problem, trained = zoo.record(build(), optimizer, loss_fn=loss_fn, **options)
    return Case(run, problem, trained, Oracle(trained, loss_fn, run.optimizer, run.groups, run.inputs))


@cache
def recorded(model: str, optimizer: str, loss: str = "cross-entropy", **options: Any) -> Case:
    """A case of the zoo; trained once per session, so leave it as it is."""
    return make_case(zoo.MODELS[model], zoo.OPTIMIZERS[optimizer], LOSSES[loss], **options)


def scheduled(make: MakeOptimizer, factor: Callable[[int], float]) -> MakeOptimizer:
    """An optimizer whose groups' lr is multiplied by factor(k) at step k, as a scheduler would."""

    def build(params: list[Any]) -> torch.optim.Optimizer:
        optimizer = make(params)
        base, step = [g["lr"] for g in optimizer.param_groups], 0

        def set_lr(*_: Any) -> None:
            nonlocal step
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * factor(step)
            step += 1

        set_lr()
        optimizer.register_step_post_hook(set_lr)
        return optimizer

    return build


def warm_and_cosine(k: int) -> float:
    return min(1.0, (k + 1) / 3) * (0.6 + 0.4 * math.cos(k / 4))


def two_groups(kind: type[torch.optim.Optimizer], **options: Any) -> MakeOptimizer:
    """Weights and biases in groups of their own; biases learn three times as fast and do not decay."""

    def build(params: list[Tensor]) -> torch.optim.Optimizer:
        weights, biases = [p for p in params if p.dim() > 1], [p for p in params if p.dim() <= 1]
        lr = options["lr"]
        return kind([{"params": weights}, {"params": biases, "lr": 3 * lr, "weight_decay": 0.0}], **options)

    return build


def memory_cache() -> EmbeddingCache:
    """A cache that nobody else has written into."""
    return EmbeddingCache(None)


def queries(n: int = 5, dtype: torch.dtype = torch.float64) -> aa.Performance:
    return aa.log_likelihood(*zoo.examples(n, seed=9, dtype=dtype))


def log_likelihood(case: Case, n: int = 5) -> Callable[[Params], Tensor]:
    """The same as `queries`, from the formula."""
    x, y = zoo.examples(n, seed=9)
    return lambda params: case.oracle.outputs(params, x).log_softmax(1)[torch.arange(n), y]


def stage_effects(run: Any, problem: Problem, gamma: aa.Performance, **request: Any) -> Tensor:
    return aa.stage_effects(run, problem, gamma, **{"cache": memory_cache(), **request}).effects


def embeddings(run: Any, problem: Problem, stages: tuple[str, ...] | None = None, **request: Any) -> dict[str, Params]:
    found = aa.embed_stages(run, problem, stages, **{"cache": memory_cache(), **request})
    return {e.stage: e.params for e in found}


def generic_state(like: State, seed: int = 0) -> State:
    """A state in no special position: nothing is zero, second moments are positive, the count is 3."""
    generator = torch.Generator().manual_seed(seed)

    def draw(slot: str, t: Tensor) -> Tensor:
        if slot == "exp_avg_sq":
            return (0.5 + torch.rand(t.shape, generator=generator, dtype=torch.float64)).to(t) * 1e-2
        return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) * 0.1

    slots = {s: {n: draw(s, t) for n, t in named.items()} for s, named in like.slots.items()}
    return State({n: p + draw("", p) for n, p in like.params.items()}, slots, torch.full_like(like.count, 3.0))


def random_rays(like: State, count: int, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda t: torch.randn((count, *t.shape), generator=generator, dtype=torch.float64).to(t)  # noqa: E731
    return map_state(draw, like)


def assert_close(found: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    """Largest difference at most rtol times the largest expected number, which must not be zero."""
    scale = float(expected.abs().max())
    assert found.shape == expected.shape
    assert scale > 0, "nothing is compared: the expected values are all zero"
    assert float((found.double() - expected.double()).abs().max()) <= rtol * scale


def assert_same_params(found: Params, expected: Params, rtol: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    assert_close(vector(found), vector(expected), rtol)


def vector(params: Params) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in params.values()])


def equal(a: Params, b: Params) -> bool:
    """Bit for bit, dtype included (-0 and 0 are the same number)."""
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)
