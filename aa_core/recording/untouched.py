"""Between two steps nothing but the optimizer's step may change what trains: noticed without a copy of it."""

from __future__ import annotations

import warnings
from itertools import chain

from torch import Tensor, nn

from aa_core.recording.live import Live
from aa_core.runs.succession import check_untouched, listed_names, parameters
from aa_core.state import Params


class Untouched:
    """Compares parameters with copies after the steps that a checkpoint precedes; after all others, how often torch has
    written to them and to the optimizer's state, which is a warning once a recording: a write may have put back what
    was there (averaged weights swapped in and out)."""

    def __init__(self) -> None:
        self._values: Params = {}
        self._watched: tuple[Live, object, int] | None = None
        """What the tensors are of: the optimizer's state, and of how many parameters it had one."""
        self._tensors: list[Tensor] = []
        self._writes: list[int] | None = None
        self._warned = False

    def note(self, live: Live, copied: bool) -> None:
        """After a step; with copies where one was checked."""
        self._values = {n: p.detach().clone() for n, p in parameters(live).items()} if copied else {}
        now, state = self._watched, live.optimizer.state
        if now is None or now[0] is not live or now[1] is not state or now[2] != len(state):
            self._watched, self._tensors = (live, state, len(state)), _tensors(live)
        self._writes = None if self._warned else [t._version for t in self._tensors]

    def check(self, live: Live, step: int) -> None:
        """Before `step`: RecordingError where a copy shows that a parameter was changed, RuntimeWarning where something
        else than the optimizer's step wrote to what trains."""
        check_untouched(live, self._values, step)
        written = self._changed(live)
        changed, self._values = [n for n in written if n not in self._values], {}
        if written:
            self._writes = [t._version for t in self._tensors]  # another batch may be announced for this step
        if changed:
            self._warned, self._writes = True, None
            warnings.warn(
                f"before step {step} something else than the optimizer's step wrote to {listed_names(changed)}: a "
                "clamp or projection, another optimizer, or values that were loaded. Where they are not again what "
                "they were, the run will not replay up to its next checkpoint: begin a stage with what is new, or make "
                "it part of the model. This is said once a recording",
                RuntimeWarning,
                stacklevel=5,
            )

    def forget(self) -> None:
        """What happens now is looked at when the next stage begins."""
        self._values, self._writes = {}, None

    def _changed(self, live: Live) -> list[str]:
        if self._writes is None or self._watched is None:
            return []
        if live.optimizer.state is not self._watched[1]:
            return ["the optimizer's state"]
        if [t._version for t in self._tensors] == self._writes:
            return []
        named = parameters(live) | {
            f"{slot} of {n}": t for n, p in live.trained.items() for slot, t in live.optimizer.state.get(p, {}).items()
        }
        written = {id(t) for t, before in zip(self._tensors, self._writes, strict=True) if t._version != before}
        return [n for n, t in named.items() if id(t) in written]


def _tensors(live: Live) -> list[Tensor]:
    """Parameters, those at rest among them, and the optimizer's state of each."""
    frozen = (t for t in live.carried.values() if isinstance(t, nn.Parameter) and not t.is_inference())
    states = filter(None, map(live.optimizer.state.get, live.trained.values()))
    slots = (t for state in states for t in state.values() if isinstance(t, Tensor))
    return [*chain(live.trained.values(), live.rested.values(), frozen, slots)]
