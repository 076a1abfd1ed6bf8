"""Waiting for what another thread does."""

import time
from collections.abc import Callable

WAIT_S = 30
"""Far longer than it takes, on a busy machine too."""


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so; it fails the test after WAIT_S."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
