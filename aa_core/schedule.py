"""How to walk a trajectory backwards in bounded memory, as pure functions."""

from __future__ import annotations

from math import comb


def capacity(slots: int, repeats: int) -> int:
    """The longest segment that `slots` stored states reverse when no step is recomputed more than `repeats` times.

    c(s, 0) = s (keep every state) and c(s, r) = C(s + r, r + 1) + C(s + r - 1, r - 1), after Griewank & Walther (2000).
    """
    if repeats == 0:
        return slots
    return comb(slots + repeats, repeats + 1) + comb(slots + repeats - 1, repeats - 1)


def split(length: int, slots: int) -> int:
    """Where to keep a state inside a segment of `length` > `slots` steps: the part left of it, 1..length-1 steps."""
    repeats = 1
    while capacity(slots, repeats) < length:
        repeats += 1
    return max(1, min(capacity(slots, repeats - 1), length - capacity(slots - 1, repeats - 1)))
