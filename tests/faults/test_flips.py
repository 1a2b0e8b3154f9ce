"""One flipped bit in what we wrote: it is read as it was written, is refused, or is computed again."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aa_core.checkpoints_only.checkpoints import check_checkpoints, open_checkpoints
from aa_core.confidence.calibration import find_calibration, store_calibration
from aa_core.counterfactuals import kept
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import AuditError
from aa_core.files import write_sealed
from aa_core.jobs.job import Job, all_jobs, find
from aa_core.jobs.spec import RESULT, SPEC, TABLE, JobSpec
from aa_core.jobs.worker import work
from aa_core.reporting import pdf, verify
from aa_core.reporting.files import write_report
from aa_core.reporting.html import to_html
from aa_core.reporting.pdf import to_pdf
from aa_core.reporting.verify import verify_file
from aa_core.runs.attached import name_of
from aa_core.signing import make_keys, sign
from aa_core.signing import verify as verify_signature
from aa_core.state import Params, Snapshot, State
from tests.core.checkpoint_case import build
from tests.core.test_calibrate import affine, calibrated
from tests.core.test_report_seal import built

FLIPS = 200


def flips(file: Path) -> Iterator[int]:
    """Which bit of the file is flipped; whole again afterwards."""
    rng, intact = random.Random(file.name), file.read_bytes()
    for _ in range(FLIPS):
        bit = rng.randrange(len(intact) * 8)
        at, byte = bit // 8, intact[bit // 8]
        for value in (byte ^ 1 << bit % 8, byte):
            with file.open("r+b", buffering=0) as opened:
                opened.seek(at)
                opened.write(bytes([value]))
            if value != byte:
                yield bit
    assert file.read_bytes() == intact


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


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("kept") / "run").path


@pytest.mark.parametrize("name", ["run.json", "states/24.safetensors", "data/evaluation.json", "data/0.safetensors"])
def test_every_flipped_bit_of_a_run_of_checkpoints_is_detected(checkpoints: Path, tmp_path: Path, name: str) -> None:
    """By whoever knows its digest."""
    path = shutil.copytree(checkpoints, tmp_path / "run")
    digest = open_checkpoints(path).digest

    def found() -> tuple[str, ...]:
        run = open_checkpoints(path)
        return check_checkpoints(run) if run.digest == digest else ("another digest",)

    assert found() == ()
    for bit in flips(path / name):
        assert refuses(found) or found(), f"bit {bit}"


def test_every_flipped_bit_of_a_calibration_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that was measured here, and of one that came with the run: it counts as none."""
    found = calibrated(False)  # which is stored, elsewhere
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    brought = tmp_path / "run" / name_of(found.to_bytes())
    brought.parent.mkdir(parents=True)
    brought.write_bytes(found.to_bytes())
    run: Any = SimpleNamespace(digest=found.run, path=tmp_path / "run")
    for place, of in ((lambda: brought, run), (lambda: store_calibration(found), affine().run)):
        file = place()
        assert find_calibration(of, None) is not None
        for bit in flips(file):
            assert find_calibration(of, None) is None, f"bit {bit} of {file.name}"
        file.unlink()


def test_every_flipped_bit_of_a_kept_state_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The computation begins anew."""
    monkeypatch.setattr(kept, "PAUSE", 0.0)
    params: Params = {"w": torch.randn(4, 3)}
    state = kept.KeptState(tmp_path / "state.kept")
    state.offer(Snapshot(3, State(params, {"momentum": params}, torch.ones(1)), {}))
    assert (again := state.read()) is not None and torch.equal(again.state.params["w"], params["w"])
    for bit in flips(tmp_path / "state.kept"):
        assert state.read() is None, f"bit {bit}"


@pytest.mark.skipif(find_spec("model_signing") is None, reason="needs the extra `sign`")
def test_every_flipped_bit_of_a_signature_is_detected(checkpoints: Path, tmp_path: Path) -> None:
    """Those of its last letters, too, which say nothing: the signature would still be valid."""
    path, keys = shutil.copytree(checkpoints, tmp_path / "run"), make_keys(tmp_path / "mine")
    file = sign(path, keys.private)
    for bit in flips(file):
        assert refuses(lambda: verify_signature(path, keys.public)), f"bit {bit}"
    text = file.read_text()
    for padded in re.finditer('.(?==+")', text):  # the last bits of such a letter belong to no byte
        at = padded.start()
        file.write_text(text[:at] + chr(ord(text[at]) + 1) + text[at + 1 :])
        assert refuses(lambda: verify_signature(path, keys.public))


def test_every_flipped_bit_of_what_a_job_is_asked_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a job is not listed, and nothing is answered in its name; asked again, it is asked what it was."""
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path))
    request: dict[str, Any] = {"skip": ["first"], "examples": [1, 2], "factor": 0.5}
    job = Job.of(JobSpec(kind="whatif", run="/run", digest="0", problem=None, problem_digest=None, request=request))
    file = job.folder / SPEC
    file.parent.mkdir(parents=True)
    job.write_spec()
    assert find(job.id).spec == job.spec
    for bit in flips(file):
        assert refuses(lambda: find(job.id)) and all_jobs() == (), f"bit {bit}"
    file.write_bytes(file.read_bytes().replace(b"0.5", b"0.7"))
    work(job.folder)
    assert job.status == "failed" and "asks another question" in (job.error or "")
    lock = job.reopen()
    assert lock is not None and find(job.id).spec == job.spec
    os.close(lock)
