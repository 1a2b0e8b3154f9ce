"""How to walk a trajectory backwards in bounded memory, as pure functions."""

from __future__ import annotations

from functools import cache


@cache
def capacity(slots: int, repeats: int) -> int:
    """The longest segment that `slots` stored states reverse when no step is recomputed more than `repeats` times.

    c(s, 0) = s (keep every state) and c(s, r) = c(s - 1, r) + c(s, r - 1), as in Griewank & Walther (2000).
    """
    if slots <= 1:
        return 1
    if repeats == 0:
        return slots
    return capacity(slots - 1, repeats) + capacity(slots, repeats - 1)


def split(length: int, slots: int) -> int:
    """Where to keep a state inside a segment of `length` > `slots` steps: the part left of it, 1..length-1 steps."""
    if slots <= 1:
        return length - 1
    repeats = 1
    while capacity(slots, repeats) < length:
        repeats += 1
    return min(max(length - capacity(slots - 1, repeats), 1), length - 1)
