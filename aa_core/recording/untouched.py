"""Between two steps nothing but the optimizer's step may change what trains: noticed without a copy of it."""

from __future__ import annotations

import warnings
from itertools import zip_longest

from torch import Tensor, nn

from aa_core.recording.live import Live
from aa_core.runs.succession import check_untouched, listed_names, parameters
from aa_core.state import Params


class Untouched:
    """Compares parameters with copies after the steps that a checkpoint precedes, and after all steps how often torch
    has written to each of them and to the optimizer's tensors.

    A write may have put back what was there (averaged weights swapped in and out), so that alone is a warning."""

    def __init__(self) -> None:
        self._values: Params = {}
        self._writes: list[tuple[int, int]] = []

    def note(self, live: Live, copied: bool) -> None:
        """After a step; with copies where one was checked."""
        self._values = {n: p.detach().clone() for n, p in parameters(live).items()} if copied else {}
        self._writes = _writes(live)

    def check(self, live: Live, step: int) -> bool:
        """Before `step`: whether anything may have been changed that no copy speaks for; said in a RuntimeWarning.

        Raises RecordingError where a copy shows it."""
        check_untouched(live, self._values, step)
        spoken_for, before, now = self._values, self._writes, _writes(live)
        self._values, self._writes = {}, now
        if not before or now == before:
            return False
        differ = [n for n, a, b in zip_longest(_names(live), before, now, fillvalue="") if a != b]
        changed = [n for n in differ if n not in spoken_for]
        if changed:
            warnings.warn(
                f"before step {step} something else than the optimizer's step wrote to {listed_names(changed)}: a "
                "clamp or projection, another optimizer, or values that were loaded. Where they are not again what "
                "they were, the run will not replay up to here: do so between two stages, or make it part of the model",
                RuntimeWarning,
                stacklevel=4,
            )
        return bool(changed)

    def forget(self) -> None:
        """What happens now is looked at when the next stage begins."""
        self._values, self._writes = {}, []


def _writes(live: Live) -> list[tuple[int, int]]:
    """Of each tensor that trains or rests: which one it is, and how often torch has written to it."""
    frozen = [t for t in live.carried.values() if isinstance(t, nn.Parameter)]
    states = filter(None, map(live.optimizer.state.get, live.trained.values()))
    slots = [t for state in states for t in state.values() if isinstance(t, Tensor)]
    return [(t.data_ptr(), t._version) for t in (*live.trained.values(), *live.rested.values(), *frozen, *slots)]


def _names(live: Live) -> list[str]:
    """What they are called, in that order."""
    slots = [
        f"{slot} of {name}"
        for name, p in live.trained.items()
        for slot, t in live.optimizer.state.get(p, {}).items()
        if isinstance(t, Tensor)
    ]
    return [*parameters(live), *slots]
