"""The samples of a request depend on that request alone, whatever the batch."""

import asyncio
import random

import numpy as np
import pytest
from tests.engine.harness import RUNNERS, make_job, plain, read, running, until, whole

from qwen_tts_service.engine.job import Job
from qwen_tts_service.engine.slots import SlotTensors
from qwen_tts_service.kernels.linear import can_pack
from qwen_tts_service.model.qwen3_tts import Qwen3TTS

JOBS = 16
packed = pytest.mark.skipif(not can_pack(), reason="this torch has no packed kernels (not x86)")


@pytest.fixture(scope="module")
def jobs(model) -> list[Job]:
    return [make_job(model, number) for number in range(JOBS)]


@pytest.fixture(scope="module")
async def alone(model, jobs):
    """Every job's samples and end, spoken by itself."""
    with running(model) as engine:
        return [await speak_late(engine, job, 0) for job in jobs]


def assert_same(got, expected):
    """Equal codes give samples within 1e-5; a single other code gives other samples altogether."""
    samples, reason = got
    assert reason == expected[1]
    assert samples.shape == expected[0].shape
    assert np.abs(samples - expected[0]).max() <= 1e-5


async def speak_late(engine, job, after):
    """Speak a job once `after` frame steps have been made."""
    await until(lambda: engine.statistics.steps >= after)
    channel = engine.submit(job)
    return await read(channel), channel.finish_reason


async def test_different_jobs_differ(alone):
    # Otherwise equality below would say nothing.
    starts = {samples[:1920].tobytes() for samples, _ in alone}
    assert len(starts) == JOBS
    assert {reason for _, reason in alone} == {"stop", "length"}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("count", [2, 3, 5, 8, JOBS])
async def test_a_job_in_a_batch_gives_the_samples_it_gives_alone(model, jobs, alone, runner, count):
    with running(model, runner=runner) as engine:
        spoken = await asyncio.gather(*[speak_late(engine, job, 0) for job in jobs[-count:]])
        for got, expected in zip(spoken, alone[-count:], strict=True):
            assert_same(got, expected)


@pytest.mark.parametrize("runner", RUNNERS)
async def test_order_and_time_of_joining_change_nothing(model, jobs, alone, runner):
    order = random.Random(3).sample(range(JOBS), JOBS)
    with running(model, runner=runner, slots=5) as engine:
        late = [speak_late(engine, jobs[i], place) for place, i in enumerate(order)]
        for got, i in zip(await asyncio.gather(*late), order, strict=True):
            assert_same(got, alone[i])


@pytest.mark.parametrize("runner", RUNNERS)
async def test_requests_that_are_cancelled_change_no_other(model, jobs, alone, runner):
    with running(model, runner=runner) as engine:

        async def leave(job, after):
            channel = engine.submit(job)
            await until(lambda: engine.statistics.steps >= after)
            await channel.aclose()

        leaving = [leave(make_job(model, 50 + n), 1 + n) for n in range(8)]
        staying = [speak_late(engine, job, 0) for job in jobs[8:]]
        _, *spoken = await asyncio.gather(asyncio.gather(*leaving), *staying)
        for got, expected in zip(spoken, alone[8:], strict=True):
            assert_same(got, expected)


@pytest.mark.parametrize("runner", RUNNERS)
async def test_a_prompt_read_in_pieces_among_others_gives_the_same_speech(model, runner):
    long = make_job(model, 4, ids=tuple(model.tokenizer.encode("far too long " * 12)))
    pieces = {"prefill_piece_rows": 16, "prefill_rows_per_step": 16}
    with running(model, runner=runner, **pieces) as engine:
        expected = await speak_late(engine, long, 0)
        others = [speak_late(engine, make_job(model, n), 0) for n in range(6)]
        got, *_ = await asyncio.gather(speak_late(engine, long, 0), *others)
        assert_same(got, expected)


@pytest.mark.parametrize("runner", RUNNERS)
async def test_the_deterministic_mode_repeats_every_bit(model, jobs, runner):
    few = jobs[:4]
    with running(model, runner=runner, deterministic=True, slots=4) as engine:
        solo = [await speak_late(engine, job, 0) for job in few]
        together = await asyncio.gather(*[speak_late(engine, job, 0) for job in few])
    for (samples, reason), expected in zip(together, solo, strict=True):
        assert reason == expected[1]
        assert np.array_equal(samples, expected[0])


async def test_the_deterministic_mode_runs_rows_alone_where_company_changes_bits(
    quick_checkpoint, jobs, monkeypatch: pytest.MonkeyPatch
):
    # The tiny matrices are too small to show it: 1024 columns and more are summed by row count.
    model = Qwen3TTS.load(quick_checkpoint, linear="float")
    step, rows = model.talker.step, []
    read, prompts = SlotTensors.prefill, []
    monkeypatch.setattr(
        model.talker, "step", lambda x, *rest: rows.append(len(x)) or step(x, *rest)
    )
    monkeypatch.setattr(
        SlotTensors, "prefill", lambda of, pieces: prompts.append(len(pieces)) or read(of, pieces)
    )
    for deterministic in (False, True):
        with running(model, deterministic=deterministic) as engine:
            await asyncio.gather(*[speak_late(engine, job, 0) for job in jobs[:4]])
        assert max(rows) == (1 if deterministic else 4)
        assert (max(prompts) == 1) == deterministic
        rows.clear()
        prompts.clear()


@packed
async def test_int8_layers_are_as_independent(quick_checkpoint, jobs):
    # Here the smallest difference grows: a value near the middle of two steps takes the other.
    with running(Qwen3TTS.load(quick_checkpoint, linear="int8")) as engine:
        solo = [await speak_late(engine, job, 0) for job in jobs[:6]]
        together = await asyncio.gather(*[speak_late(engine, job, 0) for job in jobs[:6]])
        for expected, got in zip(solo, together, strict=True):
            assert_same(got, expected)


async def test_whatever_the_chunks_the_samples_are_the_same(model, jobs, alone):
    for ramp in [(1,), (8,), (3, 5)]:
        with running(model, runner=plain, chunk_frames=ramp) as engine:
            assert np.abs(await whole(engine, jobs[15]) - alone[15][0]).max() <= 1e-5
