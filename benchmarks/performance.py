"""What the engine costs, as ratios to plain training: python -m benchmarks.performance writes docs/performance.md.

Everything that is compared is timed in turn in one process, by CPU time, and the median of the rounds is taken.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.cache import EmbeddingCache
from aa_core.curvature import gradient_and_curvature
from aa_core.replay import advance, load, prepare
from benchmarks.__main__ import machine
from benchmarks.performance_page import page

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "performance.json", ROOT / "docs" / "performance.md"
ROUNDS, STEPS, STAGES, BATCH, CLASSES = 5, 24, 4, 64, 10


class Encoder(nn.Module):
    """Two layers of attention over 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 128)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.out = nn.Linear(128, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        for layer in self.layers:
            h = layer(h)
        return self.out(h.mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 384), nn.GELU(), nn.Linear(384, 256), nn.GELU(), nn.Linear(256, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 26),
        nn.GELU(),
        nn.Linear(26, CLASSES),
    )


def pictures(n: int, *shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(n, *shape, generator=generator)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Callable[[torch.Generator], Tensor]]]] = {
    "MLP": (mlp, lambda n: pictures(n, 256)),
    "CNN": (cnn, lambda n: pictures(n, 1, 16, 16)),
    "transformer": (Encoder, lambda n: lambda generator: torch.randint(0, 200, (n, 16), generator=generator)),
}


def batch(draw: Callable[[int], Callable[[torch.Generator], Tensor]], k: int, n: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(k)
    return draw(n)(generator), torch.randint(0, CLASSES, (n,), generator=generator)


def plain(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """The user's own loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def recorded(path: Path, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> aa.Trajectory:
    """The same loop, recorded in stages of equal length."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    length = len(batches) // STAGES
    with aa.Recorder(path, model, optimizer, nn.functional.cross_entropy) as recorder:
        for stage in range(STAGES):
            with recorder.stage(f"stage {stage + 1}"):
                for x, y in batches[stage * length : (stage + 1) * length]:
                    recorder.batch(x, y)
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()
    return aa.open_run(path)


def measure(name: str, folder: Path) -> dict[str, Any]:
    """All ratios for one model."""
    build, draw = MODELS[name]
    torch.manual_seed(0)
    model, batches = build(), [batch(draw, k) for k in range(STEPS)]
    built = build()
    built.load_state_dict(model.state_dict())
    run = recorded(folder / name, model, batches)
    problem = aa.Problem(built, nn.functional.cross_entropy, device="cpu")
    training, gamma = prepare(run, problem), aa.log_likelihood(*batch(draw, 999, 200))
    cached = EmbeddingCache(None)
    aa.embed_stages(run, problem, cache=cached)
    skips = [aa.Counterfactual.skip(s.name) for s in run.stages]
    ways: dict[str, Callable[[], Any]] = {
        "plain replay": lambda: deque(advance(run, training, load(run, training, 0), run.steps), maxlen=1),
        "floor: gradient and one curvature product a step": lambda: floor(run, training),
        "adjoint of one query: effects of all steps and stages": lambda: aa.step_effects(run, problem, gamma.mean()),
        "adjoint of 8 queries at once, a query": lambda: aa.step_effects(run, problem, gamma[list(range(8))]),
        "embeddings of all stages, boundary": lambda: aa.embed_stages(run, problem, cache=EmbeddingCache(None)),
        "retraining without each stage, one by one": lambda: [aa.retrain(run, problem, what) for what in skips],
        "retraining without each stage, retrain_all": lambda: aa.retrain_all(run, problem, skips),
    }
    ratios = against(lambda: plain(model, batches), ways)
    ratios["adjoint of 8 queries at once, a query"] = [r / 8 for r in ratios["adjoint of 8 queries at once, a query"]]
    forward = gamma.mean()
    reading = against(
        lambda: [forward(problem, run.load(run.steps).state.params, {}) for _ in run.stages],
        {"reading all examples from cached embeddings": lambda: aa.stage_effects(run, problem, gamma, cache=cached)},
    )
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": summary(ratios),
        "forward passes": summary(reading),
        "recorder": recorder_overhead(build, batches, folder / f"{name} again"),
    }


def floor(run: aa.Trajectory, training: Any) -> None:
    """What an exact adjoint cannot do without: at each step the gradient with its graph, and one product."""
    at = load(run, training, 0)
    vectors = [torch.randn(1, *p.shape) for p in at.state.params.values()]
    for k in range(run.steps):
        data = run.step_input(k, training.problem.device)
        gradient_and_curvature(training.problem, at, data, "exact")[2](vectors)


def recorder_overhead(
    build: Callable[[], nn.Module], batches: list[tuple[Tensor, Tensor]], path: Path
) -> dict[str, float]:
    """Wall time of the recorded loop over that of the plain one, and bytes of the run a step."""
    rounds = []
    for i in range(ROUNDS):
        first, second = (
            seconds(f, time.perf_counter)
            for f in (lambda: plain(build(), batches), lambda i=i: recorded(path / str(i), build(), batches))
        )
        rounds.append(second / first - 1)
    size = sum(f.stat().st_size for f in (path / "0" / "steps").iterdir())
    return {"overhead": statistics.median(rounds), "bytes_per_step": size / len(batches)}


def against(base: Callable[[], Any], ways: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """CPU time of each as a ratio to the base, measured in turn; the first round only warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            found[name].append(seconds(way) / seconds(base))
    return {name: ratios[1:] for name, ratios in found.items()}


def seconds(task: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    task()
    return clock() - start


def summary(ratios: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {n: {"median": statistics.median(r), "min": min(r), "max": max(r)} for n, r in ratios.items()}


def main() -> None:
    """Measure anew, or with `page` only write the page from the stored figures."""
    if sys.argv[1:] != ["page"]:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            models = {name: measure(name, Path(folder)) for name in MODELS}
        figures = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "setting": {"steps": STEPS, "stages": STAGES, "batch": BATCH, "rounds": ROUNDS},
            "models": models,
        }
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
