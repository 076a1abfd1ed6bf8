"""Parts and silences as one stream: order, ends, failures, closing."""

import asyncio
from contextlib import aclosing
from functools import partial

import numpy as np
import pytest

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import NotReady, SynthesisFailed
from qwen_tts_service.speech.sequence import PartSequence
from qwen_tts_service.text.segments import Pause

RATE_HZ = 1000
GAP = Pause(0.3, is_gap=True)
FRAME_SAMPLES = 80
OPEN = None
"""Stands for a part that is still being made."""


class FakeVoice:
    """A voice whose utterances are lists: samples of one value each, or how the part ends."""

    def __init__(self):
        self.started = []
        self.channels = []

    def speak(self, utterance):
        self.started.append(utterance)
        channel = PcmChannel(capacity_samples=10**9)
        self.channels.append(channel)
        for item in utterance:
            if isinstance(item, Exception):
                channel.fail(item)
            elif isinstance(item, str):
                channel.close(item)
            elif item is not OPEN:
                channel.put(np.full(item, len(self.started), np.float32))
        if OPEN not in utterance:
            channel.close()
        return channel


def stream_of(voice, *parts, max_frames=1000):
    starts = (part if isinstance(part, Pause) else partial(voice.speak, part) for part in parts)
    stream = PartSequence(starts, sample_rate_hz=RATE_HZ, max_frames=max_frames)
    stream.finish()
    return stream


async def collect(stream):
    chunks = [chunk async for chunk in stream]
    assert all(len(chunk) for chunk in chunks)
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


async def speak(*parts, **limits):
    """All samples, the finish reason, and the voice."""
    voice = FakeVoice()
    stream = stream_of(voice, *parts, **limits)
    return await collect(stream), stream.finish_reason, voice


def runs(samples):
    """[(value, how many in a row), ...]"""
    borders = np.flatnonzero(np.diff(samples)) + 1
    return [(int(run[0]), len(run)) for run in np.split(samples, borders) if len(run)]


async def test_parts_and_silences_come_in_order():
    heard, reason, _ = await speak(Pause(0.1), (30, 20), Pause(0.05), Pause(2.0), (10,), Pause(0.3))
    assert runs(heard) == [(0, 100), (1, 50), (0, 2050), (2, 10), (0, 300)]
    assert reason == "stop"


@pytest.mark.parametrize(("duration_s", "samples"), [(0.001, 1), (1.001, 1001), (0.57, 570)])
async def test_no_sample_of_a_silence_is_lost(duration_s, samples):
    heard, _, _ = await speak((10,), Pause(duration_s), (10,))
    assert runs(heard) == [(1, 10), (0, samples), (2, 10)]


async def test_silence_before_a_part_that_never_sounds_is_not_heard():
    heard, reason, _ = await speak((10,), Pause(0.1), ("runaway",))
    assert (runs(heard), reason) == ([(1, 10)], "runaway")


@pytest.mark.parametrize(("parts", "end"), [(((10,),), "stop"), (((200,),), "length")])
async def test_closing_after_the_end_keeps_the_finish_reason(parts, end):
    stream = stream_of(FakeVoice(), *parts, max_frames=2)
    await collect(stream)
    await stream.aclose()
    assert stream.finish_reason == end


async def test_silence_comes_in_chunks_of_a_second_at_most():
    stream = stream_of(FakeVoice(), (10,), Pause(10.0), Pause(10.0))
    assert max([len(chunk) async for chunk in stream]) == RATE_HZ


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param(((100,), (100,)), [(1, 100), (2, 60)], id="in-a-part"),
        pytest.param(((160,), (100,)), [(1, 160)], id="between-parts"),
        pytest.param(((100,), Pause(0.5), (9,)), [(1, 100), (0, 60)], id="in-a-silence"),
        pytest.param(((100,), Pause(0.06), (9,)), [(1, 100), (0, 60)], id="after-a-silence"),
        pytest.param(((100,), Pause(0.5)), [(1, 100), (0, 60)], id="in-the-last-silence"),
    ],
)
async def test_all_parts_share_max_frames(parts, expected):
    heard, reason, voice = await speak(*parts, max_frames=2)
    assert runs(heard) == expected
    assert reason == "length"
    assert all(channel.is_cancelled for channel in voice.channels[-1:])


