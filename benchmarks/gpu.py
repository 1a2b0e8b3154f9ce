"""A model of GPT-2's size on a GPU: `python -m benchmarks.gpu` writes benchmarks/results/gpu.json, for docs/gpu.md.

Prose, then program code, then prose again, all as it comes with Python, byte by byte. Wall-clock times, each after the
device has finished; memory is the most that torch had allocated on the device meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import ReplayDriftError
from aa_core.replay import advance, load, prepare
from benchmarks.gpu_page import PAGE, RESULTS, page
from sample_runs.models import SmallGPT2

SIZES: dict[str, dict[str, int]] = {
    "GPT-2 small": {
        "layers": 12,
        "width": 768,
        "heads": 12,
        "vocabulary": 50257,
        "steps": 300,
        "batch": 8,
        "length": 256,
    },
    "a small one": {"layers": 2, "width": 64, "heads": 2, "vocabulary": 256, "steps": 12, "batch": 4, "length": 32},
}
STAGES = ("prose", "code", "prose again")
LEARNING_RATE, WARM_UP, EVALUATED, EVERY, MEMORY = 3e-4, 30, 32, 50, 64 << 30


def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of the next byte, nats."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    """[passages]: mean log-likelihood of a passage's bytes, nats a byte."""
    each = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return -each.reshape(targets.shape).mean(1)


