"""Results by (run digest, request), shared by all sessions of this server; the least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Memo:
    """A bounded table of finished results. They are shared: nobody changes them."""

    def __init__(self, entries: int) -> None:
        self._limit = entries
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._values

    def get(self, key: Hashable) -> Any:
        """The result, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: Any) -> Any:
        """Keep a result, and return it."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._limit:
                self._values.popitem(last=False)
        return value

    def recall(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The result kept under this key, computed now if there is none."""
        value = self.get(key)
        return self.put(key, compute()) if value is None else value
