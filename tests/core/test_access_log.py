"""The log of who did what: durable, one chain under many writers, and what was changed afterwards shows."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aa_core import access_log
from aa_core.access import Person
from aa_core.access_log import START, append, log_path, read_log, require_head
from aa_core.cli import app
from aa_core.errors import IntegrityError, RequestError, RunError

ADA = Person("ada@example.org", "analyst")
LINES = 6


@pytest.fixture(autouse=True)
def own_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path))


@pytest.fixture
def lines() -> list[bytes]:
    for k in range(LINES):
        append(ADA, "started job", "a" * 64, f"{k:016x}")
    return log_path().read_bytes().splitlines(keepends=True)


def rewrite(lines: list[bytes]) -> None:
    log_path().write_bytes(b"".join(lines))


def aa(*command: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["log", *command])
    return result.exit_code, result.output


def test_what_was_done_is_read_in_its_order(lines: list[bytes]) -> None:
    known = read_log()
    assert [e.what for e in known.entries] == [f"{k:016x}" for k in range(LINES)]
    assert {(e.who, e.role, e.act) for e in known.entries} == {("ada@example.org", "analyst", "started job")}
    assert known.entries[0].previous == START and known.torn == ()


def test_an_empty_log_is_whole() -> None:
    assert read_log() == ((), (), ()) and aa("verify")[0] == 0
    assert "nothing was done yet" in aa("list")[1]


def test_every_changed_bit_is_found(lines: list[bytes]) -> None:
    """By an error; in the last line it may also count as a torn one, which is told."""
    whole = b"".join(lines)
    rng = random.Random(0)
    for _ in range(200):
        at = rng.randrange(len(whole))
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.randrange(8)
        log_path().write_bytes(bytes(changed))
        try:
            assert read_log().torn == (LINES,)
        except RunError as error:
            assert "line" in str(error)


def test_every_removed_repeated_or_moved_line_is_found_and_named(lines: list[bytes]) -> None:
    for k in range(LINES - 1):
        for wrong, at in (
            (lines[:k] + lines[k + 1 :], k + 1),
            (lines[: k + 1] + lines[k:], k + 2),
            ([*lines[:k], lines[k + 1], lines[k], *lines[k + 2 :]], k + 1),
        ):
            rewrite(wrong)
            with pytest.raises(IntegrityError, match=rf"access\.jsonl, line {at}: "):
                read_log()


def test_a_cut_end_and_a_rewritten_log_show_by_a_head_that_was_kept(lines: list[bytes]) -> None:
    head = read_log().head
    append(ADA, "opened run", "b" * 64)
    assert require_head(read_log(), head) == 1 and require_head(read_log(), head[:16].upper()) == 1
    for end in range(LINES):
        rewrite(lines[:end])
        read_log()  # by itself it is whole
        with pytest.raises(IntegrityError, match="cut off"):
            require_head(read_log(), head)
    log_path().unlink()
    append(ADA, "opened run", "b" * 64)
    with pytest.raises(IntegrityError, match="cut off"):
        require_head(read_log(), head)


@pytest.mark.parametrize("kept", ["", "0" * 8, "g" * 64])
def test_what_is_no_digest_is_no_head(lines: list[bytes], kept: str) -> None:
    with pytest.raises(IntegrityError):
        require_head(read_log(), kept)


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_after_a_torn_line_the_log_goes_on_and_says_so(lines: list[bytes], keep: int) -> None:
    rewrite([*lines[:-1], lines[-1][:keep]])
    assert read_log().torn == (LINES,)
    append(ADA, "opened run", "b" * 64)
    known = read_log()
    assert known.torn == (() if keep == -1 else (LINES,))  # only the newline was missing
    assert known.entries[-1].act == "opened run"
    rewrite([*log_path().read_bytes().splitlines(keepends=True)[:-2], *lines[:1]])
    with pytest.raises(IntegrityError):
        read_log()


def test_many_writers_make_one_chain() -> None:
    def write(n: int) -> None:
        for k in range(20):
            append(Person(f"p{n}", "viewer"), "opened run", None, str(k))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    entries = read_log().entries
    for n in range(8):
        assert [e.what for e in entries if e.who == f"p{n}"] == [str(k) for k in range(20)]


def test_a_line_is_on_the_disk_before_anything_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    append(ADA, "opened run", None)
    assert log_path().stat().st_size in synced


def test_only_the_end_of_a_long_log_is_read(lines: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "TAIL", len(lines[-1]) + 1)
    append(ADA, "opened run", None)
    assert len(read_log().entries) == LINES + 1


def test_a_log_that_cannot_be_written_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    log_path().mkdir()
    with pytest.raises(RequestError, match="nothing is shown or done that is not logged"):
        append(ADA, "opened run", None)
    log_path().rmdir()
    monkeypatch.setattr(access_log, "PATIENCE", 0.1)
    lock = access_log.acquire(log_path().with_suffix(".lock"))
    assert lock is not None
    with pytest.raises(RequestError, match="others have been writing"):
        append(ADA, "opened run", None)
    os.close(lock)


def test_names_cannot_make_lines_of_their_own(tmp_path: Path) -> None:
    append(Person('x","act":"y"}\n{"a":1', "viewer"), "opened run", None, "\r\n\u2028" + "z" * 900)
    [line] = log_path().read_bytes().splitlines()
    assert json.loads(line)["act"] == "opened run" and len(read_log().entries) == 1


def test_the_command_line_reads_verifies_and_says_what_it_cannot(lines: list[bytes]) -> None:
    head = read_log().head
    code, said = aa("verify")
    assert code == 0 and f"{LINES} lines" in said and head in said and "cannot be seen from the log alone" in said
    append(ADA, "exported report", "a" * 64, "html")
    code, said = aa("verify", "--head", head)
    assert code == 0 and "1 written since" in said
    assert "exported report" in aa("list", "--format", "csv")[1]
    rewrite(lines[:3])
    code, said = aa("verify", "--head", head)
    assert code == 1 and "cut off" in said
    rewrite([lines[0], lines[2]])
    for command in ("verify", "list"):
        code, said = aa(command)
        assert code == 1 and "line 2" in said
