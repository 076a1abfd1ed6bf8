"""Admission control: a fixed number of slots and a bounded queue, and so many voices a minute.

Lives on one event loop.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from heapq import heapify, heapreplace
from random import uniform
from time import monotonic

from qwen_tts_service.errors import Busy

MINUTE_S = 60.0
LONGEST_RETRY_S = 300.0
CONTENDED_S = 5.0
"""How long a refused request counts as waiting: without a queue, nobody else does."""


class Slot:
    """A request's right to be spoken, granted at once or after a wait; `release` frees it."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._granted_at_s = 0.0
        self._is_released = False

    async def granted(self) -> None:
        """Wait until it is granted."""
        await asyncio.shield(self._granted)

    def grant(self) -> None:
        """Grant it; only `Admission` calls this."""
        self._granted_at_s = monotonic()
        self._granted.set_result(None)

    @property
    def is_granted(self) -> bool:
        return self._granted.done()

    @property
    def held_s(self) -> float:
        """Seconds since it was granted."""
        return monotonic() - self._granted_at_s

    def release(self) -> None:
        """Free the slot or leave the queue; repeated calls change nothing."""
        if not self._is_released:
            self._is_released = True
            self._admission.leave(self)


class RateLimit:
    """So many in any minute; the rest get `Busy`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken_s: deque[float] = deque()

    def take(self) -> None:
        """Take one of them; raises Busy."""
        now_s = monotonic()
        while self._taken_s and now_s - self._taken_s[0] >= MINUTE_S:
            self._taken_s.popleft()
        if len(self._taken_s) >= self._most:
            raise Busy(
                f"more than {self._most} voices a minute (VOICES_PER_MINUTE)",
                retry_after_s=math.ceil(MINUTE_S - (now_s - self._taken_s[0])),
            )
        self._taken_s.append(now_s)


class Admission:
    """Slots for `slots` requests and a queue for `queue_limit` more; the rest get `Busy`."""

    def __init__(
        self, *, slots: int, queue_limit: int, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.slots = slots
        self.queue_limit = queue_limit
        self._on_change = on_change
        self._held: set[Slot] = set()
        self._queue: deque[Slot] = deque()
        # A guess until the first request has ended; afterwards a running mean.
        self._mean_held_s = 2.0
        self._ended = 0
        self._refused_at_s = -math.inf

    @property
    def active(self) -> int:
        """Requests that have a slot."""
        return len(self._held)

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return len(self._queue)

    @property
    def is_contended(self) -> bool:
        """Whether somebody waits for a slot, or has just been refused one."""
        return self.queued > 0 or monotonic() - self._refused_at_s < CONTENDED_S

    def enter(self) -> Slot:
        """Take a slot or a position in the queue; raises Busy when both are full."""
        if self.active >= self.slots and self.queued >= self.queue_limit:
            self._refused_at_s = monotonic()
            retry_after_s = self._retry_after_s()
            raise Busy(
                f"all {self.slots} slots are speaking and {self.queued} requests wait; "
                f"try again in {retry_after_s} s",
                retry_after_s=retry_after_s,
            )
        slot = Slot(self)
        self._queue.append(slot)
        self._grant_free_slots()
        self._on_change()
        return slot

    def _retry_after_s(self) -> int:
        """When a slot is likely to be free behind the queue, in whole seconds.

        Differs from call to call, so that refused clients do not all come back at once.
        """
        # Each slot is held for the mean time; one that is overdue, for as long again as it is.
        ends_s = [abs(self._mean_held_s - slot.held_s) for slot in self._held]
        heapify(ends_s)
        for _ in self._queue:
            heapreplace(ends_s, ends_s[0] + self._mean_held_s)
        wait_s = min(LONGEST_RETRY_S, max(1.0, ends_s[0]))
        return math.ceil(wait_s * uniform(0.8, 1.2))  # noqa: S311 - no secret

    def leave(self, slot: Slot) -> None:
        """Free what `slot` holds; called by `Slot.release` once."""
        if slot.is_granted:
            self._held.remove(slot)
            self._ended += 1
            weight = max(0.1, 1 / self._ended)
            self._mean_held_s += weight * (slot.held_s - self._mean_held_s)
            self._grant_free_slots()
        else:
            self._queue.remove(slot)
        self._on_change()

    def _grant_free_slots(self) -> None:
        while self._queue and self.active < self.slots:
            slot = self._queue.popleft()
            self._held.add(slot)
            slot.grant()
