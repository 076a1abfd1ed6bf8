"""Engines on tiny checkpoints, with either runner, and the event loop around them."""

import asyncio
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from qwen_tts_service.engine.driver import EagerDriver
from qwen_tts_service.engine.engine import Engine, EngineOptions
from qwen_tts_service.engine.graphs import GraphRunner
from qwen_tts_service.engine.job import Job
from qwen_tts_service.engine.runner import PlainRunner
from qwen_tts_service.types import SamplingOptions

WAIT_S = 60
SLOTS = 16
OPTIONS = EngineOptions(slots=SLOTS, max_positions=320, threads=1, silence_rms=0.0)


class RecordingDriver(EagerDriver):
    """Notes what is captured; host memory that nobody has written is conspicuous."""

    def __init__(self):
        self.captured = []

    def capture(self, work, pool):
        self.captured.append(pool)
        return super().capture(work, pool)

    def pinned(self, *shape, dtype):
        return torch.full(shape, 77).to(dtype)


def plain(model, options):
    return PlainRunner(model, options)


def graphs(model, options):
    return GraphRunner(model, options, RecordingDriver())


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
    job = Job(
        ids=tuple(model.tokenizer.encode(text)),
        instruct_ids=tuple(model.tokenizer.encode_instruct("Slowly." if number % 3 == 0 else "")),
        speaker=model.config.speakers[number % len(model.config.speakers)],
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
        self.silent = False
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
        ends.wait = lambda: [False] * len(slots)
        return ends

    def decode(self, *what):
        if "sound" in self.failing:
            raise RuntimeError("out of luck")
        sound = self._inner.decode(*what)
        if self.silent:
            samples = sound.wait()
            sound.wait = lambda: samples * 0
        return sound


@contextmanager
def endless(model, runner, **changes):
    """An engine on an `Endless` runner, and that runner."""
    made = []

    def make(model, options):
        made.append(Endless(runner(model, options)))
        return made[0]

    with running(model, runner=make, **changes) as engine:
        yield engine, made[0]
