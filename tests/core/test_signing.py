"""Signatures: the right key says yes, anything else says what is wrong, and nothing asks the network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import stat
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aa_core.cli import app
from aa_core.errors import AuditError, IntegrityError, MissingExtraError, RequestError, RunFormatError
from aa_core.reporting.files import write_report
from aa_core.reporting.report import build_report
from aa_core.runs.integrity import check_integrity
from aa_core.runs.trajectory import open_run
from aa_core.signing import Keys, make_keys, sign, signature_path, verify
from tests.core import job_run, report_case


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys") / "mine")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys") / "other")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job_run.make(tmp_path_factory.mktemp("signed"))[0].path


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run"))


@pytest.fixture
def report(tmp_path: Path) -> Path:
    run, problem = report_case.make(("one", "two"))
    [file] = write_report(build_report(run, problem, with_steps=False), tmp_path / "report.json")
    return file


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any look at the network fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_signed_run_verifies_and_is_the_same_run(run: Path, keys: Keys) -> None:
    before = open_run(run).digest
    assert sign(run, keys.private) == run / "run.sig"
    assert len(verify(run, keys.public)) == 64
    again = open_run(run)
    assert again.digest == before and check_integrity(again) == ()


def test_a_relative_path_does_as_well_and_no_place_is_told(
    run: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for signature in (None, "beside.sig", "run/inside.sig"):
        file = sign("run", keys.private, signature)
        verify(run, keys.public, signature)
        verify("run", keys.public, signature)
        payload = base64.b64decode(json.loads(file.read_text())["dsseEnvelope"]["payload"]).decode()
        assert str(tmp_path) not in payload and tmp_path.name not in payload
        file.unlink()


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda run: (run / "run.json").write_text("{}"), r"changed: run\.json"),
        (lambda run: (run / "extra.txt").write_text(""), r"added: extra\.txt"),
        (lambda run: (run / "states" / "0.safetensors").unlink(), r"missing: states/0\.safetensors"),
    ],
)
def test_what_was_done_to_a_signed_run_is_named(run: Path, keys: Keys, edit, named: str) -> None:
    sign(run, keys.private)
    edit(run)
    with pytest.raises(IntegrityError, match=f"not as it was signed: {named}"):
        verify(run, keys.public)


def test_another_key_is_not_believed(run: Path, keys: Keys, other: Keys) -> None:
    sign(run, keys.private)
    with pytest.raises(IntegrityError, match=r"signed with another key than .*other\.pub"):
        verify(run, other.public)


def test_a_signature_that_was_edited_is_not_believed(run: Path, keys: Keys) -> None:
    file = sign(run, keys.private)
    bundle = json.loads(file.read_text())
    [signature] = bundle["dsseEnvelope"]["signatures"]
    signature["sig"] = signature["sig"][:-8] + "AAAAAAA="
    file.write_text(json.dumps(bundle))
    with pytest.raises(IntegrityError, match="not a valid signature by the owner"):
        verify(run, keys.public)
    file.write_text("{")
    with pytest.raises(RunFormatError, match="not a signature file"):
        verify(run, keys.public)


def test_a_report_is_signed_beside_itself(report: Path, keys: Keys, other: Keys) -> None:
    assert sign(report, keys.private) == signature_path(report) == report.with_name("report.json.sig")
    verify(report, keys.public)
    report.write_bytes(report.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=r"not as it was signed: changed: report\.json"):
        verify(report, keys.public)
    with pytest.raises(IntegrityError, match="another key"):
        verify(report, other.public)


def test_keys_are_private_new_and_never_overwritten(tmp_path: Path) -> None:
    made = make_keys(tmp_path / "a")
    assert stat.S_IMODE(os.stat(made.private).st_mode) == 0o600
    before = made.private.read_bytes(), made.public.read_bytes()
    with pytest.raises(RequestError, match="never overwritten"):
        make_keys(tmp_path / "a")
    assert (made.private.read_bytes(), made.public.read_bytes()) == before
    assert make_keys(tmp_path / "b").public.read_bytes() != before[1]


def test_what_is_missing_or_of_the_wrong_kind_is_said(run: Path, keys: Keys, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_text("no key")
    cases = [
        (lambda: sign(run, tmp_path / "none.key"), "no such private key; make a pair of keys with: aa key NAME"),
        (lambda: sign(tmp_path / "none", keys.private), "no such run or report"),
        (lambda: sign(run, keys.public), "not a private key to sign with"),
        (lambda: sign(run, garbage), "not a private key to sign with"),
        (lambda: sign(run, keys.private, tmp_path / "no folder" / "x.sig"), "choose another place with --signature"),
        (lambda: verify(run, keys.public), "no such signature"),
    ]
    for ask, said in cases:
        with pytest.raises(RequestError, match=said):
            ask()
    sign(run, keys.private)
    for key, said in (
        (tmp_path / "none.pub", "no such public key"),
        (garbage, "not a public key"),
        (keys.private, "not a public key"),
    ):
        with pytest.raises(RequestError, match=said):
            verify(run, key)


def test_without_the_extra_its_name_is_said(run: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    asks = (
        lambda: sign(run, keys.private),
        lambda: make_keys(run / "k"),
        lambda: verify(run, keys.public, keys.public),
    )
    for ask in asks:
        with pytest.raises(MissingExtraError, match=r"accountability-audit\[sign\]"):
            ask()


def aa(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="aa")
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_the_command_line_from_keys_to_a_verified_report(run: Path, report: Path, other: Keys, tmp_path: Path) -> None:
    aa("key", tmp_path / "lab")
    private, public = tmp_path / "lab.key", tmp_path / "lab.pub"
    assert "run.sig" in aa("sign", run, "--key", private).stderr
    assert "as it was signed by the owner of the key" in aa("verify", run, "--key", public).stdout
    assert "another key" in aa("verify", run, "--key", other.public, code=1).stderr
    aa("report", "sign", report, "--key", private)
    assert "as it was written, and signed by" in aa("report", "verify", report, "--key", public).stdout
    assert "another key" in aa("report", "verify", report, "--key", other.public, code=1).stderr
    assert "--key" in aa("report", "verify", report, "--signature", report, code=2).stderr
    report.write_text(report.read_text().replace("aa-report/2", "aa-report/2 "))
    assert "error" in aa("report", "sign", report, "--key", private, code=1).stderr, "what is not intact is not signed"


def test_every_refusal_is_one_of_ours(run: Path, keys: Keys, tmp_path: Path) -> None:
    sign(run, keys.private)
    data = (run / "run.sig").read_bytes()
    for at in range(0, len(data), max(1, len(data) // 40)):
        (run / "run.sig").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            verify(run, keys.public)
        except AuditError:
            continue
        else:
            (run / "run.sig").write_bytes(data)
            assert json.loads(data)["verificationMaterial"], "only fields that say nothing may differ"
