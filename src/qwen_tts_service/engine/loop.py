"""The engine's thread: take jobs, plan a step, run it, hand out the audio, until closed.

Everything that touches the model happens here. A failing call fails only the
sequences it worked for; several failures in a row fail all of them.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import NotReady, SynthesisFailed, TTSError
from qwen_tts_service.model.prompt_embeddings import PromptEmbeddings
from qwen_tts_service.model.sampling import MAX_TOP_K
from qwen_tts_service.types import EngineStatistics, Samples

from .job import Job, TextFeed
from .options import EngineOptions
from .runner import Outcome, Runner
from .scheduler import SequenceState, StepPlan, end_of, may_join, plan_decode, plan_step
from .slots import NOT_FINITE, PromptPiece

logger = logging.getLogger(__name__)

_NEW_STEP_WEIGHT = 0.2
"""How much the latest step counts in the usual step time."""
PAUSE_POLL_S = 0.005
"""Polling interval for slow readers and writers while the engine is otherwise idle."""
AUDIO_POLL_S = 0.0002
"""Polling interval for audio that is being decoded while nothing else can start."""
TEXT_IDS_PER_STEP = 16
"""Text that one sequence may bring in a step. A frame uses one; more would keep others waiting."""

Submission = tuple[Job, PcmChannel]
OnStep = Callable[[EngineStatistics], None]


@dataclass(slots=True, kw_only=True, eq=False)
class RunningSequence(SequenceState):
    """A running sequence: its audio channel, its prompt, the rest of a text being written."""

    channel: PcmChannel
    prompt: PromptEmbeddings
    feed: TextFeed | None = None


class _CallFailed(Exception):
    """A model call for these sequences alone has failed."""

    def __init__(self, sequences: Sequence[RunningSequence]) -> None:
        self.sequences = sequences


@contextmanager
def _working_for(sequences: Sequence[RunningSequence]) -> Iterator[None]:
    """Context manager: an exception in the block fails these sequences alone."""
    try:
        yield
    except Exception as error:
        raise _CallFailed(sequences) from error


class EngineLoop:
    """State of the thread; `run` is its body, other threads may call `put`, `stop` and read."""

    def __init__(self, runner: Runner, options: EngineOptions, on_step: OnStep) -> None:
        self._runner = runner
        self._options = options
        self._on_step = on_step
        self._inbox: SimpleQueue[Submission | None] = SimpleQueue()
        self._waiting: deque[Submission] = deque()
        self._sequences: list[RunningSequence] = []
        # The slot that has been free for longest is taken first: its audio has long been made.
        self._free = deque(range(options.slots))
        self._frames: deque[tuple[list[RunningSequence], Outcome]] = deque()
        self._audio: list[tuple[list[RunningSequence], int, Outcome]] = []
        self._failures_in_row = 0
        self._failures = 0
        self._usual_step_s = 0.0
        self._is_stopping = False
        self._gate = threading.Lock()
        self.end: TTSError | None = None
        """Why the loop takes no more jobs; None while it does."""
        self.busy_since_s: float | None = None
        self.statistics = EngineStatistics()

    # Any thread ------------------------------------------------------------------------

    def put(self, job: Job, channel: PcmChannel) -> None:
        """Hand over a job; after the loop's end its channel fails at once."""
        with self._gate:
            if self.end is None:
                self._inbox.put((job, channel))
                return
        channel.fail(self.end)

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
        failures = self._failures
        try:
            rows = self._step(started_s)
        except Exception as error:  # noqa: BLE001 - logged, and passed to its sequences
            self._fail(
                error.sequences if isinstance(error, _CallFailed) else self._sequences, error
            )
            rows = 0
        if rows and self._failures == failures:
            self._failures_in_row = 0
        self.busy_since_s = None
        self._count(rows, time.perf_counter() - started_s)

    def _step(self, now_s: float) -> int:
        """Do one step; returns how many utterances advanced."""
        self._collect(self._runner.run_ahead)  # more is under way only after a failure
        self._look_at_readers()
        self._read_texts()
        self._join()
        plan = plan_step(self._sequences, len(self._waiting), self._options)
        self._launch(plan)
        self._collect(0 if not plan.advance else self._runner.run_ahead)
        self._decode(now_s)
        # With nothing else to launch, give the codec a moment instead of asking it at once again.
        if self._audio and not (plan.prefill or plan.advance):
            self._audio[0][2].is_ready(within_s=AUDIO_POLL_S)
        self._deliver()
        self._finish()
        return len(plan.advance)

    def _receive(self) -> None:
        """Take new jobs; with nothing else to do, wait for one."""
        has_work = self._frames or self._audio or (self._waiting and self._free)
        can_move = has_work or any(sequence.can_move for sequence in self._sequences)
        if not can_move:
            with suppress(Empty):
                self._accept(self._inbox.get(timeout=PAUSE_POLL_S if self._sequences else None))
        self._accept_all()

    def _accept_all(self) -> None:
        with suppress(Empty):
            while True:
                self._accept(self._inbox.get_nowait())

    def _accept(self, submission: Submission | None) -> None:
        if submission is not None:
            self._waiting.append(submission)

    def _look_at_readers(self) -> None:
        for sequence in self._sequences:
            sequence.has_room = sequence.channel.has_room
        for sequence in [sequence for sequence in self._sequences if sequence.channel.is_cancelled]:
            sequence.end = "cancelled"
            sequence.channel.close("cancelled")
            self._release(sequence)

    def _read_texts(self) -> None:
        """Append text that was written since the last step."""
        for sequence in self._sequences:
            if sequence.feed is None or sequence.text_rows is None:
                continue
            ids, runaway_frames = sequence.feed.take(TEXT_IDS_PER_STEP)
            sequence.feed.is_awaited = not (ids or sequence.has_text) and sequence.is_ready
            is_end = runaway_frames is not None
            if ids or is_end:
                with _working_for([sequence]):
                    self._runner.append_text(
                        sequence.slot, ids, start=sequence.text_rows, is_end=is_end
                    )
            sequence.text_rows += len(ids)
            if runaway_frames is not None:
                sequence.text_rows, sequence.runaway_frames = None, runaway_frames

    def _join(self) -> None:
        while self._waiting and self._free:
            if not may_join(self._sequences, len(self._waiting), self._options):
                return
            job, channel = self._waiting.popleft()
            if channel.is_cancelled:
                channel.close("cancelled")
                continue
            with _working_for([]):
                self._begin(job, channel)

    def _begin(self, job: Job, channel: PcmChannel) -> None:
        slot = self._free[0]
        try:
            prompt, read = self._runner.begin(slot, job)
        except TTSError as error:
            channel.fail(error)
            return
        except Exception:
            channel.fail(SynthesisFailed("the speech could not be started"))
            raise
        self._free.popleft()
        sampling = job.sampling
        sequence = RunningSequence(
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
        self._sequences.append(sequence)

    def _launch(self, plan: StepPlan[RunningSequence]) -> None:
        if plan.prefill:
            read = list(dict.fromkeys(sequence for sequence, _, _ in plan.prefill))
            with _working_for(read):
                self._runner.prefill(
                    [PromptPiece(s.slot, s.prompt, *rows) for s, *rows in plan.prefill]
                )
            for sequence, _, rows in plan.prefill:
                sequence.prefilled += rows
        if not plan.advance:
            return
        with _working_for(plan.advance):
            ends = self._runner.frame(
                [sequence.slot for sequence in plan.advance],
                full_sort=any(sequence.needs_full_sort for sequence in plan.advance),
                positions=max(sequence.positions for sequence in plan.advance),
            )
        for sequence in plan.advance:
            sequence.started += 1
        self._frames.append((plan.advance, ends))

    def _collect(self, under_way: int) -> None:
        """Collect outcomes of frame steps until only `under_way` are left.

        Audio that gets ready meanwhile is handed out.
        """
        while len(self._frames) > under_way:
            sequences, ends = self._frames[0]
            while self._audio and not ends.is_ready(within_s=AUDIO_POLL_S):
                self._deliver()
            self._frames.popleft()
            with _working_for(sequences):
                outcome = ends.wait()
            for sequence, drew in zip(sequences, outcome, strict=True):
                if sequence.end is None and drew == NOT_FINITE:
                    self._fail_not_finite(sequence)
                elif sequence.end is None:
                    if not drew:
                        sequence.frames += 1
                    sequence.end = end_of(sequence, drew_end=bool(drew))

    def _decode(self, now_s: float) -> None:
        groups = plan_decode(self._sequences, self._options, now_s=now_s, step_s=self._usual_step_s)
        for group in groups:
            with _working_for(group.sequences):
                audio = self._runner.decode(
                    [sequence.slot for sequence in group.sequences],
                    [sequence.decoded for sequence in group.sequences],
                    group.frames,
                    is_first=group.is_first,
                )
            for sequence in group.sequences:
                sequence.decoded += group.frames
                sequence.chunks += 1
            self._audio.append((group.sequences, group.frames, audio))
            self._deliver()

    def _deliver(self) -> None:
        """Hand out the audio that is ready, that of each sequence in its order."""
        late: set[RunningSequence] = set()
        for call in list(self._audio):
            sequences, frames, audio = call
            if late.isdisjoint(sequences) and audio.is_ready():
                self._audio.remove(call)
                with _working_for(sequences):
                    self._send(sequences, audio.wait(), frames)
            else:
                late.update(sequences)

    def _send(self, sequences: list[RunningSequence], samples: Samples, frames: int) -> None:
        now_s = time.perf_counter()
        silent = silent_at_end(samples, frames, self._options.silence_rms)
        for sequence, row, quiet in zip(sequences, samples, silent, strict=True):
            if not np.isfinite(row).all():
                self._fail_not_finite(sequence)
                continue
            sequence.silent = quiet + (sequence.silent if quiet == frames else 0)
            if sequence.end is None and sequence.silent >= self._options.silence_frames:
                sequence.end = "runaway"
            if sequence.first_sent_s is None:
                sequence.first_sent_s = now_s
            sequence.channel.put(row)

    def _finish(self) -> None:
        """Close the sequences whose last audio has been handed out."""
        coming = {sequence for sequences, _, _ in self._audio for sequence in sequences}
        for sequence in [sequence for sequence in self._sequences if sequence.is_spoken]:
            if sequence not in coming:
                sequence.channel.close(sequence.end or "stop")
                self._release(sequence)

    def _release(self, sequence: RunningSequence) -> None:
        """Free a slot; what is still under way for its sequence will be ignored."""
        self._sequences.remove(sequence)
        self._free.append(sequence.slot)

    def _fail_not_finite(self, sequence: RunningSequence) -> None:
        """Fail a sequence whose logits or samples are NaN or infinite, and no other."""
        if sequence in self._sequences:
            logger.error("an engine step failed: the model's output is NaN or infinite")
            self._end_failed([sequence])

    def _fail(self, sequences: Sequence[RunningSequence], error: Exception) -> None:
        """Fail the sequences that a failed call worked for, as far as they still run."""
        logger.error("an engine step failed", exc_info=error)
        self._end_failed(sequences)

    def _end_failed(self, sequences: Sequence[RunningSequence]) -> None:
        self._failures += 1
        self._failures_in_row += 1
        failed = [sequence for sequence in sequences if sequence in self._sequences]
        for sequence in failed:
            sequence.end = "error"
            sequence.channel.fail(SynthesisFailed("the model failed while speaking"))
            self._release(sequence)
        try:
            if failed:
                self._runner.clear([sequence.slot for sequence in failed])
        except Exception:
            logger.exception("the slots of a failed step could not be cleared")
            self._failures_in_row = self._options.max_failures

    def _count(self, rows: int, step_s: float) -> None:
        old = self.statistics
        if rows:
            usual_s = self._usual_step_s or step_s
            self._usual_step_s = usual_s + _NEW_STEP_WEIGHT * (step_s - usual_s)
        self.statistics = EngineStatistics(
            steps=old.steps + (1 if rows else 0),
            frames=old.frames + rows,
            failures=self._failures,
            rows=rows,
            step_s=step_s,
            active=len(self._sequences),
            paused=sum(not sequence.can_move for sequence in self._sequences),
            waiting=len(self._waiting) + self._inbox.qsize(),
        )
        self._on_step(self.statistics)

    def _shut(self, end: TTSError) -> None:
        with self._gate:
            self.end = end
        self._accept_all()
        for _, channel in self._waiting:
            channel.fail(end)
        for sequence in self._sequences:
            sequence.channel.fail(end)
        self._waiting.clear()
        self._sequences.clear()


def silent_at_end(samples: Samples, frames: int, below_rms: float) -> list[int]:
    """Count the silent frames at the end of each row of samples, float32 [B, N]."""
    power = np.square(samples.reshape(len(samples), frames, -1)).mean(axis=2)
    is_loud = power[:, ::-1] >= below_rms**2
    quiet = np.where(is_loud.any(axis=1), is_loud.argmax(axis=1), frames)
    counts: list[int] = quiet.tolist()
    return counts
