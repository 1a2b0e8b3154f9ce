"""How attempts at a job ended is kept through every retry: whole, bounded, and seen to be damaged if it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aa_core.errors import RequestError
from aa_core.jobs import Job, JobSpec
from aa_core.jobs.attempts import EARLIER, MOST, TORN, earlier, note
from aa_core.jobs.job import DIED
from aa_core.jobs.spec import ATTEMPTS, FAILURE, Failure


def make(folder: Path) -> Job:
    return Job(folder, JobSpec(kind="whatif", run="/run", digest="0", problem=None, problem_digest=None, request={}))


def begin_again(job: Job) -> None:
    lock = job.reopen()
    assert lock is not None
    os.close(lock)


def test_failures_outlive_the_retry_that_takes_their_place(tmp_path: Path) -> None:
    job = make(tmp_path)
    begin_again(job)
    assert job.earlier == (), "the first attempt follows none"
    (tmp_path / FAILURE).write_bytes(Failure(status="cancelled", error="cancelled; nothing was changed").to_bytes())
    begin_again(job)
    (tmp_path / ATTEMPTS).write_text("started\n")
    begin_again(job)
    assert [(a.status, a.error) for a in job.earlier] == [
        ("cancelled", "cancelled; nothing was changed"),
        ("failed", DIED),
    ]
    assert not (tmp_path / FAILURE).exists() and all(a.at for a in job.earlier)


def test_at_most_so_many_are_kept_and_long_words_are_cut(tmp_path: Path) -> None:
    for i in range(MOST + 5):
        note(tmp_path, "failed", f"{i} " + "x" * 1_000, 0.0)
    found = earlier(tmp_path)
    assert len(found) == MOST and found[0].error.startswith("0 x") and len(found[-1].error) == 500


def test_a_damaged_line_says_so_and_spoils_no_other(tmp_path: Path) -> None:
    for words in ("one", "two", "three"):
        note(tmp_path, "failed", words, 0.0)
    lines = (tmp_path / EARLIER).read_bytes().splitlines(keepends=True)
    for bit in range(8 * len(lines[1]) - 8):  # all but those of the newline
        flipped = bytearray(lines[1])
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / EARLIER).write_bytes(lines[0] + bytes(flipped) + lines[2])
        found = [a.error for a in earlier(tmp_path)]
        assert (found[0], found[-1]) == ("one", "three") and set(found[1:-1]) == {TORN}, f"bit {bit}"


def test_what_cannot_be_noted_is_not_begun_again(tmp_path: Path) -> None:
    job = make(tmp_path)
    begin_again(job)
    (tmp_path / FAILURE).write_bytes(Failure(status="failed", error="it broke").to_bytes())
    (tmp_path / EARLIER).mkdir()
    with pytest.raises(RequestError, match="could not be noted"):
        job.reopen()
    assert job.error == "it broke"
    (tmp_path / EARLIER).rmdir()
    begin_again(job)
    assert [a.error for a in job.earlier] == ["it broke"]
