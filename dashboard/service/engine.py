"""One engine for all sessions: what it found is kept, and it computes for one session at a time."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st
import torch

from dashboard.bars import Progress, waiting
from dashboard.memo import Memo

torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the rest is for jobs; small models lose with more
CHOSEN = os.environ.get("AA_PROBLEM") or None
"""The problem that the auditor named, in place of what the runs ask for."""
ENGINE = threading.Lock()
__all__ = ["Progress", "alone", "compute", "memo"]
MANY, _modules = 100, len(sys.modules)
"""Modules; that many more are worth a look, and how many there were at the last one."""
WAIT = 0.5
"""Seconds between two looks whether the engine is free; a page that is left meanwhile waits no more."""


@st.cache_resource(show_spinner=False)
def memo() -> Memo:
    """Finished results by (run digest, request)."""
    return Memo(256)


@contextmanager
def alone(key: Hashable) -> Iterator[None]:
    """Alone with the engine, unless the answer is already there. The page says so while it waits for others."""
    if key in memo():
        yield
        return
    held = ENGINE.acquire(blocking=False)
    try:
        if not held:
            with waiting() as say:
                while not (held := ENGINE.acquire(timeout=WAIT)):
                    say()
        yield
    finally:
        if held:
            ENGINE.release()


def compute(key: Hashable, work: Callable[[], Any]) -> Any:
    """The result kept under this key; the engine computes it now if there is none."""
    with alone(key):
        found = memo().recall(key, work)
    _keep_imports()
    return found


def _keep_imports() -> None:
    """What torch imports at the first derivative stays, as after `opening.imports`: Streamlit collects garbage after
    every click, before its answer has left, and would go through all of it."""
    global _modules
    if len(sys.modules) > _modules + MANY:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)
