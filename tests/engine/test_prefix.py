"""The prefix cache: a known prefix is not read again, and the samples are the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engine.harness import RUNNERS, endless, make_job, reported_mib, running, until, whole

from qwen_tts_service.engine.prefix import PrefixCache
from qwen_tts_service.errors import SynthesisFailed

both = pytest.mark.parametrize("runner", RUNNERS)


class Recording:
    """A runner that notes which rows of prompts are read."""

    def __init__(self, inner):
        self._inner = inner
        self.run_ahead = inner.run_ahead
        self.read = []

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def prefill(self, pieces):
        self.read += [(piece.start, piece.rows) for piece in pieces]
        self._inner.prefill(pieces)


async def rows_read(model, runner, jobs, **changes):
    """The rows that are read for each of the jobs, spoken one after another."""
    made = []

    def make(model, options):
        made.append(Recording(runner(model, options)))
        return made[0]

    read = []
    with running(model, runner=make, **changes) as engine:
        for job in jobs:
            await whole(engine, job)
            read.append(made[0].read)
            made[0].read = []
    return read


def prefix_rows_of(cache):
    return sum(keys.shape[1] for keys, _ in cache._entries.values())


def prefix_of(model, job):
    prompt = model.prompts.build(
        job.ids, speaker=job.speaker, language=job.language, instruct_ids=job.instruct_ids
    )
    return prompt.prefix_rows


@both
async def test_a_known_prefix_is_not_read_again(model, runner):
    job, other_text = make_job(model, 4), make_job(model, 4, ids=make_job(model, 1).ids)
    prefix = prefix_of(model, job)
    first, again, other = await rows_read(model, runner, [job, job, other_text])
    assert first[0] == (0, prefix)
    assert again == first[1:]
    assert other[0][0] == prefix


@both
async def test_with_text_that_comes_along_nothing_is_left_to_read(model, runner):
    job = make_job(model, 1, layout="streaming_text")
    first, again = await rows_read(model, runner, [job, job])
    assert first == [(0, prefix_of(model, job))]
    assert again == []


@both
@pytest.mark.parametrize("layout", ["full_text", "streaming_text"])
async def test_the_speech_is_the_same_to_the_bit(model, runner, layout):
    job = make_job(model, 3, layout=layout, max_frames=20)
    with running(model, runner=runner, deterministic=True, slots=2) as engine:
        first, again = await whole(engine, job), await whole(engine, job)
    with running(model, runner=runner, deterministic=True, slots=2, prefix_cache_rows=0) as engine:
        await whole(engine, job)
        without = await whole(engine, job)
    assert len(first) > 1920
    assert np.array_equal(first, again)
    assert np.array_equal(first, without)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"speaker": "ryan"}, id="speaker"),
        pytest.param({"language": "german"}, id="language"),
        pytest.param({"instruct_ids": (1, 2, 3)}, id="instruct"),
    ],
)
async def test_another_prefix_is_not_mistaken_for_it(model, change):
    job = make_job(model, 4, speaker="serena", language="auto", instruct_ids=())
    other = replace(job, **change)
    _, read = await rows_read(model, RUNNERS[0].values[0], [job, other])
    assert read[0] == (0, prefix_of(model, other))


@both
async def test_nothing_is_kept_of_a_failure(model, runner):
    job = make_job(model, 4)
    with endless(model, runner) as (engine, made):
        await whole(engine, job)
        cache = made._inner._slots.prefixes
        assert prefix_rows_of(cache) == prefix_of(model, job)
        made.failing.add("frame")
        with pytest.raises(SynthesisFailed):
            await whole(engine, job)
        await until(lambda: prefix_rows_of(cache) == 0)


def test_what_was_used_least_recently_goes_first():
    cache = PrefixCache(10)

    def put(name, rows):
        if cache.wants(name, rows):
            cache.put(name, (torch.zeros(2, rows, 1, 4),) * 2)

    put("a", 4)
    put("b", 4)
    assert cache.get("a") is not None
    put("c", 4)
    assert [cache.get(name) is not None for name in "abc"] == [True, False, True]
    put("long", 11)
    assert cache.get("long") is None
    assert not cache.wants("a", 4)
    put("d", 6)
    assert [cache.get(name) is not None for name in "acd"] == [False, True, True]
    cache.clear()
    put("whole", 10)
    assert cache.get("whole") is not None


def test_the_memory_of_prefixes_is_reported(model):
    sizes = [reported_mib(model, prefix_cache_rows=rows) for rows in (0, 1 << 16)]
    # Two layers, keys and values, two heads of 16, float32: 512 bytes a row.
    assert sizes[1] - sizes[0] == (1 << 16) * 512 >> 20
