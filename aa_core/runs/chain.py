"""The log of a run: commits chained by digest from run.json on, read up to the journal's intact tail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aa_core.runs.commits import read_commits
from aa_core.runs.header import Commit, FileEntry, Header, PhaseEntry, first_phase, parse
from aa_core.runs.journal import CommitUnderway, Journal, decode_journal
from aa_core.runs.verified import read_file, sha256

NO_JOURNAL = Journal((), b"", ())


@dataclass(frozen=True)
class Chain:
    """Header, commits in their order, and what the journal adds to them."""

    header: Header
    commits: tuple[Commit, ...]
    head: str
    """sha256 of the last commit (of run.json if there is none)."""
    journal: Journal

    @property
    def digest(self) -> str:
        """Digest of all that was read: the head, and the journal's intact tail where there is one."""
        return sha256(self.head.encode() + self.journal.intact) if self.journal.intact else self.head

    @property
    def journals(self) -> tuple[str, ...]:
        """The files that the journal was read from."""
        number, underway = len(self.commits), self.journal.underway
        first = self.journal.steps and (underway is None or underway.stop > self.committed)
        names = [f"{number:010d}.jsonl"] if first else []
        names += [] if underway is None else [f"{number:010d}.json", f"{number + 1:010d}.jsonl"]
        return tuple(f"journal/{name}" for name in names)

    @property
    def sealed(self) -> bool:
        return bool(self.commits) and self.commits[-1].sealed

    @property
    def committed(self) -> int:
        """How many steps are committed."""
        return self.commits[-1].stop if self.commits else 0

    @property
    def phases(self) -> tuple[tuple[int, PhaseEntry], ...]:
        """(first step, what begins there): one for the header, one for each commit that announces one."""
        return ((0, first_phase(self.header)), *((c.stop, c.phase) for c in self.commits if c.phase is not None))

    def files(self, role: str) -> tuple[FileEntry, ...]:
        return tuple(f for c in self.commits for f in c.files if f.role == role)


def read_chain(root: Path) -> Chain:
    """Header, log and journal of a run.

    Raises RunNotFoundError, RunVersionError, RunFormatError (all errors listed), or IntegrityError for a broken chain.
    """
    header, commits, head = read_commits(root)
    sealed, start = bool(commits) and commits[-1].sealed, commits[-1].stop if commits else 0
    return Chain(header, commits, head, NO_JOURNAL if sealed else _read_journal(root, len(commits), start))


def _read_journal(root: Path, number: int, start: int) -> Journal:
    """The steps since the last commit: if the next one was underway, also those that were taken meanwhile."""
    first, note = _read_lines(root, number, start), f"journal/{number:010d}.json"
    try:
        underway = parse(CommitUnderway, read_file(root, note), note)
    except (FileNotFoundError, NotADirectoryError):
        return first
    if underway.stop != start + len(first.steps):
        return first
    second = _read_lines(root, number + 1, underway.stop)
    if not second.steps:
        return first._replace(warnings=first.warnings + second.warnings)
    steps, intact = first.steps + second.steps, first.intact + second.intact
    return Journal(steps, intact, first.warnings + second.warnings, underway)


def _read_lines(root: Path, number: int, start: int) -> Journal:
    name = f"journal/{number:010d}.jsonl"
    try:
        return decode_journal(read_file(root, name, limit=2**40), start, name)
    except (FileNotFoundError, NotADirectoryError):
        return NO_JOURNAL
