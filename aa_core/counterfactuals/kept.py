"""The last state of a long computation, kept beside it: should its process die, the next one goes on from there."""

from __future__ import annotations

import json
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from aa_core.files import unsealed, write_sealed
from aa_core.runs.store import encode
from aa_core.state import Params, Snapshot, State

PAUSE, SHARE = 2.0, 20.0
"""Seconds between two writes at the least, and how many times longer than a write the pause is."""


class KeptState:
    """One snapshot in a file of this computation's own; a torn or damaged one is as good as none."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._due = path, time.monotonic() + PAUSE

    def read(self) -> Snapshot | None:
        """The snapshot that was kept last, bit for bit; None if there is none."""
        if self._path is None or not self._path.is_file():
            return None
        data = unsealed(self._path.read_bytes())
        return None if data is None else _decode(data)

    def offer(self, at: Snapshot) -> None:
        """Keep this one, if it is time to."""
        began = time.monotonic()
        if self._path is None or began < self._due:
            return
        write_sealed(self._path, _encode(at))
        ended = time.monotonic()
        self._due = ended + max(PAUSE, SHARE * (ended - began))

    def forget(self) -> None:
        """The computation is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


NOT_KEPT = KeptState(None)
"""For computations that begin anew."""


def _encode(at: Snapshot) -> bytes:
    """Tensors by number, their places as JSON in the order that they have: sums over them depend on it."""
    leaves: dict[tuple[str, ...], Tensor] = {("params", n): t for n, t in at.state.params.items()}
    leaves |= {("buffers", n): t for n, t in at.buffers.items()}
    leaves |= {("slots", slot, n): t for slot, tensors in at.state.slots.items() for n, t in tensors.items()}
    places = json.dumps({"step": at.step, "slots": list(at.state.slots), "leaves": list(leaves)}).encode()
    numbered = {str(i): t for i, t in enumerate(leaves.values())}
    return encode(
        numbered | {"count": at.state.count, "places": torch.frombuffer(bytearray(places), dtype=torch.uint8)}
    )


def _decode(data: bytes) -> Snapshot:
    tensors = safetensors.torch.load(data)
    places = json.loads(tensors["places"].numpy().tobytes())
    found = {tuple(place): tensors[str(i)] for i, place in enumerate(places["leaves"])}

    def part(*prefix: str) -> Params:
        return {place[-1]: t for place, t in found.items() if place[:-1] == prefix}

    slots = {slot: part("slots", slot) for slot in places["slots"]}
    return Snapshot(places["step"], State(part("params"), slots, tensors["count"]), part("buffers"))
