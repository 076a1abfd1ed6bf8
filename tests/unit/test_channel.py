"""The channel between a synthesis thread and the event loop."""

import asyncio
import threading

import numpy as np
import pytest

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import SynthesisFailed
from qwen_tts_service.types import Samples


def samples(count: int, value: float = 0.5) -> Samples:
    return np.full(count, value, np.float32)


async def read(channel: PcmChannel) -> list[int]:
    return [len(chunk) async for chunk in channel]


def test_the_reader_gets_every_chunk_in_order_and_then_the_end() -> None:
    async def run() -> None:
        channel = PcmChannel(capacity_samples=10**6)

        def produce() -> None:
            for count in range(1, 200):
                channel.put(samples(count))
            channel.close()

        threading.Thread(target=produce).start()
        assert await asyncio.wait_for(read(channel), 10) == list(range(1, 200))
        assert channel.finish_reason == "stop"

    asyncio.run(run())


def test_a_full_channel_holds_the_producer_until_the_reader_takes() -> None:
    async def run() -> None:
        channel = PcmChannel(capacity_samples=100)
        most = 0

        def produce() -> None:
            nonlocal most
            for _ in range(50):
                if not channel.wait_for_room():
                    return
                channel.put(samples(60))
                most = max(most, channel.waiting_samples)
            channel.close()

        threading.Thread(target=produce).start()
        assert sum(await asyncio.wait_for(read(channel), 10)) == 50 * 60
        assert most < 100 + 60

    asyncio.run(run())


def test_a_failure_comes_after_the_audio_before_it() -> None:
    async def run() -> None:
        channel = PcmChannel(capacity_samples=100)
        channel.put(samples(7))
        channel.fail(SynthesisFailed("it broke"))
        chunks = aiter(channel)
        assert len(await anext(chunks)) == 7
        with pytest.raises(SynthesisFailed, match="it broke"):
            await anext(chunks)
        assert channel.finish_reason == "error"

    asyncio.run(run())


def test_a_reader_who_leaves_frees_a_producer_that_waits() -> None:
    async def run() -> None:
        channel = PcmChannel(capacity_samples=10)
        channel.put(samples(10))
        answers: list[bool] = []
        producer = threading.Thread(target=lambda: answers.append(channel.wait_for_room()))
        producer.start()
        await channel.aclose()
        await channel.aclose()
        await asyncio.to_thread(producer.join, 10)
        assert answers == [False]
        assert channel.finish_reason == "cancelled"

    asyncio.run(run())


def test_leaving_after_the_end_does_not_change_how_it_ended() -> None:
    async def run() -> None:
        channel = PcmChannel(capacity_samples=10)
        channel.put(samples(3))
        channel.close("length")
        await read(channel)
        await channel.aclose()
        assert channel.finish_reason == "length"

    asyncio.run(run())


def test_a_producer_outlives_the_loop_of_its_reader() -> None:
    async def make() -> PcmChannel:
        return PcmChannel(capacity_samples=10)

    channel = asyncio.run(make())
    channel.put(samples(3))
    channel.close()
    assert channel.is_cancelled