def passages(length: int, device: torch.device) -> dict[str, Tensor]:
    """int64 [passages, length + 1] of bytes, in a fixed random order."""
    library = Path(os.__file__).parent
    prose = " ".join(topics.values()).encode()
    code = b"\n".join(file.read_bytes() for file in sorted(library.glob("*.py")))[: 4 * len(prose)]
    found, generator = {}, torch.Generator().manual_seed(0)
    for name, text in {"prose": prose, "code": code}.items():
        rows = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        rows = rows[: len(rows) // (length + 1) * (length + 1)].reshape(-1, length + 1)
        found[name] = rows[torch.randperm(len(rows), generator=generator)].to(device)
    return found


class Course:
    """The user's own training, recorded or not."""

    def __init__(self, size: dict[str, int], device: torch.device) -> None:
        self.size, self.device, texts = size, device, passages(size["length"], device)
        half = EVALUATED // 2
        held_out = torch.cat([texts["prose"][:half], texts["code"][:half]])
        self.gamma = aa.performance(
            held_out[:, :-1].cpu(), held_out[:, 1:].cpu(), likelihood, name="log-likelihood", unit="nats a byte"
        )
        self.batches, used = [], dict.fromkeys(texts, half)
        for stage in STAGES:
            text = stage.split()[0]
            for _ in range(size["steps"] // len(STAGES)):
                rows = torch.arange(used[text], used[text] + size["batch"]) % (len(texts[text]) - half) + half
                used[text] += size["batch"]
                drawn = texts[text][rows.to(device)]
                self.batches.append((stage, drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()))

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = SmallGPT2(*(self.size[k] for k in ("vocabulary", "length", "width", "layers", "heads")))
        return model.to(self.device)

    def train(self, recorder: aa.Recorder | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for stage in STAGES:
            if recorder is None:
                self._stage(stage, None, model, optimizer)
            else:
                with recorder.stage(stage):
                    self._stage(stage, recorder, model, optimizer)

    def _stage(
        self, stage: str, recorder: aa.Recorder | None, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        for k, (own, x, y) in enumerate(self.batches):
            if own == stage:
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, (k + 1) / WARM_UP)
                if recorder is not None:
                    recorder.batch(x, y)
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()

    def begin(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = self.model()
        return model, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)


class Timer:
    """Seconds and peak memory of each task, in the order in which they were done."""

    def __init__(self, device: torch.device, tell: Callable[[], None]) -> None:
        self.device, self.tell, self.found = device, tell, dict[str, dict[str, float]]()

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        gpu = self.device.type == "cuda"
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        start = time.perf_counter()
        yield
        if gpu:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() if gpu else 0
        self.found[name] = {"seconds": time.perf_counter() - start, "peak": peak}
        print(f"{name}: {self.found[name]['seconds']:.1f} s, {peak / 2**30:.1f} GiB", file=sys.stderr, flush=True)
        self.tell()


def measure(name: str, folder: Path, device: torch.device, tell: Callable[[dict[str, Any]], None]) -> None:
    """Record, replay, sweep, embed, read, retrain; `tell` gets what is known after each."""
    course = Course(SIZES[name], device)
    figures: dict[str, Any] = {"size": SIZES[name]}
    timer = Timer(device, lambda: tell({**figures, "tasks": timer.found}))
    course.train(None, *course.begin())  # the first steps of a process load kernels
    model, optimizer = course.begin()
    figures["parameters"] = sum(p.numel() for p in model.parameters())
    with timer.task("plain training"):
        course.train(None, model, optimizer)
    del model, optimizer
    model, optimizer = course.begin()
    with (
        timer.task("recorded training"),
        aa.Recorder(folder / "run", model, optimizer, loss_fn, checkpoint_every=EVERY) as recorder,
    ):
        course.train(recorder, model, optimizer)
    del optimizer
    figures["bytes"] = sum(f.stat().st_size for f in (folder / "run").rglob("*") if f.is_file())
    run, problem = aa.open_run(folder / "run"), aa.Problem(model, loss_fn, device=device)
    del model
    figures["checkpoints"] = len(run.checkpoints)
    training = prepare(run, problem)
    with timer.task("plain replay from the first state"):
        deque(advance(run, training, load(run, training, 0), run.steps), maxlen=1)
    with timer.task("replay of all segments, compared with the record"):
        drifts = aa.replay_drift(run, problem)
    figures["drift"] = max(d.relative for d in drifts)
    mean = course.gamma.mean()
    with timer.task("adjoint: effects of all steps and stages on the mean"):
        steps = aa.step_effects(run, problem, mean, memory=MEMORY)
    cache = EmbeddingCache(folder / "embeddings", budget=MEMORY)
    with timer.task("embedding of one stage"):
        aa.embed_stages(run, problem, ["code"], cache=cache)
    with timer.task("effects of the stage on all passages, from the cached embedding"):
        stage = aa.stage_effects(run, problem, course.gamma, stages=["code"], cache=cache)
    with timer.task("one forward pass of all passages"):
        recorded = aa.final_model(run, problem).performance(course.gamma)
    with timer.task("retraining without the stage"):
        without = aa.retrain(run, problem, aa.Counterfactual.skip("code")).performance(course.gamma)
    truth = (recorded - without).cpu().double()
    figures["mean"] = float(recorded.mean())
    figures["growth"] = stage.reliability.growth
    figures["truth"] = _by_text(truth)
    figures["estimates"] = {
        readout: {
            "r": float(torch.corrcoef(torch.stack([truth, e[0].cpu().double()]))[0, 1]),
            "effects": _by_text(e[0].cpu().double()),
        }
        for readout, e in stage.readings.items()
    }
    figures["step effects"] = steps.to_frame().groupby("stage", sort=False)["effect"].sum().to_dict()
    if device.type == "cuda":
        figures["TF32"] = _in_tf32(run, problem, mean, steps.effects, timer)
    tell({**figures, "tasks": timer.found})


def _in_tf32(
    run: aa.Trajectory, problem: aa.Problem, mean: aa.Performance, exact: Tensor, timer: Timer
) -> dict[str, Any]:
    """Effects of the last stage's steps with matrix products in TF32, against those in float32."""
    steps = list(run.stages[-1].steps)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with timer.task("adjoint of the last stage alone, in TF32"):
            found = aa.step_effects(run, problem, mean, stages=[run.stages[-1].name], memory=MEMORY).effects[:, 0]
    except ReplayDriftError as error:
        return {"refused": str(error)}
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    with timer.task("adjoint of the last stage alone"):
        aa.step_effects(run, problem, mean, stages=[run.stages[-1].name], memory=MEMORY)
    return {
        "r": float(torch.corrcoef(torch.stack([found, exact[steps, 0]]))[0, 1]),
        "error": float((found - exact[steps, 0]).abs().mean() / exact[steps, 0].abs().mean()),
    }


def _by_text(effects: Tensor) -> dict[str, float]:
    half = EVALUATED // 2
    return {"prose": float(effects[:half].mean()), "code": float(effects[half:].mean())}


def main() -> None:
    """Measure, or with `page` only write the page from the stored figures."""
    if sys.argv[1:] != ["page"]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        name = sys.argv[1] if sys.argv[1:] else "GPT-2 small" if device.type == "cuda" else "a small one"
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # that is for finding faults in operators
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        about = {"machine": machine, "torch": torch.__version__, "date": datetime.now(UTC).date().isoformat()}

        def tell(figures: dict[str, Any]) -> None:
            kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps(kept | {name: {**about, **figures}}, indent=1) + "\n")

        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder), device, tell)
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
