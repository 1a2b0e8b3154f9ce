"""Runs in object storage: S3 spoken on loopback, a network that drops requests, addresses that are taken."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

import aa_core as aa
from aa_core.cli import app
from aa_core.errors import IntegrityError, MissingExtraError, RunBusyError, RunError, RunFormatError, RunNotFoundError
from aa_core.recording.contents import files_of
from aa_core.runs import remote
from aa_core.runs.remote import Upload, fetch_missing, is_remote, mirror
from aa_core.state import max_difference
from tests.recorded import LOSS, make, record, train


class Flaky(MemoryFileSystem):
    """Drops every request that `drops` says to."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    drops: Iterator[bool] = itertools.repeat(False)
    requests: list[str] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("flaky:"))

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        self._request(path)
        return super().cat_file(path, *args, **kwargs)

    def pipe_file(self, path: str, *args: Any, **kwargs: Any) -> None:
        self._request(path)
        super().pipe_file(path, *args, **kwargs)

    def _request(self, path: str) -> None:
        if next(self.drops):
            raise ConnectionError("connection reset by peer")
        self.requests.append(path)


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture(autouse=True)
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Flaky]:
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    for name, value in {"store": {}, "pseudo_dirs": [""], "drops": itertools.repeat(False), "requests": []}.items():
        monkeypatch.setattr(Flaky, name, value)
    return Flaky


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on a server that speaks S3 on loopback."""
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("runs")
        yield "s3://runs"
        fsspec.filesystem("s3").clear_instance_cache()
    running.stop()


def push(run: aa.Trajectory, address: str) -> Upload:
    upload = Upload(run.path, address)
    upload.push(files_of)
    return upload


def same(a: aa.Trajectory, b: aa.Trajectory) -> bool:
    return a.digest == b.digest and all(
        max_difference(a.load(k).state.params, b.load(k).state.params) == 0 for k in a.checkpoints
    )


@pytest.mark.parametrize("path", ["s3://bucket/run", Path("s3://bucket/run"), "gs://b/a/b"])
def test_an_address_is_told_from_a_path(path: str | Path) -> None:
    assert is_remote(path) and not is_remote(Path("runs") / "digits") and not is_remote("/tmp/a:/b")


def test_a_run_is_pushed_to_s3_and_opened_there(s3: str, tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    push(run, f"{s3}/pushed")
    found = aa.open_run(f"{s3}/pushed")
    assert same(run, found) and found.evaluation is not None and aa.check_integrity(found) == ()


def test_calibrations_are_pushed_and_fetched_with_a_run_under_their_digests(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    claim = b'{"run": "%s"}' % run.digest.encode()
    upload = push(run, "flaky://runs/calibrated")
    assert upload.attach([claim, claim], run.digest) == 1 and upload.attach([claim], run.digest) == 1
    with pytest.raises(RunFormatError, match="about this run"):
        upload.attach([b'{"run": "another"}'], run.digest)
    store = fsspec.filesystem("flaky")
    store.pipe_file(f"/runs/calibrated/calibrations/{'0' * 64}.json", b"forged")
    store.pipe_file("/runs/calibrated/calibrations/best.json", claim)
    found = aa.open_run("flaky://runs/calibrated")
    assert [p.read_bytes() for p in (found.path / "calibrations").iterdir()] == [claim]


def test_a_run_is_recorded_straight_to_s3(s3: str, tmp_path: Path) -> None:
    here = record(tmp_path / "run")
    found = record(f"{s3}/straight")  # type: ignore[arg-type]
    assert found.sealed and max_difference(here.load(12).state.params, found.load(12).state.params) == 0


def test_what_s3_holds_is_never_overwritten(s3: str, tmp_path: Path) -> None:
    first, second = record(tmp_path / "first"), record(tmp_path / "second")
    push(first, f"{s3}/taken")
    with pytest.raises(RunBusyError, match=r"run\.json exists with another content"):
        push(second, f"{s3}/taken")
    push(first, f"{s3}/taken")  # the same once more is no harm
    assert same(first, aa.open_run(f"{s3}/taken"))


def test_two_recorders_of_one_address_do_not_mix(tmp_path: Path) -> None:
    """Each writes in its own time; one of them gets the address whole, the other an error."""
    runs, errors = [record(tmp_path / str(i), first=i + 4) for i in range(4)], []

    def go(run: aa.Trajectory) -> None:
        try:
            push(run, "flaky://race/run")
        except RunBusyError as error:
            errors.append(error)

    threads = [threading.Thread(target=go, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 3 and sum(same(run, aa.open_run("flaky://race/run")) for run in runs) == 1


def test_only_what_a_question_needs_is_fetched(tmp_path: Path, flaky: type[Flaky]) -> None:
    push(record(tmp_path / "run"), "flaky://few/run")
    flaky.requests.clear()
    run = aa.open_run("flaky://few/run")
    assert not any("/states/" in name or "/data/" in name for name in flaky.requests)
    run.load(6)
    assert [name for name in flaky.requests if "/states/" in name] == ["/few/run/states/6.safetensors"]
    flaky.requests.clear()
    again = aa.open_run("flaky://few/run")
    again.load(6)
    assert flaky.requests == ["/few/run/run.json"]


def test_a_network_that_drops_every_other_request_is_asked_again(tmp_path: Path, flaky: type[Flaky]) -> None:
    run = record(tmp_path / "run")
    flaky.drops = itertools.cycle([True, False])
    push(run, "flaky://drops/run")
    assert same(run, aa.open_run("flaky://drops/run"))


def test_a_store_that_never_answers_is_named(tmp_path: Path, flaky: type[Flaky]) -> None:
    flaky.drops = itertools.repeat(True)
    with pytest.raises(RunError, match=r"flaky://gone/run/run\.json: the store did not answer 5 times"):
        aa.open_run("flaky://gone/run")


def test_recording_goes_on_without_the_network(tmp_path: Path, flaky: type[Flaky]) -> None:
    model, optimizer = make()
    recorder = aa.Recorder("flaky://later/run", model, optimizer, LOSS, checkpoint_every=3)
    with recorder:
        flaky.drops = itertools.repeat(True)
        with pytest.warns(RuntimeWarning, match="recording goes on at"), recorder.stage("a"):
            train(recorder, model, optimizer, 7)
        flaky.drops = itertools.repeat(False)
    run = aa.open_run("flaky://later/run")
    assert run.sealed and run.steps == 7


def test_a_seal_that_cannot_be_uploaded_says_how_to_do_it_later(tmp_path: Path, flaky: type[Flaky]) -> None:
    model, optimizer = make()
    with (
        pytest.raises(RunError, match="Nothing is lost: aa push"),
        aa.Recorder("flaky://seal/run", model, optimizer, LOSS) as recorder,
    ):
        with recorder.stage("a"):
            train(recorder, model, optimizer, 2)
        flaky.drops = itertools.repeat(True)
    flaky.drops = itertools.repeat(False)
    spool = remote.outgoing("flaky://seal/run")
    result = CliRunner().invoke(app, ["push", str(spool), "flaky://seal/run"])
    assert result.exit_code == 0 and aa.open_run("flaky://seal/run").sealed


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_refused(tmp_path: Path, flaky: type[Flaky]) -> None:
    run = record(tmp_path / "run")
    push(run, "flaky://bits/run")
    found = aa.open_run("flaky://bits/run")
    found.load(3)
    copy = found.path / "states/3.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1])
    assert max_difference(found.load(3).state.params, run.load(3).state.params) == 0
    data = bytearray(flaky.store["/bits/run/states/6.safetensors"].getvalue())
    data[-1] ^= 1
    fsspec.filesystem("flaky").pipe_file("/bits/run/states/6.safetensors", bytes(data))
    with pytest.raises(IntegrityError, match=r"states/6\.safetensors"):
        found.load(6)


def test_mirrors_stay_within_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record(tmp_path / "run")
    push(run, "flaky://room/run")
    size = (run.path / "states/3.safetensors").stat().st_size
    monkeypatch.setenv(remote.BUDGET, str(int(1.5 * size)))
    found = aa.open_run("flaky://room/run")
    for step in found.checkpoints:
        found.load(step)
    kept = [p for p in found.path.glob("*/*") if p.parent.name != "log"]
    assert sum(p.stat().st_size for p in kept) <= 1.5 * size
    assert same(run, found)  # what was dropped is fetched again


def test_another_run_at_the_address_takes_the_place_of_the_mirror(tmp_path: Path, flaky: type[Flaky]) -> None:
    push(record(tmp_path / "first"), "flaky://moved/run")
    aa.open_run("flaky://moved/run").load(3)
    fsspec.filesystem("flaky").rm("/moved", recursive=True)
    second = record(tmp_path / "second", first=4)
    push(second, "flaky://moved/run")
    assert same(second, aa.open_run("flaky://moved/run"))


def test_no_run_there_and_no_such_store() -> None:
    with pytest.raises(RunNotFoundError, match="no run at flaky://none/run"):
        aa.open_run("flaky://none/run")
    with pytest.raises(RunNotFoundError, match="Protocol not known"):
        mirror("nosuch://none/run")
    with pytest.raises(MissingExtraError, match=r"\[adl\]"):
        mirror("adl://none/run")


def test_a_folder_outside_the_workspace_never_reaches_the_network(tmp_path: Path, flaky: type[Flaky]) -> None:
    """A run from a stranger cannot bring an address to fetch from."""
    run = record(tmp_path / "run")
    (tmp_path / "run.origin").write_text("flaky://elsewhere/run")
    (run.path / "states/3.safetensors").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        aa.open_run(run.path).load(3)
    assert flaky.requests == []


def test_a_local_run_with_a_missing_file_needs_no_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record(tmp_path / "run")
    (run.path / "states/3.safetensors").unlink()
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "nowhere"))
    with pytest.raises(IntegrityError, match="missing"):
        aa.open_run(run.path).load(3)
    assert not (tmp_path / "nowhere").exists()


def test_the_folder_that_one_is_in_is_no_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not fetch_missing(Path("."), "calibration.json")
