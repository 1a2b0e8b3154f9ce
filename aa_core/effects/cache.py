"""Embeddings by digest: on the device within a byte budget, and on disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from aa_core.files import unsealed, write_sealed
from aa_core.state import Params
from aa_core.workspace import workspace

Entry = tuple[Params, float]
Place = tuple[str, str, int]
GROWTH = "growth"


class EmbeddingCache:
    """Least recently used first out of device memory; the copies on disk stay."""

    def __init__(self, folder: Path | None, budget: int = 1 << 30) -> None:
        self.folder, self.budget = folder, budget
        self._entries: OrderedDict[Place, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, device: torch.device) -> Entry | None:
        with self._lock:
            place = _place(key, device)
            if place in self._entries:
                self._entries.move_to_end(place)
                return self._entries[place]
            entry = self._read(key, device)
            if entry is not None:
                self._keep(place, entry)
            return entry

    def put(self, key: str, params: Params, growth: float) -> None:
        with self._lock:
            self._keep(_place(key, next(iter(params.values())).device), (params, growth))
            self._write(key, params, growth)

    @property
    def nbytes(self) -> int:
        return sum(_nbytes(params) for params, _ in self._entries.values())

    def _keep(self, place: Place, entry: Entry) -> None:
        self._entries[place] = entry
        self._entries.move_to_end(place)
        while self.nbytes > self.budget and len(self._entries) > 1:
            self._entries.popitem(last=False)

    def _read(self, key: str, device: torch.device) -> Entry | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        data = unsealed(path.read_bytes())
        if data is None:
            return None  # a damaged entry is computed again
        tensors = decode(data)
        growth = float(tensors.pop(GROWTH))
        return {n.removeprefix("params/"): t.to(device) for n, t in tensors.items()}, growth

    def _write(self, key: str, params: Params, growth: float) -> None:
        path = self._path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {f"params/{n}": t.detach().cpu().contiguous() for n, t in params.items()}
        write_sealed(path, encode({**tensors, GROWTH: torch.tensor(growth, dtype=torch.float64)}))

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}.embedding"


def default_cache() -> EmbeddingCache:
    """The process-wide cache, in the workspace that is in force."""
    return _shared(workspace() / "embeddings")


@lru_cache(maxsize=1)
def _shared(folder: Path) -> EmbeddingCache:
    return EmbeddingCache(folder)


def _place(key: str, device: torch.device) -> Place:
    """ "cuda" and "cuda:0" are one device."""
    return key, device.type, device.index or 0


def _nbytes(params: Params) -> int:
    return sum(t.numel() * t.element_size() for t in params.values())
