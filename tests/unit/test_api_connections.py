"""Unfinished bodies share a bound; limits follow the descriptors that are left."""

import resource
from typing import Any

import pytest

from qwen_tts_service.api.call import Call
from qwen_tts_service.api.connections import (
    FREE_BODY_BYTES,
    SHARED_BODY_BYTES,
    ConnectionLimits,
    UnfinishedBodies,
)
from qwen_tts_service.errors import Busy
from qwen_tts_service.settings import load_settings

pytestmark = pytest.mark.anyio


class Sender:
    """A client that sends a body in parts of a size."""

    def __init__(self, bodies: UnfinishedBodies) -> None:
        self.call = Call("id")
        self.part: Any = None
        self._receive = bodies.bounded(self._next, self.call)

    async def _next(self) -> Any:
        return self.part

    async def send(self, size: int, *, is_last: bool = False) -> None:
        self.part = {"type": "http.request", "body": bytes(size), "more_body": not is_last}
        assert await self._receive() is self.part


async def test_large_bodies_share_their_room_and_small_ones_always_have_it() -> None:
    bodies = UnfinishedBodies(0)
    large, other, small = Sender(bodies), Sender(bodies), Sender(bodies)
    await large.send(SHARED_BODY_BYTES)
    await large.send(FREE_BODY_BYTES)
    await other.send(FREE_BODY_BYTES)
    with pytest.raises(Busy):
        await other.send(1)
    await small.send(FREE_BODY_BYTES)
    await small.send(SHARED_BODY_BYTES, is_last=True)
    await large.send(1, is_last=True)
    await other.send(SHARED_BODY_BYTES - 1)
    with pytest.raises(Busy):
        await Sender(bodies).send(FREE_BODY_BYTES + 1)
    other.call.end()
    await Sender(bodies).send(SHARED_BODY_BYTES + FREE_BODY_BYTES)


@pytest.mark.parametrize(("files", "most"), [(10, 1), (50 + 32 + 8 + 3, 3), (100_000, 1000)])
def test_connections_are_fewer_where_few_files_may_be_open(
    files: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (files, files))
    monkeypatch.setattr("psutil.Process.num_fds", lambda _self: 50)
    assert ConnectionLimits.of(load_settings({})).most == most
