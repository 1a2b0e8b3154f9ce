"""One flipped bit in what we wrote: it is read as it was written, is refused, or is computed again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import AuditError
from aa_core.reporting import verify_file, write_report
from aa_core.state import Params
from tests.core.test_report_seal import built

FLIPS = 200


def flips(file: Path) -> Iterator[int]:
    """Which bit of the file is flipped; whole again afterwards."""
    rng, intact = random.Random(file.name), file.read_bytes()
    for _ in range(FLIPS):
        bit = rng.randrange(len(intact) * 8)
        file.write_bytes(intact[: bit // 8] + bytes([intact[bit // 8] ^ 1 << bit % 8]) + intact[bit // 8 + 1 :])
        yield bit
    file.write_bytes(intact)


def refuses(read: Callable[[], Any]) -> bool:
    try:
        read()
    except AuditError:
        return True
    return False


def test_every_flipped_bit_of_a_report_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_report(built(), file)
    verify_file(file)
    for bit in flips(file):
        assert refuses(lambda: verify_file(file)), f"bit {bit}"


def test_every_flipped_bit_of_an_embedding_is_detected(tmp_path: Path) -> None:
    params: Params = {"w": torch.randn(7, 5), "b": torch.randn(5)}
    EmbeddingCache(tmp_path).put("k", params, 1.5)
    for bit in flips(tmp_path / "k.embedding"):
        assert EmbeddingCache(tmp_path).get("k", torch.device("cpu")) is None, f"bit {bit}"
