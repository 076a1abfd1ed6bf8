"""Engines on tiny checkpoints, with either runner, and the event loop around them."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from qwen_tts_service.engine.driver import EagerDriver
from qwen_tts_service.engine.engine import Engine, EngineOptions
from qwen_tts_service.engine.graphs import GraphRunner
from qwen_tts_service.engine.job import Job
from qwen_tts_service.engine.runner import PlainRunner
from qwen_tts_service.types import SamplingOptions

WAIT_S = 20
"""The deadline for one speech: a broken engine fails its test by then, even on a busy machine."""
SLOTS = 16
OPTIONS = EngineOptions(slots=SLOTS, max_positions=320, threads=1, silence_rms=0.0)


class RecordingDriver(EagerDriver):
    """Notes what is captured; host memory that nobody has written is conspicuous."""

    def __init__(self):
        self.captured = []
        self.asked = []

    def capture(self, work, stream):
        self.captured.append(stream)
        return super().capture(work, stream)

    def pinned(self, *shape, dtype):
        """Notes the memory, and how many graphs there were by then."""
        self.asked.append((shape, dtype, len(self.captured)))
        return torch.full(shape, 77).to(dtype)


class LateMark:
    """A place in a queue of work that is reached when the work before it has been done."""

    def __init__(self, driver, stream, written):
        self._driver = driver
        self._written = written
        self.stream = stream
        self.is_done = False

    def is_reached(self, *, within_s=0.0):
        if within_s:
            self._driver.let_pass()
        return self.is_done

    def wait(self):
        if not self.is_done:
            self._driver.waits.append(self.stream)
        self._driver.work_off(self.stream, self)
        # Who has waited takes what was written at once; the memory then goes to somebody else.
        for buffer in self._written:
            self._driver.take_back(buffer)
        self._written = []


class LateDriver(EagerDriver):
    """A device that does nothing until somebody waits for it, as the slowest CUDA device might.

    Each of its streams is a queue. Work is done when the host waits for a mark behind it, or when
    another stream has to, and piece by piece while the host lets time pass; a stream in `prompt`
    does it at once, as the fastest might. Host memory is handed out again as soon as it may be.
    `device` is around all calls of a runner: in it, changes of tensors are work of the current
    stream. holds: (stream, other) for each that had to wait for a mark of the other; waits: the
    stream of each mark that the host had to wait for
    """

    def __init__(self, prompt=()):
        self.prompt = set(prompt)
        self.holds = []
        self.waits = []
        self.is_working = False
        self.memory = set()
        self._queues = {"frames": deque(), "first": deque(), "bulk": deque()}
        self._stream = "frames"
        self._written = defaultdict(list)
        self._free = defaultdict(list)
        self._handed = {}

    def capture(self, work, stream):
        work()
        return lambda: self.give(work)

    @contextmanager
    def stream(self, stream):
        self._stream = stream
        try:
            yield
        finally:
            self._stream = "frames"

    def mark(self):
        mark = LateMark(self, self._stream, self._written.pop(self._stream, []))
        self.give(lambda: setattr(mark, "is_done", True))
        return mark

    def hold(self, mark):
        self.holds.append((self._stream, mark.stream))
        self.give(lambda: self.work_off(mark.stream, mark))

    def pinned(self, *shape, dtype):
        free = self._free[shape, dtype]
        buffer = free.pop() if free else torch.empty(shape, dtype=dtype)
        self._handed[id(buffer)] = buffer
        buffer.fill_(True if dtype == torch.bool else 77)
        return buffer

    def take_back(self, buffer):
        if self._handed.pop(id(buffer), None) is not None:
            self._free[tuple(buffer.shape), buffer.dtype].append(buffer)

    def is_pinned(self, tensor):
        return place(tensor) in map(place, self._handed.values())

    def give(self, work):
        """Put work at the end of the current stream."""
        self._queues[self._stream].append(work)
        if self._stream in self.prompt:
            self.work_off(self._stream)

    def work_off(self, stream, mark=None):
        """Do a stream's work up to a mark, or all of it."""
        before, self.is_working = self.is_working, True
        queue = self._queues[stream]
        while queue and not (mark and mark.is_done):
            queue.popleft()()
        self.is_working = before

    def let_pass(self):
        """Do the next piece of work of each stream, as time goes by."""
        before, self.is_working = self.is_working, True
        for queue in self._queues.values():
            if queue:
                queue.popleft()()
        self.is_working = before

    def device(self):
        return _Queued(self)

    def copy(self, target, source):
        """Give a copy between the host and the device to the current stream."""
        if self.is_pinned(target):
            self._written[self._stream].append(target)
        self.give(lambda: (target.copy_(source), self.take_back(source)))

    def finish(self):
        """Do what the current stream has to do, for somebody who reads a tensor here."""
        self.work_off(self._stream)


def place(tensor):
    return tensor.untyped_storage().data_ptr()


