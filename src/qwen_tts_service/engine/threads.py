"""Run torch on a short-lived thread: it may only stay on the engine's own.

The OpenMP runtime (libgomp) counts the threads of every thread that has ever run a parallel loop
and still lives. Once they are more than the cores, all of them go to sleep between loops, and a
frame of the 0.6B model on two cores takes 180 ms in place of 115.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

R = TypeVar("R")


def on_a_thread_that_ends(work: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call `work` on a thread of its own and wait for it; raises what it raises."""
    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
        return pool.submit(work, *args, **kwargs).result()
