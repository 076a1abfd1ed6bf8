"""Rate limit: so many requests in a window, for each API key, or address without one."""

import math
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from time import time

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.types import Scope

from qwen_tts_service.errors import RateLimited

COUNT_REQUEST = "qwen_tts.count_request"
"""Set in the scope by `Front`: a coroutine function that counts a request of this client."""

MAX_KEYLESS_SOCKETS = 16
"""WebSockets of one address that may wait for their key; each may buffer a message meanwhile."""


def address_of(scope: Scope) -> str:
    """The client's address as limits count it: IPv6 by its /64, of which a client has every one."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return host


class RequestRate:
    """A window in memory for each client; a limit of "" allows everything."""

    def __init__(self, limit: str) -> None:
        self._words = limit
        self._limit = parse(limit) if limit else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def count(self, client: str) -> None:
        """Count one request of a client; raises RateLimited."""
        if self._limit is None or await self._limiter.hit(self._limit, client):
            return
        reset_s, _ = await self._limiter.get_window_stats(self._limit, client)
        wait_s = max(1, math.ceil(reset_s - time()))
        raise RateLimited(
            f"more than {self._words} requests (RATE_LIMIT); try again in {wait_s} s",
            retry_after_s=wait_s,
        )


class KeylessSockets:
    """How many WebSockets of each address wait for their key."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()

    def enter(self, address: str) -> Callable[[], None]:
        """Count one more; returns what ends its wait. Raises RateLimited."""
        if self._waiting[address] >= MAX_KEYLESS_SOCKETS:
            raise RateLimited(
                f"{MAX_KEYLESS_SOCKETS} WebSockets of this address wait for their API key; send it "
                "in the header Authorization, or in the first message at once",
                retry_after_s=1,
            )
        self._waiting[address] += 1
        has_left = False

        def leave() -> None:
            nonlocal has_left
            if not has_left:
                has_left = True
                self._waiting[address] -= 1
                self._waiting += Counter()  # forgets addresses that have none

        return leave