async def test_a_speech_that_ends_with_the_last_frame_ends_with_stop():
    heard, reason, _ = await speak((80,), Pause(0.04), (40,), max_frames=2)
    assert len(heard) == 2 * FRAME_SAMPLES
    assert reason == "stop"


@pytest.mark.parametrize("end", ["length", "runaway"])
async def test_a_part_with_another_finish_reason_than_stop_ends_the_whole(end):
    heard, reason, voice = await speak((10,), (10, end), (10,))
    assert runs(heard) == [(1, 10), (2, 10)]
    assert reason == end
    assert len(voice.started) == 2


async def test_a_part_that_fails_fails_the_whole():
    voice = FakeVoice()
    stream = stream_of(voice, (10,), (10, SynthesisFailed("no")), (10,))
    with pytest.raises(SynthesisFailed):
        await collect(stream)
    assert (stream.finish_reason, len(voice.started)) == ("error", 2)


async def test_a_voice_that_is_closed_meanwhile_fails_the_whole():
    class Closing(FakeVoice):
        def speak(self, utterance):
            if utterance == "late":
                raise NotReady("the service is stopping")
            return super().speak(utterance)

    stream = stream_of(Closing(), (5,), "late", max_frames=99)
    with pytest.raises(NotReady):
        await collect(stream)
    assert stream.finish_reason == "error"


async def test_nothing_is_heard_before_the_first_part_has_started():
    stream = stream_of(FakeVoice(), Pause(1.0), (SynthesisFailed("no"),))
    with pytest.raises(SynthesisFailed):
        await anext(aiter(stream))


async def test_a_part_starts_when_the_previous_one_has_ended():
    voice = FakeVoice()
    chunks = aiter(stream_of(voice, (10, 10), (10,)))
    await anext(chunks)
    await anext(chunks)
    assert len(voice.started) == 1
    await anext(chunks)
    assert len(voice.started) == 2


async def test_closing_stops_the_current_part_and_starts_no_other():
    voice = FakeVoice()
    stream = stream_of(voice, (10, OPEN), (10,))
    chunks = aiter(stream)
    await anext(chunks)
    waiting = asyncio.create_task(anext(chunks, None))
    await asyncio.sleep(0)
    await stream.aclose()
    await stream.aclose()
    more, reason = await waiting, stream.finish_reason
    assert more is None
    assert reason == "cancelled"
    assert len(voice.started) == 1
    assert voice.channels[0].is_cancelled


async def test_closing_in_a_silence_ends_it():
    stream = stream_of(FakeVoice(), (10,), Pause(10.0), (10,))
    async with aclosing(stream):
        chunks = aiter(stream)
        await anext(chunks)
        assert not (await anext(chunks)).any()
    assert ([chunk async for chunk in chunks], stream.finish_reason) == ([], "cancelled")


async def test_closing_an_unread_stream_starts_nothing():
    voice = FakeVoice()
    stream = stream_of(voice, (10,), (10,))
    await stream.aclose()
    assert not (await collect(stream)).size
    assert stream.finish_reason == "cancelled"
    assert not voice.started


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param([[5], GAP, [5]], [5, 300, 5], id="between"),
        pytest.param([[5], GAP, []], [5], id="silent-last"),
        pytest.param([[], GAP, [5]], [5], id="silent-first"),
        pytest.param([[5], GAP, [], GAP, [5]], [5, 300, 5], id="silent-between"),
        pytest.param([[5], Pause(0.1), GAP, []], [5, 100], id="pause-stays"),
        pytest.param([[5], GAP, Pause(0.1), [5]], [5, 400, 5], id="gap-and-pause"),
    ],
)
async def test_a_gap_is_heard_only_between_two_sounds(parts, expected):
    heard = await collect(stream_of(FakeVoice(), *parts))
    lengths = [len(run) for run in np.split(heard, np.flatnonzero(np.diff(heard)) + 1)]
    assert lengths == expected
