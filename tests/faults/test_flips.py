"""One flipped bit in what we wrote: it is read as it was written, is refused, or is computed again."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import AuditError
from aa_core.files import write_sealed
from aa_core.jobs.job import Job
from aa_core.jobs.spec import RESULT, SPEC, TABLE, JobSpec
from aa_core.reporting import pdf, to_html, to_pdf, verify, verify_file, write_report
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


@pytest.mark.parametrize("name", ["report.json", "report.html", "report.csv", "report.zip", "report.pdf"])
def test_every_flipped_bit_of_a_report_is_detected(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.endswith("pdf") and find_spec("typst") is None:
        pytest.skip("needs the extra `pdf`")
    file = tmp_path / name
    made = cache(lambda draw: draw(built()))  # of data that are intact: once
    monkeypatch.setattr(verify, "to_html", lambda _: made(to_html))
    monkeypatch.setattr(pdf, "to_pdf", lambda _: made(to_pdf))
    write_report(built(), file)
    verify_file(file)
    for bit in flips(file):
        assert refuses(lambda: verify_file(file)), f"bit {bit}"


def test_every_flipped_bit_of_a_result_is_detected(tmp_path: Path) -> None:
    """Of a job, and of whatever else the workspace keeps sealed; a damaged result can be asked for again."""
    spec = JobSpec(kind="check", run="/run", digest="0", problem=None, problem_digest=None, request={})
    job = Job(tmp_path, spec)
    for name, content in ((RESULT, b'{"words": "sound"}'), (f"drifts{TABLE}", b'{"step": [1, 2]}')):
        write_sealed(tmp_path / name, content)
    assert job.status == "done"
    for name, read in ((RESULT, job.result), (f"drifts{TABLE}", lambda: job.table("drifts"))):
        for bit in flips(tmp_path / name):
            assert refuses(read), f"bit {bit}"
    (tmp_path / RESULT).write_bytes(b'{"words": "not sound"}')
    assert job.status == "failed" and "is not as it was written" in (job.error or "")
    lock = job.reopen()
    assert lock is not None and [p.name for p in tmp_path.glob("*.json")] == [SPEC]
    os.close(lock)


def test_every_flipped_bit_of_an_embedding_is_detected(tmp_path: Path) -> None:
    params: Params = {"w": torch.randn(7, 5), "b": torch.randn(5)}
    EmbeddingCache(tmp_path).put("k", params, 1.5)
    for bit in flips(tmp_path / "k.embedding"):
        assert EmbeddingCache(tmp_path).get("k", torch.device("cpu")) is None, f"bit {bit}"
