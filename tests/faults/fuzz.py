"""Exploring with hypothesis: the same few examples in every run of the tests, new ones as long as FUZZ_SECONDS last.

Within bounded time and memory, the only exceptions are those of the package.
"""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
TARGETS = 10
"""How many tests share the time."""
FEWER = 3
"""How many times fewer examples there are without it."""
MEMORY = 1 << 30
"""Bytes, beyond those that are in use."""
HANGS = timedelta(seconds=20)
JUNK = [b"-1", b"1e999", b"null", b"NaN", b'"', b"\\u0000", b"[" * 80, b"9" * 20, b"../", b"\0", b"\n", b"PK\1\2"]


def explore(run: Callable[[settings], object], examples: int, **more: Any) -> None:
    """`run` with settings for so many examples, again and again for its share of FUZZ_SECONDS; without, for fewer."""
    chosen = settings(
        max_examples=examples if SECONDS else examples // FEWER,
        deadline=HANGS,
        derandomize=not SECONDS,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    end = time.monotonic() + SECONDS / TARGETS
    with bounded(MEMORY):
        run(chosen)
        while time.monotonic() < end:
            run(chosen)


@contextmanager
def bounded(memory: int) -> Iterator[None]:
    """MemoryError for whoever asks for more address space than that."""
    pyarrow.allocate_buffer(1)  # its allocator reserves a GiB when it is first asked
    found = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    before = resource.getrlimit(resource.RLIMIT_AS)
    assert found is not None
    resource.setrlimit(resource.RLIMIT_AS, (int(found[1]) * 1024 + memory, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# ---- damage ----------------------------------------------------------------------------------------------------------

SPANS = st.floats(0, 1)
WORDS = st.text(max_size=20) | st.sampled_from(["../x", "\0", "a"])


class Bytes(bytes):
    """Bytes that nobody wants to see in full."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few of them flipped, cut out, repeated, moved or replaced."""
    for _ in range(draw(st.integers(1, 4))):
        a, b = sorted(int(draw(SPANS) * len(data)) for _ in range(2))
        piece = draw(st.sampled_from(JUNK) | st.binary(max_size=12) | st.just(data[a:b][:1000]))
        data = data[:a] + piece + data[draw(st.sampled_from([a, b, a + len(piece)])) :]
    return Bytes(data)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """JSON in which one value is another one, or gone, or there is one more."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        copy = value.copy()
        copy[key] = draw(changed(value[key]))
        return copy
    if isinstance(value, dict):
        return {**value, draw(st.text(max_size=8)): draw(JSON)}
    if isinstance(value, int) and draw(st.booleans()):
        return value + draw(st.sampled_from([-1, 1, 2**31, 2**53, -(2**63)]))
    return draw(JSON)
