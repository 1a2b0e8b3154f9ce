"""One engine for all sessions: what it found is kept, and it computes for one session at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st
import torch

from dashboard.memo import Memo

Progress = Callable[[int, int], None]
torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the rest is for jobs; small models lose with more
CHOSEN = os.environ.get("AA_PROBLEM") or None
"""The problem that the auditor named, in place of what the runs ask for."""
ENGINE = threading.Lock()


@st.cache_resource(show_spinner=False)
def memo() -> Memo:
    """Finished results by (run digest, request)."""
    return Memo(256)


@contextmanager
def alone(key: Hashable) -> Iterator[None]:
    """Alone with the engine, unless the answer is already there."""
    if key in memo():
        yield
        return
    with ENGINE:
        yield


def compute(key: Hashable, work: Callable[[], Any]) -> Any:
    """The result kept under this key; the engine computes it now if there is none."""
    with alone(key):
        return memo().recall(key, work)
