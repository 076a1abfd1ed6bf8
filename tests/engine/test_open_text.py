"""A text that is still being written gives the samples of the whole text."""

from dataclasses import replace

import numpy as np
import pytest
from tests.engine.harness import RUNNERS, endless, make_job, read, running, until, whole

from qwen_tts_service.engine.job import TextFeed
from qwen_tts_service.engine.loop import TEXT_IDS_PER_STEP
from qwen_tts_service.types import SamplingOptions

TEXT = "one two three four five six seven eight nine ten"
RUNAWAY = 200
SAMPLING = SamplingOptions(temperature=1.0, top_k=0)  # the quick model ends late with seed 3


def whole_job(model, **changes):
    """The text all at once, in the layout for text that comes with the frames."""
    ids = tuple(model.tokenizer.encode(TEXT))
    usual = {"layout": "streaming_text", "max_frames": 60, "sampling": SAMPLING, "seed": 3}
    return make_job(model, 1, ids=ids, **{**usual, **changes})


def open_job(model, **changes):
    """The same with its first token only; returns the job and the ids still to come."""
    job = whole_job(model, **changes)
    text = job.ids[3:-5]
    ids = (*job.ids[:3], text[0], *job.ids[-5:])
    return replace(job, ids=ids, feed=TextFeed()), text[1:]


@pytest.fixture(scope="module")
async def expected(model):
    with running(model) as engine:
        samples = await whole(engine, whole_job(model))
    assert len(samples) > 47 * 1920, "it must go on behind the text, or nothing is proved"
    return samples


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_however_the_text_comes_the_speech_is_that_of_the_whole(
    model, expected, runner, size
):
    with running(model, runner=runner) as engine:
        job, rest = open_job(model)
        channel = engine.submit(job)
        for start in range(0, len(rest), size):
            steps = engine.statistics.steps
            job.feed.put(rest[start : start + size])
            await until(lambda: engine.statistics.steps > steps or channel.finish_reason)  # noqa: B023
        job.feed.finish(RUNAWAY)
        assert np.abs(await read(channel) - expected).max() <= 1e-5


@pytest.mark.parametrize("runner", RUNNERS)
async def test_it_speaks_as_far_as_the_text_goes_and_waits(model, expected, runner):
    with endless(model, runner, chunk_frames=(1,)) as (engine, made):
        job, rest = open_job(model)
        channel = engine.submit(job)
        job.feed.put(rest[:5])
        heard = aiter(channel)
        spoken = np.concatenate([await anext(heard) for _ in range(5)])
        await until(lambda: job.feed.is_awaited)
        assert engine.statistics.paused == 1
        assert len(made.rows) == 5
        assert channel.finish_reason is None
        await channel.aclose()
        assert np.abs(spoken - expected[: 5 * 1920]).max() <= 1e-5


async def test_others_speak_while_one_waits_for_its_text(model):
    with running(model) as engine:
        waiting = engine.submit(open_job(model)[0])
        await until(lambda: engine.statistics.paused == 1)
        spoken = await read(engine.submit(whole_job(model)))
        assert waiting.finish_reason is None
        await waiting.aclose()
        await until(lambda: engine.statistics.active == 0)
        assert len(spoken) > 0


async def test_a_finished_text_has_the_cap_of_its_length(model):
    with endless(model, RUNNERS[0].values[0]) as (engine, _):
        job, rest = open_job(model, max_frames=100)
        channel = engine.submit(job)
        job.feed.put(rest)
        job.feed.finish(30)
        samples = await read(channel)
        assert (len(samples), channel.finish_reason) == (30 * 1920, "runaway")


async def test_a_failure_while_text_is_read_fails_its_own_stream(model):
    with endless(model, RUNNERS[0].values[0]) as (engine, made):
        job, rest = open_job(model)
        failing, other = engine.submit(job), engine.submit(whole_job(model))
        await until(lambda: engine.statistics.active == 2)
        made.failing.add("append_text")
        job.feed.put(rest)
        with pytest.raises(Exception, match="failed while speaking"):
            await read(failing)
        assert len(await read(other)) == 60 * 1920


def test_a_feed_gives_its_end_with_the_last_of_its_text():
    feed = TextFeed()
    feed.put(range(TEXT_IDS_PER_STEP + 1))
    feed.finish(7)
    first, end = feed.take(TEXT_IDS_PER_STEP)
    assert (len(first), end) == (TEXT_IDS_PER_STEP, None)
    assert feed.take(TEXT_IDS_PER_STEP) == ([TEXT_IDS_PER_STEP], 7)
