"""The engine: jobs go in, audio comes out, many at a time by continuous batching.

One thread owns the model and everything on its device; callers only ever hold a `PcmChannel`.
"""

import asyncio
import threading
import time

import numpy as np
import torch

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.model.qwen3_tts import Qwen3TTS
from qwen_tts_service.types import EngineStatistics, ReportProgress, Samples

from .driver import choose_driver
from .graphs import GraphRunner
from .job import Job
from .loop import EngineLoop, OnStep
from .options import EngineOptions
from .runner import PlainRunner, Runner
from .threads import on_a_thread_that_ends

STOP_S = 30.0
"""How long `close` waits for the step that is under way."""


class Engine:
    """Speaks jobs with one model, up to `options.slots` at the same time."""

    def __init__(
        self,
        model: Qwen3TTS,
        options: EngineOptions,
        *,
        on_step: OnStep = lambda _statistics: None,
        on_progress: ReportProgress = lambda _step, _fraction: None,
        runner: Runner | None = None,
    ) -> None:
        """Allocate everything and start the thread.

        on_step: called on the engine's thread after every step; must be quick and never raise
        on_progress: called with what is being prepared and the fraction done
        runner: for tests; None chooses by the model's device
        """
        self._options = options
        self._device = model.device
        codec = model.config.codec
        self._capacity_samples = int(options.max_lead_s * codec.sample_rate_hz)
        runner = runner or on_a_thread_that_ends(choose_runner, model, options, on_progress)
        self._loop = EngineLoop(runner, options, on_step)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> PcmChannel:
        """Start to speak; returns at once. Called on the event loop that reads the channel.

        The channel fails with the error that ended the speech: InvalidRequest for what the model
        does not have, SynthesisFailed, or NotReady once the engine is closed. To cancel, close
        the channel.
        """
        channel = PcmChannel(capacity_samples=self._capacity_samples)
        self._loop.put(job, channel)
        return channel

    def run_whole(self, job: Job) -> Samples:
        """Speak to the end and return the samples, float32 [N]; blocks any thread without a loop.

        Raises what ended the speech.
        """
        return asyncio.run(self._whole(job))

    async def _whole(self, job: Job) -> Samples:
        chunks = [chunk async for chunk in self.submit(job)]
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    def close(self) -> None:
        """End the thread after its step; streams still open fail. Harmless when repeated."""
        self._loop.stop()
        self._thread.join(STOP_S)

    @property
    def is_healthy(self) -> bool:
        """Whether jobs are taken and no step has been under way for too long."""
        since_s = self._loop.busy_since_s
        is_stuck = since_s is not None and time.perf_counter() - since_s > self._options.stall_s
        return self._loop.end is None and not is_stuck

    @property
    def statistics(self) -> EngineStatistics:
        """The engine after its last step."""
        return self._loop.statistics

    def _run(self) -> None:
        if self._options.threads is not None:
            torch.set_num_threads(self._options.threads)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # the current device is the thread's own
        with torch.inference_mode():
            self._loop.run()


def choose_runner(model: Qwen3TTS, options: EngineOptions, on_progress: ReportProgress) -> Runner:
    """Return captured graphs for CUDA and plain calls for anything else."""
    if model.device.type == "cuda":
        return GraphRunner(model, options, choose_driver(model.device), on_progress)
    return PlainRunner(model, options)
