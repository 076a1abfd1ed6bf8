"""Disconnects, slow readers, runaways and failures concern one request, and nothing hangs."""

import asyncio
import threading

import numpy as np
import pytest
from tests.engine.harness import (
    OPTIONS,
    RUNNERS,
    WAIT_S,
    endless,
    make_job,
    plain,
    read,
    running,
    until,
    whole,
)

from qwen_tts_service.errors import InvalidRequest, NotReady, SynthesisFailed

FRAME = 1920
LONG = {"max_frames": 240, "runaway_frames": 240}

both = pytest.mark.parametrize("runner", RUNNERS)


@both
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        pytest.param({"max_frames": 9, "runaway_frames": 20}, "length", id="length"),
        pytest.param({"max_frames": 20, "runaway_frames": 9}, "runaway", id="runaway"),
    ],
)
async def test_a_limit_ends_the_speech_at_its_frame(model, runner, limits, reason):
    with endless(model, runner) as (engine, _):
        channel = engine.submit(make_job(model, 1, **limits))
        assert len(await read(channel)) == 9 * FRAME
        assert channel.finish_reason == reason


@both
async def test_silence_ends_the_speech(model, runner):
    with endless(model, runner, silence_s=0.8, silence_rms=1e-3) as (engine, made):
        channel = engine.submit(make_job(model, 1, **LONG))
        chunks = aiter(channel)
        await anext(chunks)
        made.silent = True
        before = len(made.rows)
        async for _ in chunks:
            pass
        assert channel.finish_reason == "runaway"
        # Ten silent frames, a chunk of 8 that they may begin in, and two steps under way.
        assert len(made.rows) - before <= 10 + 8 + 2


@both
async def test_speech_with_pauses_is_not_silence(model, runner):
    # Every chunk of two ends in a pause: 10 silent frames of 20, but never 3 in a row.
    options = {"silence_s": 0.24, "silence_rms": 1e-3, "chunk_frames": (2,)}
    with endless(model, runner, slots=1, **options) as (engine, made):
        made.pauses = True
        samples = await whole(engine, make_job(model, 1, max_frames=20))
    is_loud = np.abs(samples.reshape(20, FRAME)).max(axis=1) > 0
    assert is_loud.tolist() == [True, False] * 10


@both
async def test_a_client_that_leaves_frees_its_slot_within_one_frame(model, runner):
    with endless(model, runner, slots=1) as (engine, made):
        first = engine.submit(make_job(model, 1, **LONG))
        second = engine.submit(make_job(model, 2, max_frames=4))
        await anext(aiter(first))
        await first.aclose()
        frames = len(made.rows)
        await read(second)
        # One step may be under way at the moment of leaving, and one be ahead of that.
        assert len(made.rows) - frames <= 4 + 1 + made.run_ahead
        assert (first.finish_reason, second.finish_reason) == ("cancelled", "length")


@both
async def test_a_request_cancelled_while_waiting_is_never_spoken(model, runner):
    with endless(model, runner, slots=1) as (engine, made):
        first = engine.submit(make_job(model, 1, max_frames=20))
        second = engine.submit(make_job(model, 2, max_frames=20))
        await second.aclose()
        await read(first)
        await until(lambda: engine.statistics.waiting == 0)
        assert len(made.rows) == 20


@both
async def test_a_slow_reader_pauses_only_itself(model, runner):
    with endless(model, runner, max_lead_s=0.3) as (engine, made):
        slow = engine.submit(make_job(model, 1, max_frames=30))
        quick = engine.submit(make_job(model, 2, max_frames=30))
        assert len(await read(quick)) == 30 * FRAME
        await until(lambda: engine.statistics.paused == 1)
        # At most what the channel holds, and a chunk on its way.
        assert slow._waiting_samples <= 7_200 + 8 * FRAME
        steps = len(made.rows)
        assert len(await read(slow)) == 30 * FRAME
        assert len(made.rows) > steps
        assert slow.finish_reason == "length"


@both
async def test_a_pause_changes_no_sample(model, runner):
    job = make_job(model, 1, max_frames=30)
    with endless(model, runner) as (engine, _):
        expected = await whole(engine, job)
    with endless(model, runner, max_lead_s=0.3) as (engine, _):
        slow = engine.submit(job)
        others = [engine.submit(make_job(model, n, max_frames=30)) for n in (3, 4)]
        await asyncio.gather(*[read(other) for other in others])
        assert np.abs(await read(slow) - expected).max() <= 1e-5


@both
async def test_a_bad_job_fails_alone(model, runner):
    with running(model, runner=runner) as engine:
        good = engine.submit(make_job(model, 1))
        bad = engine.submit(make_job(model, 2, speaker="nobody"))
        long = engine.submit(make_job(model, 3, max_frames=10**6, runaway_frames=10**6))
        with pytest.raises(InvalidRequest) as refused:
            await read(bad)
        assert refused.value.param == "speaker"
        with pytest.raises(InvalidRequest) as refused:
            await read(long)
        assert refused.value.param == "text"
        assert len(await read(good))
        assert engine.statistics.failures == 0
        assert engine.is_healthy


