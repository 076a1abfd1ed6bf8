"""The channel between a synthesis thread and the event loop."""

import asyncio
import threading
import time

import anyio
import numpy as np
import pytest

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import SynthesisFailed
from qwen_tts_service.types import Samples


def samples(count: int, value: float = 0.5) -> Samples:
    return np.full(count, value, np.float32)


async def read(channel: PcmChannel) -> list[int]:
    return [len(chunk) async for chunk in channel]


async def test_the_reader_gets_every_chunk_in_order_and_then_the_end() -> None:
    channel = PcmChannel(capacity_samples=10**6)

    def produce() -> None:
        for count in range(1, 200):
            channel.put(samples(count))
        channel.close()

    threading.Thread(target=produce).start()
    assert await asyncio.wait_for(read(channel), 10) == list(range(1, 200))
    assert channel.finish_reason == "stop"


async def test_a_full_channel_holds_the_producer_until_the_reader_takes() -> None:
    channel = PcmChannel(capacity_samples=100)
    most = 0

    def produce() -> None:
        nonlocal most
        for _ in range(50):
            while not channel.has_room:
                time.sleep(0.001)
            channel.put(samples(60))
            most = max(most, channel._waiting_samples)
        channel.close()

    threading.Thread(target=produce).start()
    assert sum(await asyncio.wait_for(read(channel), 10)) == 50 * 60
    assert most < 100 + 60


async def test_a_failure_comes_after_the_audio_before_it() -> None:
    channel = PcmChannel(capacity_samples=100)
    channel.put(samples(7))
    channel.fail(SynthesisFailed("it broke"))
    chunks = aiter(channel)
    assert len(await anext(chunks)) == 7
    with pytest.raises(SynthesisFailed, match="it broke"):
        await anext(chunks)
    assert channel.finish_reason == "error"


async def test_a_producer_sees_that_the_channel_was_closed_and_closing_twice_is_harmless() -> None:
    channel = PcmChannel(capacity_samples=10)
    channel.put(samples(10))
    assert not channel.is_cancelled
    await channel.aclose()
    await channel.aclose()
    assert channel.is_cancelled
    assert channel.finish_reason == "cancelled"


async def test_leaving_after_the_end_does_not_change_how_it_ended() -> None:
    channel = PcmChannel(capacity_samples=10)
    channel.put(samples(3))
    channel.close("length")
    await read(channel)
    await channel.aclose()
    assert channel.finish_reason == "length"


def test_a_producer_outlives_the_loop_of_its_reader() -> None:
    async def make() -> PcmChannel:
        return PcmChannel(capacity_samples=10)

    channel = anyio.run(make)  # a loop that has ended
    channel.put(samples(3))
    channel.close()
    assert channel.is_cancelled


async def test_what_is_put_after_the_end_is_dropped() -> None:
    channel = PcmChannel(capacity_samples=100)
    channel.put(samples(3))
    channel.close()
    channel.put(samples(5))
    assert channel._waiting_samples == 3
    assert await asyncio.wait_for(read(channel), 10) == [3]


@pytest.mark.parametrize("fails", [False, True])
async def test_closing_before_the_end_is_finish_reason_cancelled(fails: bool) -> None:
    channel = PcmChannel(capacity_samples=100)
    channel.put(samples(3))
    await channel.aclose()
    assert channel.is_cancelled
    if fails:
        channel.fail(SynthesisFailed("too late"))
    else:
        channel.close("length")
    assert channel.finish_reason == "cancelled"


async def test_a_closed_channel_passes_on_and_holds_nothing() -> None:
    channel = PcmChannel(capacity_samples=10)
    channel.put(samples(10))
    assert not channel.has_room
    await channel.aclose()
    assert (channel._waiting_samples, channel.has_room) == (0, True)
    channel.put(samples(4))
    assert channel._waiting_samples == 0
    assert await asyncio.wait_for(read(channel), 10) == []


async def test_closing_ends_a_waiting_reader() -> None:
    channel = PcmChannel(capacity_samples=10)
    reading = asyncio.create_task(read(channel))
    await asyncio.sleep(0)
    await channel.aclose()
    assert await asyncio.wait_for(reading, 10) == []


@pytest.mark.parametrize("fails", [False, True])
async def test_only_the_first_end_counts(fails: bool) -> None:
    channel = PcmChannel(capacity_samples=10)
    assert channel.finish_reason is None
    if fails:
        channel.fail(SynthesisFailed("first"))
    else:
        channel.close("length")
    channel.fail(SynthesisFailed("second"))
    channel.close("stop")
    assert channel.finish_reason == ("error" if fails else "length")
    if fails:
        with pytest.raises(SynthesisFailed, match="first"):
            await read(channel)
    else:
        assert await read(channel) == []


@pytest.mark.parametrize("end", ["put", "close", "fail"])
async def test_a_waiting_reader_is_woken(end: str) -> None:
    channel = PcmChannel(capacity_samples=10)
    waiting = asyncio.ensure_future(anext(aiter(channel), None))
    await asyncio.sleep(0)
    assert not waiting.done()
    if end == "put":
        channel.put(samples(4))
    elif end == "close":
        channel.close()
    else:
        channel.fail(SynthesisFailed("it broke"))
    done, _ = await asyncio.wait([waiting], timeout=10)
    assert done
    if end == "fail":
        assert isinstance(waiting.exception(), SynthesisFailed)
    else:
        assert (waiting.result() is None) == (end == "close")


@pytest.mark.parametrize(("count", "has_room"), [(0, True), (9, True), (10, False), (11, False)])
async def test_a_channel_is_full_at_its_capacity(count: int, has_room: bool) -> None:
    channel = PcmChannel(capacity_samples=10)
    channel.put(samples(count))
    assert channel._waiting_samples == count
    assert channel.has_room is has_room
    channel.close()
    assert await read(channel) == [count] * bool(count)
    assert (channel._waiting_samples, channel.has_room) == (0, True)


async def test_nothing_is_not_a_chunk() -> None:
    channel = PcmChannel(capacity_samples=10)
    channel.put(samples(0))
    channel.put(samples(2))
    channel.close()
    assert await asyncio.wait_for(read(channel), 10) == [2]
    assert channel.finish_reason == "stop"


async def test_there_is_room_at_once_in_an_empty_channel() -> None:
    assert PcmChannel(capacity_samples=1).has_room
