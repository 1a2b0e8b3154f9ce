"""What recorders of other people's training loops share: stages around a `fit` or `train`, or boundaries inside it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import torch
from torch import nn

from aa_core.errors import EmptyStageError, RecordingError, RequestError
from aa_core.recording.live import LossFunction
from aa_core.recording.recorder import Recorder

Progress = TypeVar("Progress")
"""What the framework says about how far training is."""


UNCLIPPED = {"clip_norm": math.inf}


class LoopRecorder(ABC, Generic[Progress]):
    """Records what a framework's loop does into a new run at `path`; `callback` is what the framework calls.

    settings: those of `aa_core.Recorder`; model, optimizer and clipping are the framework's.
    """

    def __init__(self, path: str | Path, **settings: Any) -> None:
        if settings.get("if_exists", "refuse") != "refuse":
            raise RequestError(
                "the loop of a framework begins where its own state says, so its recording cannot resume"
            )
        self._path, self._settings = path, settings
        self._recorder: Recorder | None = None
        self._run, self._hooks, self._block = ExitStack(), ExitStack(), ExitStack()
        self._trains: dict[str, Any] = {}
        self._details: dict[str, Any] = {}
        self._name_of: Callable[[Progress], str] | None = None
        self._name: str | None = None

    @property
    @abstractmethod
    def callback(self) -> Any:
        """What to give the framework; MissingExtraError where it is not installed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.__exit__(kind, error, trace)

    @contextmanager
    def stage(self, name: str | Callable[[Progress], str], **details: Any) -> Iterator[None]:
        """A stage of the training: the steps made inside. With a function, the name that it gives before each step.

        details: note, metadata and reset of `aa_core.Recorder.stage`.

        Raises:
            EmptyStageError: no step was made inside.
        """
        self._name_of, self._name = name if callable(name) else lambda _: name, None
        self._details = details
        try:
            with ExitStack() as self._hooks, ExitStack() as self._block:
                yield
        finally:
            self._name_of = None
        if self._name is None:
            raise EmptyStageError(
                f"stage {name!r} closed without a step; train inside it, with the recorder's callback among those of "
                "the trainer"
            )

    def _begin(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: LossFunction, clip: dict[str, Any]
    ) -> None:
        """Training begins: the run with the first, a further block of it, by what trains now, with every other."""
        if self._name_of is None:
            raise RecordingError("training begins outside a stage; put it inside `with recorder.stage(name):`")
        if self._recorder is None:
            recorder = Recorder(self._path, model, optimizer, loss_fn, **self._settings)
            self._recorder = self._run.enter_context(recorder)
        self._block.close()
        self._name, self._trains = (
            None,
            {"model": model, "optimizer": optimizer, "loss_fn": loss_fn, **(clip or UNCLIPPED)},
        )

    def _active(self) -> Recorder:
        assert self._recorder is not None, "the framework trains before it says that training begins"
        return self._recorder

    def _at(self, progress: Progress) -> None:
        """Before a step: into the stage that it belongs to."""
        assert self._name_of is not None, "the framework trains before it says that training begins"
        name = self._name_of(progress)
        if name != self._name:
            self._block.close()
            self._block.enter_context(self._active().stage(name, **self._trains, **self._details))
            self._name = name
