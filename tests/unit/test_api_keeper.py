"""A voice that nobody needs is unloaded, and loaded again once for all who want it."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.unit.waiting import WAIT_S, until

from qwen_tts_service.api import keeper as keeper_module
from qwen_tts_service.api.errors import response_of
from qwen_tts_service.api.keeper import VoiceKeeper
from qwen_tts_service.errors import NotReady, StartupError, SynthesisFailed


class FakeVoice:
    """A synthesizer with a voice, as far as a keeper looks."""

    def __init__(self, said: list[Any]) -> None:
        self.voice = SimpleNamespace(is_healthy=True)
        self.said = said
        self.circle: FakeVoice | None = None

    def close(self) -> None:
        self.said.append("close")


class Kept:
    """A keeper, and what happens to its voices; it unloads when the clock is put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keep_alive_s: float | None = 60) -> None:
        self.said: list[Any] = []
        self.voices: list[weakref.ref[FakeVoice]] = []
        self.may_load = threading.Event()
        self.may_load.set()
        self.error: Exception | None = None
        self.now_s = 1000.0
        monkeypatch.setattr(keeper_module, "monotonic", lambda: self.now_s)
        load: Any = self.load
        self.keeper = VoiceKeeper(load, keep_alive_s=keep_alive_s, release=self.release)
        self.keeper.start(lambda: self.said.append("failure"))
        until(lambda: self.keeper.stage.status != "starting")

    def load(self, report: Callable[[str, float], None]) -> FakeVoice:
        report("pretending", 0.5)
        self.said.append("load")
        assert self.may_load.wait(WAIT_S)
        if self.error:
            raise self.error
        voice = FakeVoice(self.said)
        self.voices.append(weakref.ref(voice))
        return voice

    def release(self) -> None:
        self.said.append(("release", self.voices[-1]()))  # None: the voice is gone

    def pass_time(self, seconds: float = 61.0) -> None:
        self.now_s += seconds
        with self.keeper._changed:
            self.keeper._changed.notify_all()

    def unload(self) -> "Kept":
        self.pass_time()
        until(lambda: ("release", None) in self.said)
        self.said.clear()
        return self


def gauges() -> tuple[float | None, float | None]:
    return REGISTRY.get_sample_value("tts_ready"), REGISTRY.get_sample_value("tts_loaded")


@pytest.fixture
def kept(modules_stay_frozen: None, monkeypatch: pytest.MonkeyPatch) -> Kept:
    return Kept(monkeypatch)


def test_an_idle_voice_is_closed_and_gone_before_its_memory_is_given_back(kept: Kept) -> None:
    assert kept.keeper.synthesizer
    assert gauges() == (1, 1)
    kept.pass_time(59)
    kept.pass_time(2)
    until(lambda: len(kept.said) == 3)
    assert kept.said == ["load", "close", ("release", None)]
    assert kept.keeper.stage.status == "unloaded"
    assert kept.keeper.stage.takes_requests
    assert gauges() == (1, 0)
    kept.keeper.check_ready()
    with pytest.raises(NotReady, match="unloaded: the next request loads the voice"):
        _ = kept.keeper.synthesizer


def test_a_voice_that_was_frozen_is_collected_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(monkeypatch)
    voice = kept.voices[0]()
    assert voice is not None
    voice.circle = voice  # as an engine has them
    del voice
    gc.freeze()
    kept.said.clear()
    try:
        kept.pass_time()
        until(lambda: len(kept.said) == 2)
        assert kept.said[1] == ("release", None)
    finally:
        gc.freeze()  # as tests/conftest.py does


def test_a_voice_is_not_unloaded_while_it_is_held_and_then_has_its_time(kept: Kept) -> None:
    with ExitStack() as first:
        with ExitStack() as second:
            kept.keeper.hold(first.callback)
            kept.keeper.hold(second.callback)
            kept.pass_time()
        kept.pass_time()
        kept.said.append("the last goes")
    kept.pass_time(59)
    kept.said.append("59 s later")
    kept.pass_time(1)
    until(lambda: ("release", None) in kept.said)
    assert kept.said[:4] == ["load", "the last goes", "59 s later", "close"]


async def wake(kept: Kept) -> Any:
    with ExitStack() as at_end:
        return await kept.keeper.wake(at_end.callback)


async def test_all_who_come_at_once_wait_for_one_load(kept: Kept) -> None:
    kept.unload().may_load.clear()
    waiting = [asyncio.create_task(wake(kept)) for _ in range(5)]
    await asyncio.to_thread(until, lambda: kept.keeper.stage.step == "pretending")
    assert (kept.keeper.stage.status, kept.keeper.stage.progress) == ("loading", 0.5)
    waiting.append(asyncio.create_task(wake(kept)))
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    kept.may_load.set()
    voices = await asyncio.gather(*waiting)
    assert set(voices) == {kept.keeper.synthesizer}
    assert kept.said == ["load"]
    assert gauges() == (1, 1)


