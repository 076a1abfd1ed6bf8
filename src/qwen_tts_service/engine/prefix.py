"""LRU cache of keys and values for prompt prefixes: instruction, speaker and language.

A prompt whose prefix has been read before takes its keys and values from here, and only its text
is left to read. A prefix is always read by itself, so what a prompt comes to does not depend on
whether its prefix was here.

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

    def get(self, prefix: Hashable) -> Cached | None:
        """Return a kept prefix and mark it as used; None if it is not kept."""
        if prefix in self._entries:
            self._entries.move_to_end(prefix)
        return self._entries.get(prefix)

    def wants(self, prefix: Hashable, rows: int) -> bool:
        """Whether to `put` a prefix of so many positions: it is new, and short enough."""
        return prefix not in self._entries and rows <= self._max_rows

    def put(self, prefix: Hashable, cached: Cached) -> None:
        """Keep a prefix for which `wants` is true."""
        self._entries[prefix] = cached
        self._rows += cached[0].shape[1]
        while self._rows > self._max_rows:
            _, (keys, _) = self._entries.popitem(last=False)
            self._rows -= keys.shape[1]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._rows = 0
