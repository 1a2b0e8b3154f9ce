"""Every error that the engine raises on purpose.

    AuditError
    ├── RunError                the recorded run cannot be used as asked
    │   ├── RunNotFoundError        no run at this path
    │   ├── RunExistsError          the recorder would overwrite something
    │   ├── RunBusyError            another recorder holds the run
    │   ├── RunFormatError          a file is not what the format says
    │   │   └── RunVersionError         written by a newer version
    │   ├── IntegrityError          a digest does not match
    │   ├── MissingDataError        examples are only referenced, and not at hand
    │   └── MissingStepsError       only checkpoints are known, and steps are asked for
    ├── RecordingError          the training loop and the recorder disagree
    │   ├── UnsupportedError        a feature of the training that is not supported
    │   └── EmptyStageError         a stage closed without a step
    ├── ProblemError            the model or loss does not fit the run
    ├── ReplayDriftError        the replay does not reproduce the recording
    ├── NonFiniteError          NaN or infinity where a number is needed
    ├── ConvergenceError        an iteration that did not settle
    ├── UnknownStageError       no stage of that name
    ├── RequestError            arguments that make no sense together
    ├── NotAllowedError         the person's role does not reach that far
    ├── MissingExtraError       an optional dependency is not installed
    └── Cancelled               the caller asked to stop

Messages say what was found, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import ENOMEM


class AuditError(Exception):
    """Base of all errors of this package."""


class RunError(AuditError):
    """The recorded run cannot be used as asked."""


class RunNotFoundError(RunError):
    """There is no run at this path."""


class RunExistsError(RunError):
    """The recorder would overwrite something."""


class RunBusyError(RunError):
    """Another recorder holds the run."""


class RunFormatError(RunError):
    """A file of the run is not what the format says."""


class RunVersionError(RunFormatError):
    """The run was written by a newer version of this package."""


class IntegrityError(RunError):
    """A file's digest is not the one that the run's log names."""


class MissingDataError(RunError):
    """The run only references its training examples, and they are not at hand."""


class MissingStepsError(RunError):
    """Only checkpoints of the training are known, and the question needs its steps."""


class RecordingError(AuditError):
    """The training loop and the recorder disagree."""


class UnsupportedError(RecordingError):
    """The training uses a feature that cannot be replayed or differentiated."""


class EmptyStageError(RecordingError):
    """A stage was closed without a single step."""


class ProblemError(AuditError):
    """The model or loss does not fit the run."""


class ReplayDriftError(AuditError):
    """The replay does not reproduce the recording."""


class NonFiniteError(AuditError):
    """NaN or infinity where a number is needed."""


class ConvergenceError(AuditError):
    """An iteration did not settle, so that it has no result."""


class UnknownStageError(AuditError):
    """The run has no stage of that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(f"unknown stage {name!r}; this run has: {', '.join(map(repr, self.known)) or 'no stages'}")


class RequestError(AuditError):
    """Arguments that make no sense together."""


class NotAllowedError(AuditError):
    """Whoever asks is not let in, or their role does not reach that far."""


class MissingExtraError(AuditError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"{feature} needs an optional dependency: pip install 'accountability-audit[{extra}]', "
            f"or in the project's folder: pip install -e '.[{extra}]'"
        )


class Cancelled(AuditError):
    """The caller asked to stop; nothing was changed."""


def is_memory(error: BaseException) -> bool:
    """Was there not enough memory? Python says so with a type, the system with a number, torch with words."""
    match error:
        case OSError():
            return error.errno == ENOMEM
        case RuntimeError():
            return any(words in str(error) for words in ("out of memory", "not enough memory", "allocate memory"))
        case _:
            return isinstance(error, MemoryError)