def tensors(value):
    """All tensors in nested dataclasses and iterables."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        return tensors([getattr(value, item.name) for item in fields(value)])
    return [t for item in value for t in tensors(item)] if isinstance(value, Iterable) else []


class _Queued(TorchFunctionMode):
    """Makes what changes a driver's `memory` the work of a stream; the rest is done at once."""

    def __init__(self, driver):
        super().__init__()
        self._driver = driver

    def __torch_function__(self, func, types, args=(), kwargs=None):
        how, name, driver = kwargs or {}, func.__name__, self._driver
        changes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if driver.is_working:
            return func(*args, **how)
        if name == "copy_" and how.get("non_blocking"):
            return driver.copy(*args)
        if changes and place(args[0]) in driver.memory:
            return driver.give(lambda: func(*args, **how))
        if name in {"clone", "tolist", "item"} and place(args[0]) in driver.memory:
            driver.finish()
        return func(*args, **how)


class OnDevice:
    """A runner whose calls only give work to a `LateDriver`."""

    def __init__(self, inner, driver):
        self._inner = inner
        self.driver = driver
        self.run_ahead = inner.run_ahead
        slots, calls = inner._slots, (inner._frames, inner._prefills, inner._audio)
        owned = [slots.state, slots.codec_state, slots.ring, inner._begin.inputs]
        owned += [call.values() for call in calls]
        driver.memory.update(map(place, tensors(owned)))

    def __getattr__(self, name):
        call = getattr(self._inner, name)

        def given(*args, **how):
            with self.driver.device():
                return call(*args, **how)

        return given if callable(call) else call


def plain(model, options):
    return PlainRunner(model, options)


def graphs(model, options):
    return GraphRunner(model, options, RecordingDriver())


def late(*prompt):
    """A runner of graphs on a device that is late, but for the `prompt` streams."""

    def make(model, options):
        driver = LateDriver(prompt)
        return OnDevice(GraphRunner(model, options, driver), driver)

    return make


RUNNERS = [pytest.param(plain, id="plain"), pytest.param(graphs, id="graphs")]


def make_job(model, number, **changes):
    """A job of its own length, voice, seed and way of drawing."""
    text = "one two three " * (1 + number % 4) + str(number)
    sampling = [
        SamplingOptions(),
        SamplingOptions(temperature=0.0),
        SamplingOptions(temperature=1.3, top_k=0, top_p=0.9),
        SamplingOptions(top_k=5, repetition_penalty=1.3),
    ]
    speakers = model.config.speakers or (None,)
    job = Job(
        ids=tuple(model.tokenizer.encode(text)),
        instruct_ids=tuple(model.tokenizer.encode_instruct("Slowly." if number % 3 == 0 else "")),
        speaker=speakers[number % len(speakers)],
        language=("auto", *model.config.languages)[number % 3],
        layout=("full_text", "streaming_text")[number % 2],
        seed=number,
        sampling=sampling[number // 2 % 4],
        max_frames=8 + number,
        runaway_frames=200,
    )
    return replace(job, **changes)


@contextmanager
def running(model, options=OPTIONS, runner=plain, **changes):
    options = replace(options, **changes)
    engine = Engine(model, options, runner=runner(model, options))
    try:
        yield engine
    finally:
        engine.close()


async def read(channel):
    """All samples of a channel; raises what it raises."""
    async with asyncio.timeout(WAIT_S):
        chunks = [chunk async for chunk in channel]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


async def whole(engine, job):
    """All samples of a job."""
    return await read(engine.submit(job))


def reported_mib(model, **options):
    """What a runner with these options says that its slots and caches take at most."""
    said = PlainRunner(model, replace(OPTIONS, **options))._slots.memory
    return int(said.split("up to ")[1].split()[0])


async def until(condition):
    """Wait until something that another thread does has happened."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - a thread has no events of this loop
            await asyncio.sleep(0.001)


class Endless:
    """A runner whose speeches never end by themselves, and whose calls can be made to fail."""

    def __init__(self, inner):
        self._inner = inner
        self.run_ahead = inner.run_ahead
        self.failing = set()
        self.silent = self.pauses = False
        self.rows = []

    def __getattr__(self, name):
        if name in self.failing:
            raise RuntimeError("out of luck")
        return getattr(self._inner, name)

    def frame(self, slots, **how):
        if "frame" in self.failing:
            raise RuntimeError("out of luck")
        self.rows.append(sorted(slots))
        ends = self._inner.frame(slots, **how)
        wait = ends.wait
        ends.wait = lambda: [False for _ in wait()]
        return ends

    def decode(self, *what, **how):
        if "sound" in self.failing:
            raise RuntimeError("out of luck")
        sound = self._inner.decode(*what, **how)
        if self.silent:
            wait = sound.wait
            sound.wait = lambda: wait() * 0
        if self.pauses:
            wait = sound.wait
            sound.wait = lambda: first_half(wait())
        return sound


def first_half(samples):
    """The samples with silence in place of the second half of each row."""
    return samples * (np.arange(samples.shape[1]) < samples.shape[1] // 2).astype(np.float32)


@contextmanager
def endless(model, runner, **changes):
    """An engine on an `Endless` runner, and that runner."""
    made = []

    def make(model, options):
        made.append(Endless(runner(model, options)))
        return made[0]

    with running(model, runner=make, **changes) as engine:
        yield engine, made[0]
