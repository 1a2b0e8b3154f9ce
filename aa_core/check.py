"""How far a recording can be believed: is it intact, and does it replay? The grade, in words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from aa_core.problem import Problem
from aa_core.replay import Drift, Progress, replay_drift, silent
from aa_core.runs.integrity import check_integrity
from aa_core.runs.trajectory import Trajectory


@dataclass(frozen=True)
class RunCheck:
    """What a check of a run found."""

    findings: tuple[str, ...]
    """What is wrong with the files, in words."""
    sealed: bool
    segments: int
    """Pieces between two checkpoints."""
    drifts: tuple[Drift, ...]
    """How far each replayed segment ends from its checkpoint; empty if nothing was replayed."""

    @property
    def within_tolerance(self) -> bool:
        return all(d.within_tolerance for d in self.drifts)

    @property
    def sound(self) -> bool:
        """Nothing was found, and what was replayed met its checkpoints."""
        return not self.findings and self.within_tolerance

    @property
    def words(self) -> str:
        """ "chain consistent; 6 of 6 segments replayed, max deviation 0, bit-exact"."""
        return f"{self.integrity}; {self.replay}"

    @property
    def meaning(self) -> tuple[str, str]:
        """What the words say of the files and of the replay, and what they do not."""
        if self.findings:
            files = "files are missing, or not as they were recorded: no number from this run can be believed"
        elif self.sealed:
            files = "every file is the one that the sealed log names; who sealed it is a matter of signatures"
        else:
            files = "every file is the one that the log names so far; the training goes on, or was cut short"
        return files, self._replayed

    @property
    def _replayed(self) -> str:
        if not self.drifts:
            return "nothing was replayed: that the recorded steps lead from one checkpoint to the next is not shown"
        if not self.within_tolerance:
            return "the recorded steps do not lead to the recorded checkpoints: model, loss or data are others"
        exact = all(d.absolute == 0 for d in self.drifts)
        how = "to the bit" if exact else "up to rounding, as on another machine"
        return f"the recorded steps lead from one checkpoint to the next {how}; what came before the first is not shown"

    @property
    def integrity(self) -> str:
        """Of the files: "chain consistent"."""
        if self.findings:
            return f"NOT INTACT: {len(self.findings)} finding{'s' * (len(self.findings) > 1)}"
        return "chain consistent" if self.sealed else "chain consistent so far, not sealed"

    @property
    def replay(self) -> str:
        """Of the replay: "6 of 6 segments replayed, max deviation 0, bit-exact"."""
        if not self.drifts:
            return "not replayed"
        counted = f"{len(self.drifts)} of {self.segments} segments replayed"
        if all(d.absolute == 0 for d in self.drifts):
            return f"{counted}, max deviation 0, bit-exact"
        worst = max(self.drifts, key=lambda d: (d.relative != d.relative, d.relative / d.allowed))
        judged = "within" if self.within_tolerance else "BEYOND"
        deviation = f"max deviation {worst.relative:.1e} of the change since the checkpoint before"
        return f"{counted}, {deviation}, {judged} the tolerance {worst.allowed:.0e}"


def check_files(run: Trajectory) -> RunCheck:
    """Verify the files only; no code of the run's model is needed."""
    return RunCheck(check_integrity(run), run.sealed, max(len(run.checkpoints) - 1, 0), ())


def check_run(run: Trajectory, problem: Problem, progress: Progress = silent) -> RunCheck:
    """Verify the files and, if they are intact, replay every segment. Costs one plain step per recorded step."""
    files = check_files(run)
    if files.findings:
        return files
    with _recorded_threads(run):
        drifts = tuple(replay_drift(run, problem, progress))
    return RunCheck((), run.sealed, files.segments, drifts)


@contextmanager
def _recorded_threads(run: Trajectory) -> Iterator[None]:
    """As many threads as the recording used, where there are as many: sums depend on it in the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(run.environment.threads, os.cpu_count() or 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
