"""The engine's one thread: takes jobs, plans a step, has it run, hands the audio out, for ever.

Everything that touches the model happens here. A failing call fails the streams it worked for
and nobody else; several in a row fail everyone. It does not know tensors, devices or callers'
event loops.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import NotReady, SynthesisFailed, TTSError
from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.sampling import MAX_TOP_K
from qwen_tts_service.types import Samples

from .job import Job, TextFeed
from .options import EngineOptions, EngineStatistics
from .runner import Ends, Runner, Sound
from .scheduler import StepPlan, Stream, end_of, may_join, plan_sound, plan_step

logger = logging.getLogger(__name__)

_NEW_STEP_WEIGHT = 0.2
"""How much the latest step counts in the usual step time."""
PAUSE_POLL_S = 0.005
"""How often slow readers and writers are looked at while nobody else has anything to do."""
TEXT_IDS_PER_STEP = 16
"""Text that one stream may bring in a step. A frame uses one; more would keep others waiting."""

Order = tuple[Job, PcmChannel]
OnStep = Callable[[EngineStatistics], None]


@dataclass(slots=True, kw_only=True, eq=False)
class Speech(Stream):
    """A stream with where its audio goes, its prompt, and where its text goes on, if it does."""

    channel: PcmChannel
    prompt: PromptEmbeddings
    feed: TextFeed | None = None


class EngineLoop:
    """State of the thread; `run` is its body, other threads may call `put`, `stop` and read."""

    def __init__(self, runner: Runner, options: EngineOptions, on_step: OnStep) -> None:
        self._runner = runner
        self._options = options
        self._on_step = on_step
        self._inbox: SimpleQueue[Order | None] = SimpleQueue()
        self._waiting: deque[Order] = deque()
        self._streams: list[Speech] = []
        self._free = list(range(options.slots - 1, -1, -1))
        self._frames: deque[tuple[list[Speech], Ends]] = deque()
        self._sounds: deque[tuple[list[Speech], int, Sound]] = deque()
        self._involved: Sequence[Speech] | None = None
        self._failures_in_row = 0
        self._failures = 0
        self._usual_step_s = 0.0
        self._is_stopping = False
        self._gate = threading.Lock()
        self._end: TTSError | None = None
        self.busy_since_s: float | None = None
        self.statistics = EngineStatistics()

    # Any thread ------------------------------------------------------------------------

    @property
    def end(self) -> TTSError | None:
        """Why the loop takes no more jobs; None while it does."""
        return self._end

    def put(self, job: Job, channel: PcmChannel) -> None:
        """Hand over a job; after the loop's end its channel fails at once."""
        with self._gate:
            if self._end is None:
                self._inbox.put((job, channel))
                return
        channel.fail(self._end)

    def stop(self) -> None:
        """Ask the loop to end after the step it is in; what is open then fails."""
        self._is_stopping = True
        self._inbox.put(None)

    # The engine's thread ---------------------------------------------------------------

    def run(self) -> None:
        """Work until `stop`, or until too many steps in a row have failed."""
        end: TTSError = SynthesisFailed("the engine stopped unexpectedly")
        try:
            while not self._is_stopping and self._failures_in_row < self._options.max_failures:
                self._receive()
                self._attempt()
            end = NotReady("the service is stopping")
            if not self._is_stopping:
                end = SynthesisFailed("the engine has failed and must be restarted")
        finally:
            self._shut(end)

    def _attempt(self) -> None:
        started_s = self.busy_since_s = time.perf_counter()
        try:
            rows = self._step(started_s)
        except Exception:
            logger.exception("an engine step failed")
            self._failures += 1
            self._fail_step()
            rows = 0
        else:
            self._failures_in_row *= not rows
        self.busy_since_s = None
        self._count(rows, time.perf_counter() - started_s)

    def _step(self, now_s: float) -> int:
        """Do one step; returns how many utterances advanced."""
        self._involved = None
        self._look_at_readers()
        self._read_texts()
        self._join()
        plan = plan_step(self._streams, self._options)
        self._launch(plan)
        self._collect(0 if not plan.advance else self._runner.run_ahead)
        self._decode(now_s)
        self._deliver(wait=not plan.advance)
        return len(plan.advance)

    def _receive(self) -> None:
        """Take what has come in; with nothing at all to do, wait for it."""
        has_work = self._frames or self._sounds or (self._waiting and self._free)
        can_move = has_work or any(stream.can_move for stream in self._streams)
        if not can_move:
            with suppress(Empty):
                self._accept(self._inbox.get(timeout=PAUSE_POLL_S if self._streams else None))
        self._accept_all()

    def _accept(self, order: Order | None) -> None:
        if order is not None:
            self._waiting.append(order)

    def _accept_all(self) -> None:
        with suppress(Empty):
            while True:
                self._accept(self._inbox.get_nowait())

    def _look_at_readers(self) -> None:
        for stream in self._streams:
            stream.has_room = stream.channel.has_room
        for stream in [stream for stream in self._streams if stream.channel.is_cancelled]:
            stream.end = "cancelled"
            stream.channel.close("cancelled")
            self._release(stream)

    def _read_texts(self) -> None:
        """Bring in what was written since the last step."""
        for stream in self._streams:
            if stream.feed is None or stream.text_rows is None:
                continue
            self._involved = (stream,)
            ids, runaway_frames = stream.feed.take(TEXT_IDS_PER_STEP)
            is_end = runaway_frames is not None
            if ids or is_end:
                self._runner.append_text(stream.slot, ids, start=stream.text_rows, is_end=is_end)
            stream.text_rows += len(ids)
            if runaway_frames is not None:
                stream.text_rows, stream.runaway_frames = None, runaway_frames
        self._involved = None

    def _join(self) -> None:
        while self._waiting and self._free and may_join(self._streams, self._options):
            job, channel = self._waiting.popleft()
            if channel.is_cancelled:
                channel.close("cancelled")
                continue
            self._involved = ()
            try:
                self._begin(job, channel)
            except TTSError as error:
                channel.fail(error)
            except Exception:
                channel.fail(SynthesisFailed("the speech could not be started"))
                raise

    def _begin(self, job: Job, channel: PcmChannel) -> None:
        slot = self._free[-1]
        prompt, read = self._runner.begin(slot, job)
        self._free.pop()
        sampling = job.sampling
        speech = Speech(
            slot=slot,
            prompt_rows=len(prompt.rows) - 1,
            prefix_rows=prompt.prefix_rows,
            prefilled=read,
            max_frames=job.max_frames,
            runaway_frames=job.runaway_frames,
            needs_full_sort=sampling.top_p < 1 or sampling.top_k > MAX_TOP_K,
            text_rows=None if job.feed is None else len(prompt.text_rows),
            channel=channel,
            prompt=prompt,
            feed=job.feed,
        )
        self._streams.append(speech)

    def _launch(self, plan: StepPlan[Speech]) -> None:
        for stream, start, rows in plan.prefill:
            self._involved = (stream,)
            self._runner.prefill(stream.slot, stream.prompt, start, rows)
            stream.prefilled += rows
        if not plan.advance:
            return
        self._involved = plan.advance
        ends = self._runner.frame(
            [stream.slot for stream in plan.advance],
            full_sort=any(stream.needs_full_sort for stream in plan.advance),
            positions=max(stream.positions for stream in plan.advance),
        )
        for stream in plan.advance:
            stream.started += 1
        self._frames.append((plan.advance, ends))

    def _collect(self, under_way: int) -> None:
        """Look at the outcome of frame steps until only `under_way` are left."""
        while len(self._frames) > under_way:
            streams, ends = self._frames.popleft()
            self._involved = streams
            for stream, drew_end in zip(streams, ends.wait(), strict=True):
                if stream.end is None:
                    stream.frames += not drew_end
                    stream.end = end_of(stream, drew_end=drew_end)

    def _decode(self, now_s: float) -> None:
        groups = plan_sound(self._streams, self._options, now_s=now_s, step_s=self._usual_step_s)
        for frames, streams in groups.items():
            self._involved = streams
            sound = self._runner.sound(
                [stream.slot for stream in streams],
                [stream.decoded for stream in streams],
                frames,
            )
            for stream in streams:
                stream.decoded += frames
                stream.chunks += 1
            self._sounds.append((streams, frames, sound))

    def _deliver(self, *, wait: bool) -> None:
        """Hand out finished sound in order; `wait`, and first chunks, are waited for."""
        while self._sounds:
            streams, frames, sound = self._sounds[0]
            is_urgent = wait or any(stream.first_sent_s is None for stream in streams)
            if not is_urgent and not sound.is_ready():
                break
            self._sounds.popleft()
            self._involved = streams
            self._send(streams, sound.wait(), frames)
        self._finish()

    def _send(self, streams: list[Speech], samples: Samples, frames: int) -> None:
        now_s = time.perf_counter()
        silent = silent_at_end(samples, frames, self._options.silence_rms)
        for stream, row, quiet in zip(streams, samples, silent, strict=True):
            stream.silent = quiet + (stream.silent if quiet == frames else 0)
            if stream.end is None and stream.silent >= self._options.silence_frames:
                stream.end = "runaway"
            if stream.first_sent_s is None:
                stream.first_sent_s = now_s
            stream.channel.put(row)

    def _finish(self) -> None:
        """Close the streams whose last sound has been handed out."""
        coming = {id(stream) for streams, _, _ in self._sounds for stream in streams}
        for stream in [stream for stream in self._streams if stream.is_spoken]:
            if id(stream) not in coming:
                stream.channel.close(stream.end or "stop")
                self._release(stream)

    def _release(self, stream: Speech) -> None:
        """Free a slot; what is still under way for its stream will be ignored."""
        self._streams.remove(stream)
        self._free.append(stream.slot)

    def _fail_step(self) -> None:
        """Fail the streams that the failing call worked for, all of them if that is unknown."""
        self._failures_in_row += 1
        failed = [s for s in self._streams if self._involved is None or s in self._involved]
        for stream in failed:
            stream.end = "error"
            stream.channel.fail(SynthesisFailed("the model failed while speaking"))
            self._release(stream)
        try:
            if failed:
                self._runner.clear([stream.slot for stream in failed])
        except Exception:
            logger.exception("the slots of a failed step could not be cleared")
            self._failures_in_row = self._options.max_failures

    def _count(self, rows: int, step_s: float) -> None:
        old = self.statistics
        if rows:
            usual_s = self._usual_step_s or step_s
            self._usual_step_s = usual_s + _NEW_STEP_WEIGHT * (step_s - usual_s)
        self.statistics = EngineStatistics(
            steps=old.steps + bool(rows),
            frames=old.frames + rows,
            failures=self._failures,
            rows=rows,
            step_s=step_s,
            active=len(self._streams),
            paused=sum(not stream.can_move for stream in self._streams),
            waiting=len(self._waiting) + self._inbox.qsize(),
        )
        self._on_step(self.statistics)

    def _shut(self, end: TTSError) -> None:
        with self._gate:
            self._end = end
        self._accept_all()
        for _, channel in self._waiting:
            channel.fail(end)
        for stream in self._streams:
            stream.channel.fail(end)
        self._waiting.clear()
        self._streams.clear()


def silent_at_end(samples: Samples, frames: int, below_rms: float) -> list[int]:
    """Count the silent frames at the end of each row of samples, float32 [B, N]."""
    power = np.square(samples.reshape(len(samples), frames, -1)).mean(axis=2)
    is_loud = power[:, ::-1] >= below_rms**2
    quiet = np.where(is_loud.any(axis=1), is_loud.argmax(axis=1), frames)
    counts: list[int] = quiet.tolist()
    return counts
