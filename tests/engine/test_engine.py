"""The engine around its loop: who may call it, start and end, health and statistics."""

import threading
from dataclasses import astuple, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.engine.harness import OPTIONS, WAIT_S, make_job, read, running, until, whole
from tests.engine.test_steps import Script

from qwen_tts_service.engine import engine as module
from qwen_tts_service.engine.engine import Engine, choose_runner
from qwen_tts_service.engine.job import TextFeed
from qwen_tts_service.engine.prefix import PrefixCache
from qwen_tts_service.engine.runner import PlainRunner
from qwen_tts_service.engine.threads import on_a_thread_that_ends
from qwen_tts_service.errors import InvalidRequest, NotReady

FRAME = 4  # of a scripted runner
# `run_whole` waits as long as it takes, and an engine that is broken may take for ever.
pytestmark = pytest.mark.timeout(WAIT_S, func_only=True)


def scripted(script):
    return lambda _model, _options: script


def test_a_whole_speech_is_all_its_samples(model):
    with running(model, runner=scripted(Script(level=lambda f: 1.0 + f))) as engine:
        samples = engine.run_whole(make_job(model, 0, max_frames=3))
    assert samples.dtype == np.float32
    assert samples.tolist() == [1.0] * FRAME + [2.0] * FRAME + [3.0] * FRAME


def test_a_speech_of_nothing_is_no_samples(model):
    job = make_job(model, 0)
    with running(model, runner=scripted(Script(lasts={job.seed: 0}))) as engine:
        samples = engine.run_whole(job)
    assert (samples.dtype, len(samples)) == (np.float32, 0)


def test_a_whole_speech_raises_what_ended_it(model):
    with running(model, runner=scripted(Script())) as engine, pytest.raises(InvalidRequest):
        engine.run_whole(make_job(model, 0, speaker="nobody"))


@pytest.mark.parametrize(("lead_s", "capacity"), [(8.0, 192_000), (0.5, 12_000)])
async def test_a_channel_holds_as_many_seconds_as_it_may(model, lead_s, capacity):
    async def room(engine, samples):
        channel = engine.submit(make_job(model, 0))
        await channel.aclose()
        fresh = type(channel)(capacity_samples=channel._capacity_samples)
        fresh.put(np.zeros(samples, np.float32))
        return fresh.has_room

    with running(model, runner=scripted(Script()), max_lead_s=lead_s) as engine:
        assert await room(engine, capacity - 1)
        assert not await room(engine, capacity)


def test_an_engine_that_has_done_nothing_has_counted_nothing(model):
    with running(model, runner=scripted(Script())) as engine:
        assert not any(astuple(engine.statistics))


async def test_the_statistics_are_those_of_every_step(model):
    seen = []
    options = replace(OPTIONS, slots=2)
    engine = Engine(model, options, on_step=seen.append, runner=Script())
    await whole(engine, make_job(model, 0, max_frames=5))
    await until(lambda: len(seen) >= 5)
    assert engine.statistics.frames == 5
    engine.close()
    assert [statistics.frames for statistics in seen][:5] == [1, 2, 3, 4, 5]


def test_closing_ends_the_thread_and_may_be_repeated(model):
    with running(model, runner=scripted(Script())) as engine:
        assert engine.is_healthy
        assert engine._thread.is_alive()
        assert engine._thread.daemon
        engine.close()
        assert not engine._thread.is_alive()
        engine.close()
        assert not engine.is_healthy
        with pytest.raises(NotReady, match="stopping"):
            engine.run_whole(make_job(model, 0))


def test_an_engine_is_stuck_when_its_step_takes_longer_than_it_may(
    model, monkeypatch: pytest.MonkeyPatch
):
    with running(model, runner=scripted(Script()), stall_s=120.0) as engine:
        for busy_s, is_healthy in [(None, True), (119.9, True), (120.1, False)]:
            clock = SimpleNamespace(perf_counter=lambda: 1000.0)
            monkeypatch.setattr(module, "time", clock)
            engine._loop.busy_since_s = None if busy_s is None else 1000.0 - busy_s
            assert engine.is_healthy is is_healthy
        engine._loop.busy_since_s = None


