"""How far a computation is, told to whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total); it may raise, to stop the work."""


def silent(done: int, total: int) -> None:
    """The default progress: none."""
