"""Recorded steps as columns: what steps/*.safetensors hold, and random access to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from aa_core.errors import RunFormatError
from aa_core.records import Clip, Groups, MicroBatch, Precision, StepRecord
from aa_core.runs.curves import hyper_names
from aa_core.runs.header import listed
from aa_core.runs.store import Spec, decode, layout

Columns = dict[str, Tensor]
AUTOCASTS: tuple[Literal["bfloat16", "float16"] | None, ...] = (None, "bfloat16", "float16")
CLIPS: tuple[Literal["norm", "value"], ...] = ("norm", "value")
_PER_STEP: dict[str, torch.dtype] = {
    "loss": torch.float64,
    "grad_norm": torch.float64,
    "training": torch.uint8,
    "clip.norm": torch.float64,
    "clip.value": torch.float64,
}
_PER_MICRO: dict[str, torch.dtype] = {
    "micro.step": torch.int64,
    "micro.weight": torch.float64,
    "micro.size": torch.int64,
    "micro.rng": torch.int64,
}


def encode_columns(records: Sequence[StepRecord], groups: Groups) -> Columns:
    """The columns of consecutive steps of one phase; at least one step."""
    micro = [m for r in records for m in r.stored]
    place = {name: i for i, name in enumerate(n for names in groups for n in names)}
    columns = {
        "loss": _f64([r.loss for r in records]),
        "grad_norm": _f64([r.grad_norm for r in records]),
        "training": torch.tensor([r.training for r in records], dtype=torch.uint8),
        "micro.step": torch.tensor([r.step for r in records for _ in r.stored], dtype=torch.int64),
        "micro.weight": _f64([m.weight for m in micro]),
        "micro.size": torch.tensor([len(m.rows) for m in micro], dtype=torch.int64),
        "rows": torch.cat([m.rows for m in micro]),
        "micro.rng": torch.tensor([_size(m.rng) for m in micro], dtype=torch.int64),
        "rng": torch.cat([torch.zeros(0, dtype=torch.uint8), *(m.rng for m in micro if m.rng is not None)]),
        "clip.norm": _f64([_limit(r.clip, "norm") for r in records]),
        "clip.value": _f64([_limit(r.clip, "value") for r in records]),
        "idle.count": torch.tensor([len(r.idle) for r in records], dtype=torch.int64),
        "idle": torch.tensor([place[n] for r in records for n in r.idle], dtype=torch.int64),
        "autocast": torch.tensor([AUTOCASTS.index(r.precision.autocast) for r in records], dtype=torch.uint8),
        "scale": _f64([r.precision.scale for r in records]),
        "averaging": _f64([math.nan if r.averaging is None else r.averaging for r in records]),
    }
    for group, hyper in enumerate(records[0].hyper):
        columns |= {f"hyper.{group}.{name}": _f64([r.hyper[group][name] for r in records]) for name in hyper}
    return columns


def _size(rng: Tensor | None) -> int:
    return 0 if rng is None else len(rng)


def _limit(clip: Clip | None, kind: str) -> float:
    """NaN where nothing is clipped that way."""
    return clip.limit if clip is not None and clip.kind == kind else math.nan


def _f64(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def decode_columns(data: bytes, start: int, stop: int, groups: Groups, where: str) -> Columns:
    """The columns of the steps [start, stop) of one phase, checked; RunFormatError lists all that is wrong."""
    whole = layout(data, where)
    found = whole.tensors
    later = _later(stop - start)
    hyper = [n for n in found if n.startswith("hyper.")]
    expected: dict[str, Spec] = {n: (dtype, (stop - start,)) for n, dtype in _PER_STEP.items()}
    expected |= {n: (torch.float64, (stop - start,)) for n in hyper}
    micro = (*found.get("micro.step", (None, ()))[1], 0)[0]
    expected |= {n: (dtype, (micro,)) for n, dtype in _PER_MICRO.items()}
    expected |= {"rows": (torch.int64, (None,)), "rng": (torch.uint8, (None,))}
    expected |= {n: (t.dtype, (None,) if n == "idle" else (stop - start,)) for n, t in later.items() if n in found}
    columns = later | decode(data, where, expected, whole)
    if problems := column_problems(columns, start, stop, groups):
        raise RunFormatError(f"{where}: " + listed(problems))
    return columns


def _later(steps: int) -> Columns:
    """What columns say that a run did not need, or that was recorded before there were such columns."""
    return {
        "idle.count": torch.zeros(steps, dtype=torch.int64),
        "idle": torch.zeros(0, dtype=torch.int64),
        "autocast": torch.zeros(steps, dtype=torch.uint8),
        "scale": torch.ones(steps, dtype=torch.float64),
        "averaging": torch.full((steps,), math.nan, dtype=torch.float64),
    }


def column_problems(columns: Columns, start: int, stop: int, groups: Groups) -> list[str]:
    """What makes columns of the right shapes impossible to replay."""
    problems = []
    names = [[n.split(".", 2)[2] for n in columns if n.startswith(f"hyper.{g}.")] for g in range(len(groups))]
    if sum(map(len, names)) != sum(n.startswith("hyper.") for n in columns) or not all(
        sorted(n) == sorted(names[0]) for n in names
    ):
        problems.append(f"the hyperparameters are not the same ones for each of {len(groups)} parameter groups")
    for name in (n for n in columns if n.startswith("hyper.") or n == "micro.weight"):
        if not bool(torch.isfinite(columns[name]).all()):
            problems.append(f"{name} is not finite everywhere, expected finite numbers")
        elif name.endswith(".lr") and bool((columns[name] < 0).any()):
            problems.append(
                f"{name} is negative at step {start + int((columns[name] < 0).nonzero()[0])}, expected 0 or more"
            )
    steps = columns["micro.step"]
    if not torch.equal(torch.unique_consecutive(steps), torch.arange(start, stop)):
        problems.append(f"micro.step does not go through the steps {start} to {stop - 1}, each once")
    else:
        updates = columns["idle.count"] < sum(map(len, groups))
        having = torch.zeros(stop - start, dtype=torch.bool)
        having[steps[columns["micro.weight"] != 0] - start] = True
        if not torch.equal(having, updates):
            problems.append(
                "micro.weight is 0 for all micro-batches of a step that updates a parameter, expected one that has a "
                "say in it; or not for a step that updates none"
            )
    if bool((columns["micro.size"] < 1).any()) or int(columns["micro.size"].sum()) != len(columns["rows"]):
        problems.append(
            "micro.size does not divide rows into non-empty micro-batches, expected sizes that add up to their number"
        )
    if bool((columns["micro.rng"] < 0).any()) or int(columns["micro.rng"].sum()) != len(columns["rng"]):
        problems.append("micro.rng does not divide rng")
    limits = torch.stack([columns["clip.norm"], columns["clip.value"]])
    if bool((limits <= 0).any()) or bool(limits.isinf().any()) or bool((~limits.isnan()).all(0).any()):
        problems.append("clip.norm and clip.value must be positive and not both in force at a step")
    if bool((columns["rows"] < 0).any()) or bool((columns["training"] > 1).any()):
        problems.append("rows must not be negative, training must be 0 or 1")
    idle = columns["idle"]
    if bool((columns["idle.count"] < 0).any()) or int(columns["idle.count"].sum()) != len(idle):
        problems.append("idle.count does not divide idle")
    if len(idle) and not 0 <= int(idle.min()) <= int(idle.max()) < sum(map(len, groups)):
        problems.append(f"idle names parameters {int(idle.min())} to {int(idle.max())} of {sum(map(len, groups))}")
    if bool((columns["autocast"] >= len(AUTOCASTS)).any()):
        problems.append(f"autocast must be below {len(AUTOCASTS)}")
    if not bool((columns["scale"] > 0).all()) or bool(columns["scale"].isinf().any()):
        problems.append("scale must be positive and finite")
    if bool(((columns["averaging"] < 0) | (columns["averaging"] > 1)).any()):
        problems.append("averaging must lie between 0 and 1")
    return problems


def concat_columns(parts: Sequence[Columns], where: str) -> Columns:
    """Consecutive ranges of steps as one; RunFormatError if they name different hyperparameters."""
    for part in parts[1:]:
        if set(part) != set(parts[0]):
            raise RunFormatError(f"{where}: hyperparameters change within the run: {sorted(set(part) ^ set(parts[0]))}")
    return {n: torch.cat([p[n] for p in parts]) for n in parts[0]} if parts else {}


@dataclass(frozen=True, eq=False)
class StepTable:
    """Random access to the steps of one phase, numbered from its first."""

    columns: Columns
    groups: Groups

    def __len__(self) -> int:
        return len(self.columns["loss"]) if self.columns else 0

    @cached_property
    def hyper_names(self) -> tuple[str, ...]:
        """The learning rate first, the others by name."""
        return hyper_names(self.columns)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The trained parameters, in the order of their groups."""
        return tuple(n for names in self.groups for n in names)

    @cached_property
    def _micro_of_step(self) -> list[int]:
        """Where the micro-batches of each step begin, and the end."""
        steps = self.columns["micro.step"]
        return torch.searchsorted(steps, torch.arange(len(self) + 1) + steps[0]).tolist()

    @cached_property
    def _row_of_micro(self) -> list[int]:
        """Where the rows of each micro-batch begin, and the end."""
        return [0, *self.columns["micro.size"].cumsum(0).tolist()]

    @cached_property
    def _rng_of_micro(self) -> list[int]:
        """Where the generator's state of each micro-batch begins, and the end."""
        return [0, *self.columns["micro.rng"].cumsum(0).tolist()]

    @cached_property
    def _idle_of_step(self) -> list[int]:
        """Where the idle parameters of each step begin, and the end."""
        return [0, *self.columns["idle.count"].cumsum(0).tolist()]

    def record(self, index: int, step: int, stage: str) -> StepRecord:
        """The record at `index`, which is step `step` of the run."""
        get = {n: float(self.columns[n][index]) for n in ("loss", "grad_norm", "training")}
        hyper = tuple(
            {n: float(self.columns[f"hyper.{g}.{n}"][index]) for n in self.hyper_names} for g in range(len(self.groups))
        )
        micro = range(self._micro_of_step[index], self._micro_of_step[index + 1])
        stored = tuple(self._micro_batch(m) for m in micro)
        batches, passed = tuple(m for m in stored if m.weight), tuple(m for m in stored if not m.weight)
        loss, training, norm = get["loss"], bool(get["training"]), get["grad_norm"]
        weight = float(self.columns["averaging"][index])
        averaging = None if math.isnan(weight) else weight
        precision = Precision(AUTOCASTS[int(self.columns["autocast"][index])], float(self.columns["scale"][index]))
        clip, idle = self._clip(index), self.idle(index)
        return StepRecord(step, stage, hyper, batches, training, loss, norm, clip, idle, precision, averaging, passed)

    def idle(self, index: int) -> tuple[str, ...]:
        """The parameters that the optimizer passed over."""
        first, last = self._idle_of_step[index], self._idle_of_step[index + 1]
        return tuple(self.names[i] for i in self.columns["idle"][first:last].tolist()) if last > first else ()

    def _clip(self, index: int) -> Clip | None:
        for kind in CLIPS:
            if not math.isnan(limit := float(self.columns[f"clip.{kind}"][index])):
                return Clip(kind, limit)
        return None

    def _micro_batch(self, micro: int) -> MicroBatch:
        begin, end = self._row_of_micro[micro], self._row_of_micro[micro + 1]
        first, last = self._rng_of_micro[micro], self._rng_of_micro[micro + 1]
        rng = self.columns["rng"][first:last] if last > first else None
        return MicroBatch(self.columns["rows"][begin:end], float(self.columns["micro.weight"][micro]), rng)