@pytest.mark.parametrize("threads", [None, 3])
def test_torch_has_as_many_threads_as_it_may(model, monkeypatch: pytest.MonkeyPatch, threads):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with running(model, runner=scripted(Script()), threads=threads) as engine:
        engine.run_whole(make_job(model, 0, max_frames=1))
    assert asked == ([] if threads is None else [threads])


def test_steps_are_made_on_a_thread_without_gradients(model):
    script, noted = Script(), []
    begin = script.begin

    def noting(slot, job):
        noted.append((threading.current_thread().name, torch.is_inference_mode_enabled()))
        return begin(slot, job)

    script.begin = noting
    with running(model, runner=scripted(script)) as engine:
        engine.run_whole(make_job(model, 0, max_frames=1))
    assert noted == [("engine", True)]


def test_without_a_runner_the_device_chooses_it(model, monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(module, "choose_runner", lambda *given: (made.append(given), Script())[1])

    def report(_step, _fraction):
        pass

    engine = Engine(model, OPTIONS, on_progress=report)
    engine.close()
    assert made == [(model, OPTIONS, report)]


def test_the_runner_fits_the_device(model, monkeypatch: pytest.MonkeyPatch):
    options = replace(OPTIONS, slots=1)
    assert isinstance(choose_runner(model, options, print), PlainRunner)
    monkeypatch.setattr(module, "choose_driver", lambda device: ("driver", device))
    monkeypatch.setattr(module, "GraphRunner", lambda *given: given)
    device = torch.device("cuda", 0)
    on_cuda = replace(model, device=device)
    assert choose_runner(on_cuda, options, print) == (on_cuda, options, ("driver", device), print)


def test_work_is_done_on_a_thread_that_has_ended_afterwards():
    def work(number, *, more):
        return threading.current_thread(), number + more

    thread, answer = on_a_thread_that_ends(work, 3, more=4)
    assert answer == 7
    assert thread is not threading.current_thread()
    assert thread.name.startswith("load")
    assert not thread.is_alive()


def test_an_error_on_such_a_thread_is_raised():
    def fail():
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        on_a_thread_that_ends(fail)


@pytest.mark.parametrize(
    ("most", "taken", "runaway"),
    [
        pytest.param(2, [1, 2], None, id="some of it"),
        pytest.param(3, [1, 2, 3], 9, id="just all"),
        pytest.param(4, [1, 2, 3], 9, id="less than asked for"),
        pytest.param(0, [], None, id="nothing"),
    ],
)
def test_a_feed_gives_text_in_order(most, taken, runaway):
    feed = TextFeed()
    feed.put([1])
    feed.put([2, 3])
    feed.finish(9)
    assert feed.take(most) == (taken, runaway)


def test_a_feed_that_is_empty_but_not_complete_has_no_end():
    feed = TextFeed()
    assert feed.take(5) == ([], None)
    feed.finish(0)
    assert feed.take(5) == ([], 0)


def test_a_cache_without_room_wants_nothing():
    assert not PrefixCache(0).wants("a", 1)
    assert PrefixCache(1).wants("a", 1)
    assert PrefixCache(1).get("a") is None


def test_an_entry_that_fills_the_cache_drives_out_as_many_as_it_must():
    cache = PrefixCache(6)
    entries = {
        name: (torch.zeros(2, rows, 1, 4),) * 2
        for name, rows in zip("abcd", (2, 2, 2, 3), strict=True)
    }
    for name, entry in entries.items():
        cache.put(name, entry)
    assert [cache.get(name) is not None for name in "abcd"] == [False, False, True, True]
    assert cache.get("d") is entries["d"]


async def test_a_reader_gets_an_end_that_the_loop_gave(model):
    with running(model, runner=scripted(Script())) as engine:
        channel = engine.submit(make_job(model, 0, max_frames=2))
        assert len(await read(channel)) == 2 * FRAME
        assert channel.finish_reason == "length"