@both
@pytest.mark.parametrize("call", ["begin", "prefill", "frame", "sound"])
async def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(model, runner, call):
    job = make_job(model, 1, max_frames=12)
    with endless(model, runner, max_failures=10**9, prefix_cache_rows=0) as (engine, made):
        expected = await whole(engine, job)

        made.failing.add(call)
        channels = [engine.submit(make_job(model, n, max_frames=20)) for n in range(4)]
        for channel in channels:
            with pytest.raises(SynthesisFailed):
                await read(channel)
            assert channel.finish_reason == "error"
        made.failing.clear()
        assert np.abs(await read(engine.submit(job)) - expected).max() <= 1e-5
        assert engine.statistics.failures > 0
        assert engine.is_healthy


@both
@pytest.mark.parametrize("call", ["begin", "prefill"])
async def test_a_request_that_cannot_start_leaves_the_others_speaking(model, runner, call):
    with endless(model, runner) as (engine, made):
        speaking = engine.submit(make_job(model, 1, max_frames=40))
        await anext(aiter(speaking))
        made.failing.add(call)
        with pytest.raises(SynthesisFailed):
            await read(engine.submit(make_job(model, 2)))
        made.failing.clear()
        await read(speaking)
        assert speaking.finish_reason == "length"


@both
async def test_failures_in_a_row_end_the_engine_and_all_its_streams(model, runner):
    with endless(model, runner, slots=2, max_failures=3) as (engine, made):
        channels = [engine.submit(make_job(model, n, **LONG)) for n in range(12)]
        await anext(aiter(channels[0]))
        made.failing.add("frame")
        for channel in channels:
            with pytest.raises(SynthesisFailed):
                await read(channel)
        await until(lambda: not engine.is_healthy)
        with pytest.raises(SynthesisFailed):
            await read(engine.submit(make_job(model, 1)))


@both
async def test_closing_fails_what_is_open(model, runner):
    with endless(model, runner, slots=1) as (engine, _):
        speaking = engine.submit(make_job(model, 1, **LONG))
        waiting = engine.submit(make_job(model, 2))
        await anext(aiter(speaking))
        await asyncio.to_thread(engine.close)
        for channel in (speaking, waiting, engine.submit(make_job(model, 3))):
            with pytest.raises(NotReady):
                await read(channel)
        assert not engine.is_healthy


async def test_a_step_that_hangs_makes_the_engine_unhealthy(model):
    released = threading.Event()

    class Stuck:
        run_ahead = 0

        def begin(self, slot, job):
            released.wait(WAIT_S)
            raise RuntimeError("too late")

    with running(model, runner=lambda *_: Stuck(), stall_s=0.05) as engine:
        channel = engine.submit(make_job(model, 1))
        await until(lambda: not engine.is_healthy)
        released.set()
        with pytest.raises(SynthesisFailed):
            await read(channel)


async def test_the_first_audio_comes_after_one_frame(model):
    with endless(model, plain) as (engine, _):
        channel = engine.submit(make_job(model, 1, **LONG))
        first = await anext(aiter(channel))
        assert len(first) == FRAME
        await channel.aclose()


async def test_chunks_follow_the_ramp_when_there_is_time(model):
    with running(model, deterministic=True) as engine:
        channel = engine.submit(make_job(model, 6, max_frames=30))
        sizes = [len(chunk) // FRAME async for chunk in channel]
    ramp = [1, 1, 2, 4, 8, 8, 8, 8]
    assert sizes[:-1] == ramp[: len(sizes) - 1]
    assert sizes[-1] <= ramp[len(sizes) - 1]


async def test_more_jobs_than_slots_are_all_spoken(model):
    with endless(model, plain, slots=3) as (engine, made):
        jobs = [make_job(model, n, max_frames=5) for n in range(10)]
        spoken = await asyncio.gather(*[read(engine.submit(job)) for job in jobs])
        assert [len(samples) for samples in spoken] == [5 * FRAME] * 10
        assert max(len(rows) for rows in made.rows) == 3


def test_graphs_of_all_sizes_are_made_at_the_start(model):
    from tests.engine.harness import RecordingDriver

    from qwen_tts_service.engine.graphs import GraphRunner

    driver, told = RecordingDriver(), []
    GraphRunner(model, OPTIONS, driver, lambda step, done: told.append((step, done)))
    # Buckets 1, 2, 4, 8, 16; each with and without the full sort, and four sizes of chunks.
    # Prompts in pieces of 16, 32 and 64 rows, up to position 256 and beyond. One to begin.
    assert driver.captured.count("frames") == 10 + 6 + 1
    assert driver.captured.count("bulk") == 20
    assert driver.captured.count("first") == 5
    assert told[0] == ("capturing graphs", 0.0)
    assert told[-1] == ("capturing graphs", 1.0)
    assert told == sorted(told)
