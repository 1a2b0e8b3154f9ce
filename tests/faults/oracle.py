"""The one oracle of hostile input: the command refuses in words, quickly, and touches nothing."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import aa_core.cli
import aa_core.surface  # noqa: F401  loaded here, so that what is copied has it

SECONDS, MEGABYTES = 5.0, 640
"""Of processor time, and of memory beyond that of the interpreter with torch: together less than one GiB."""
HANGS = 100


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    said: str
    seconds: float
    megabytes: int


def aa(*arguments: str | Path, folder: Path, environment: dict[str, str] | None = None) -> Outcome:
    """Run the command line in a process of its own (a copy of this one: torch is loaded already)."""
    said = folder.parent / f"{folder.name}.said"
    child = os.fork()
    if child == 0:
        _be_the_command(list(map(str, arguments)), folder, said, environment or {})
    _, status, used = os.wait4(child, 0)
    text = said.read_text(errors="replace")
    said.unlink()
    shown, _, peak = text.rpartition("\npeak ")
    return Outcome(os.waitstatus_to_exitcode(status), shown or text, used.ru_utime + used.ru_stime, int(peak or 0))


def _be_the_command(arguments: list[str], folder: Path, said: Path, environment: dict[str, str]) -> None:
    code = 99
    try:
        signal.alarm(HANGS)
        os.environ.update(environment)
        os.chdir(folder)
        descriptor = os.open(said, os.O_CREAT | os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        sys.argv = ["aa", *arguments]
        before = _status_kb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        try:
            from aa_core.commands.entry import main

            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        print(f"\npeak {(_status_kb('VmHWM') - before) // 1024}", end="", flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _status_kb(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder: what it is, and a digest of what it holds."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    status = path.stat()
    if not path.is_file() or status.st_size > 2**30:
        return f"{status.st_mode:o}, {status.st_size} bytes"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(*arguments: str | Path, folder: Path, because: str) -> str:
    """What the command said, having refused as it must; `folder` holds the run and all that could be touched."""
    before = contents(folder)
    outcome = aa(*arguments, folder=folder)
    assert outcome.code == 1, outcome
    assert "Traceback" not in outcome.said and "not foreseen" not in outcome.said, outcome.said
    assert re.search(because, outcome.said), outcome.said
    assert len(outcome.said) < 20_000, "a message is to be read"
    assert outcome.seconds < SECONDS and outcome.megabytes < MEGABYTES, outcome
    assert contents(folder) == before
    return outcome.said
