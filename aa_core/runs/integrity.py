"""Is a run on disk what was recorded? Every file, read again and verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from aa_core.errors import IntegrityError, RunError
from aa_core.progress import Progress, silent
from aa_core.runs.examples import digest_rows
from aa_core.runs.trajectory import Trajectory, open_run


def check_integrity(run: Trajectory, progress: Progress = silent) -> tuple[str, ...]:
    """Read all of the run from disk again and verify it; what is wrong, in words. Empty if it is intact.

    Referenced examples are outside the run: they are verified when they are fetched. progress counts files.
    """
    try:
        fresh = open_run(run.path, run.datasets)
    except RunError as error:
        return (str(error),)
    changed = [f"{run.path}: changed since it was opened"] if run.sealed and fresh.digest != run.digest else []
    checks = tuple(_checks(fresh))
    for done, check in enumerate(checks, 1):
        if (found := _failure(check)) is not None:
            changed.append(found)
        progress(done, len(checks))
    return (*changed, *fresh.warnings)


def _checks(run: Trajectory) -> Iterator[Callable[[], object]]:
    for step in run.checkpoints:
        yield partial(run.load, step)
    yield lambda: run.evaluation
    if run.steps:
        yield lambda: _check_examples(run)


def _failure(check: Callable[[], object]) -> str | None:
    try:
        check()
    except RunError as error:
        return str(error)
    return None


def _check_examples(run: Trajectory) -> None:
    """Every row that a step uses is there, and stored examples are what their digests say."""
    examples = run.stored_examples
    run.check_rows(run.column("rows"))
    if examples.dataset is None:
        digests = examples.digests.numpy()
        wrong = [i for i, found in enumerate(digest_rows(examples.fields)) if found != digests[i].tobytes()]
        if wrong:
            raise IntegrityError(f"{run.path}/data: example {wrong[0]} ({len(wrong)} in all) differs from its digest")
