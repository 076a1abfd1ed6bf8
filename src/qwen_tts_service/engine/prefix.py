"""Beginnings that prompts share, already read: instruction, speaker and language.

A prompt whose beginning has been read before takes its keys and values from here, and only its
text is left to read. Beginnings are always read by themselves, so what a prompt comes to does not
depend on whether its beginning was here. It does not know slots, jobs or what ids mean.

Letters: P positions, K key/value heads, D head size.
"""

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

Cached = tuple[Tensor, Tensor]
"""Keys and values [layers, P, K, D]."""


class PrefixCache:
    """Keeps up to `max_rows` positions; what was used least recently goes first."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows = 0
        self._entries: OrderedDict[Hashable, Cached] = OrderedDict()

    def __contains__(self, prefix: Hashable) -> bool:
        return prefix in self._entries

    def get(self, prefix: Hashable) -> Cached | None:
        """Return what is kept of a beginning, and keep it longer."""
        if prefix in self._entries:
            self._entries.move_to_end(prefix)
        return self._entries.get(prefix)

    def put(self, prefix: Hashable, cached: Cached) -> None:
        """Keep a beginning, unless it alone is too long."""
        rows = cached[0].shape[1]
        if prefix in self._entries or rows > self._max_rows:
            return
        self._entries[prefix] = cached
        self._rows += rows
        while self._rows > self._max_rows:
            _, (keys, _) = self._entries.popitem(last=False)
            self._rows -= keys.shape[1]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._rows = 0