async def test_a_loaded_voice_is_there_at_once(kept: Kept) -> None:
    assert await wake(kept) is kept.keeper.synthesizer
    assert kept.said == ["load"]


async def test_a_voice_that_was_loaded_again_is_unloaded_again(kept: Kept) -> None:
    for _ in range(2):
        kept.unload()
        assert await wake(kept) is kept.keeper.synthesizer
        gc.collect()


async def test_who_waits_too_long_is_told_to_come_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "LOAD_WAIT_S", 0.01)
    kept.unload().may_load.clear()
    with pytest.raises(NotReady, match="not loaded within") as caught:
        await wake(kept)
    answer = response_of(caught.value)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    kept.may_load.set()
    await asyncio.to_thread(until, lambda: kept.keeper.stage.status == "ready")
    assert await wake(kept)
    assert kept.said == ["load"]


@pytest.mark.parametrize("error", [StartupError("too little memory"), RuntimeError("no")])
async def test_a_voice_that_cannot_be_loaded_again_is_tried_at_the_next_request(
    kept: Kept, error: Exception
) -> None:
    kept.unload().error = error
    for _ in range(2):
        with pytest.raises(NotReady, match=r"unloaded: .* the log has the reason|loading"):
            await wake(kept)
        await asyncio.to_thread(until, lambda: "could not" in kept.keeper.stage.step)
    kept.error = None
    assert await wake(kept) is kept.keeper.synthesizer
    assert kept.said == ["load", ("release", None)] * 2 + ["load"]


def test_a_first_load_that_fails_is_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)
    said: list[str] = []

    def load(_report: Any) -> Any:
        raise StartupError("16 slots need 20 GiB")

    keeper = VoiceKeeper(load)
    keeper.start(lambda: said.append(keeper.stage.status))
    until(lambda: said)
    assert said == ["failed"]
    assert caplog.messages == ["the voice could not be loaded: 16 slots need 20 GiB"]
    assert caplog.records[0].exc_info is None


def test_a_load_that_stands_still_is_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)
    monkeypatch.setattr(keeper_module, "LOAD_STALL_S", 0.2)
    said: list[str] = []
    is_over = threading.Event()

    def load(report: Any) -> Any:
        report("loading the networks", 0.1)
        is_over.wait(WAIT_S)
        return FakeVoice(said)

    keeper = VoiceKeeper(load)
    keeper.start(lambda: said.append(keeper.stage.status))
    until(lambda: said)
    assert said == ["failed"]
    assert "no progress for 0.2 s at loading the networks" in caplog.text
    is_over.set()
    until(lambda: "close" in said)  # it comes too late
    assert keeper.stage.status == "failed"


@pytest.mark.parametrize("error", [SynthesisFailed("no sound"), MemoryError()])
def test_a_failure_that_is_foreseen_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)
    said: list[str] = []

    def load(_report: Any) -> Any:
        raise error

    VoiceKeeper(load).start(lambda: said.append("failure"))
    until(lambda: said)
    shown = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert len(shown) == 1
    assert shown[0].exc_info is None


def thread_of(kept: Kept) -> threading.Thread | None:
    named = [t for t in threading.enumerate() if getattr(t, "_target", None) == kept.keeper._run]
    return named[0] if named else None


def test_without_a_time_limit_the_thread_ends_and_the_voice_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Kept(monkeypatch, keep_alive_s=None)
    until(lambda: thread_of(kept) is None)
    assert kept.keeper.synthesizer


def test_a_voice_that_fell_ill_is_left_for_the_restart(kept: Kept) -> None:
    kept.keeper.synthesizer.voice.is_healthy = False  # type: ignore[misc]
    kept.pass_time()
    until(lambda: thread_of(kept) is None)
    assert kept.keeper.stage.status == "failed"
    assert kept.said == ["load"]


@pytest.mark.parametrize("is_loaded", [True, False])
def test_closing_ends_the_thread_with_or_without_a_voice(kept: Kept, is_loaded: bool) -> None:
    if not is_loaded:
        kept.unload()
    kept.keeper.close()
    until(lambda: thread_of(kept) is None)
    assert kept.said == (["load", "close"] if is_loaded else [])
    assert kept.keeper.stage.status == "stopping"
    assert gauges() == (0, 0)


async def test_a_voice_that_is_loaded_too_late_is_closed(kept: Kept) -> None:
    kept.unload().may_load.clear()
    waiting = asyncio.create_task(wake(kept))
    await asyncio.to_thread(until, lambda: kept.said)
    kept.keeper.close()
    kept.may_load.set()
    with pytest.raises(NotReady, match="stopping"):
        await waiting
    await asyncio.to_thread(until, lambda: thread_of(kept) is None)
    assert kept.said == ["load", "close"]
    assert gauges() == (0, 0)
