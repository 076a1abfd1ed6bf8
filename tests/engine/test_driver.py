"""Calls of CudaDriver to torch.cuda, recorded by a stand-in."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from qwen_tts_service.engine import driver as module
from qwen_tts_service.engine.driver import CudaDriver, EagerDriver, choose_driver


class Stream:
    def __init__(self, cuda, name, priority=0):
        self._cuda, self.name, self.priority = cuda, name, priority

    def wait_stream(self, other):
        self._cuda.calls.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event):
        self._cuda.calls.append(f"{self.name} waits for an event of {event.stream.name}")


class Event:
    def __init__(self, cuda):
        self._cuda, self.is_done = cuda, False

    def record(self):
        self.stream = self._cuda.current

    def query(self):
        return self.is_done

    def synchronize(self):
        self.is_done = True


class Cuda:
    """torch.cuda with one device; `calls` is what was done, in order."""

    def __init__(self):
        self.calls, self.streams, self._pools = [], [], 0
        self.current = Stream(self, "default")
        self.Stream, self.Event, self.CUDAGraph = self._stream, lambda: Event(self), self._graph

    def set_device(self, device):
        self.calls.append(f"set {device}")

    def _stream(self, device, priority=0):
        self.streams.append(Stream(self, "stream", priority))
        return self.streams[-1]

    def current_stream(self):
        return self.current

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def _graph(self):
        return SimpleNamespace(replay=lambda: self.calls.append("replay"))

    @contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        if pool is None:
            self._pools += 1
        used = pool or f"pool {self._pools}"
        graph.pool = lambda: used
        self.calls.append(f"record in {used}, errors per {capture_error_mode}")
        with self.stream(stream):
            yield
        self.calls.append("recorded")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch):
    stand_in = Cuda()
    monkeypatch.setattr(module, "cuda", stand_in)
    return stand_in


@pytest.fixture
def driver(cuda):
    driver = CudaDriver(torch.device("cuda", 1))
    assert cuda.calls == ["set cuda:1"]
    cuda.calls.clear()
    for name, stream in driver._streams.items():
        stream.name = name
    return driver


@pytest.mark.parametrize("pool", ["frames", "first", "bulk"])
def test_work_is_warmed_up_and_recorded_on_the_stream_of_its_pool(cuda, driver, pool):
    replay = driver.capture(lambda: cuda.calls.append(f"work on {cuda.current.name}"), pool)
    assert cuda.current.name == "default"
    assert cuda.calls == [
        f"{pool} waits for default",
        f"work on {pool}",
        f"work on {pool}",
        f"default waits for {pool}",
        "record in pool 1, errors per thread_local",
        f"work on {pool}",
        "recorded",
    ]
    cuda.calls.clear()
    replay()
    assert cuda.calls == ["replay"]


def test_graphs_of_one_pool_share_memory_and_of_two_do_not(cuda, driver):
    for pool in ("frames", "first", "bulk", "first", "frames"):
        driver.capture(lambda: None, pool)
    used = [call.split(",")[0] for call in cuda.calls if call.startswith("record in")]
    assert used == [f"record in pool {number}" for number in (1, 2, 3, 2, 1)]


def test_first_chunks_go_before_frames_and_those_before_all_other_chunks(cuda, driver):
    for name in ("first", "bulk"):
        with driver.stream(name):
            assert cuda.current.name == name
    with driver.stream("frames"):
        assert cuda.current.name == "default"
    priorities = {stream.name: stream.priority for stream in cuda.streams}
    assert priorities["first"] < priorities["frames"] < priorities["bulk"] == 0


def test_a_mark_that_is_not_reached_is_looked_at_again_after_a_moment(
    cuda, driver, monkeypatch: pytest.MonkeyPatch
):
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    mark = driver.mark()
    assert not mark.is_reached()
    assert not mark.is_reached(within_s=0.5)
    assert slept == [0.5]
    mark.event.is_done = True
    assert mark.is_reached(within_s=0.5)
    assert slept == [0.5], "nobody waits for what is there"


def test_a_mark_is_in_the_current_stream_and_reached_when_cuda_says_so(cuda, driver):
    with driver.stream("bulk"):
        mark = driver.mark()
    assert not mark.is_reached()
    driver.hold(mark)
    assert cuda.calls == ["default waits for an event of bulk"]
    mark.wait()
    assert mark.is_reached()


def test_host_memory_is_pinned(driver, monkeypatch: pytest.MonkeyPatch):
    asked = {}
    monkeypatch.setattr(torch, "empty", lambda *shape, **how: asked.update(how, shape=shape))
    driver.pinned(2, 3, dtype=torch.int64)
    assert asked == {"shape": (2, 3), "dtype": torch.int64, "pin_memory": True}


def test_without_graphs_the_same_steps_are_plain_calls():
    driver, calls = EagerDriver(), []
    driver.capture(lambda: calls.append("work"), "frames")()
    assert calls == ["work", "work"]
    with driver.stream("bulk"):
        mark = driver.mark()
    driver.hold(mark)
    mark.wait()
    assert mark.is_reached()
    memory = driver.pinned(2, 3, dtype=torch.int64)
    assert (memory.shape, memory.dtype) == ((2, 3), torch.int64)


@pytest.mark.parametrize(("hip", "kind"), [(None, CudaDriver), ("6.2", EagerDriver)])
def test_rocm_has_plain_calls_and_cuda_graphs(monkeypatch, hip, kind):
    monkeypatch.setattr(module, "cuda", Cuda())
    monkeypatch.setattr(torch.version, "hip", hip)
    assert type(choose_driver(torch.device("cuda", 0))) is kind
