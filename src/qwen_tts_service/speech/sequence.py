"""Several utterances, and silences between them, as one stream of audio."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing

import numpy as np

from qwen_tts_service.errors import TTSError
from qwen_tts_service.text.segments import Pause
from qwen_tts_service.types import FRAME_S, FinishReason, PcmStream, Samples, words_of

from .timeline import Timeline

Part = Pause | Callable[[], PcmStream]
"""A silence, or what starts an utterance once the one before it has ended."""


class PartSequence:
    """A `PcmStream` that speaks one part after the other; parts may be added while it is read.

    max_frames: of all parts together, silence included; the audio is cut there as "length"
    timeline: told when each part is heard

    A part that ends in any other way than "stop" is the end of the whole. The queue of parts is
    its only buffer: it holds text that is ahead of the audio, never samples.
    """

    def __init__(
        self,
        parts: Iterable[Part] = (),
        *,
        sample_rate_hz: int,
        max_frames: int,
        timeline: Timeline | None = None,
    ) -> None:
        self._parts = deque(parts)
        self._sample_rate_hz = sample_rate_hz
        self._samples_left = round(max_frames * FRAME_S * sample_rate_hz)
        self._silence_s = 0.0
        self._gap_s = 0.0
        self._has_sounded = False
        self._speaking: PcmStream | None = None
        self._is_speech = False  # what `_uncut` yields now, not silence
        self._timeline = timeline
        self._has_news = asyncio.Event()
        self._is_complete = False
        self.waits_for_part = False
        """Whether all the parts so far have been spoken and another may come."""
        self.finish_reason: FinishReason | None = None
        """How the audio ended; None while it has not."""

    def feed(self, part: Part) -> None:
        """Add a part; called on the event loop that reads the stream."""
        self._parts.append(part)
        self._has_news.set()

    def finish(self) -> None:
        """Say that there are no more parts."""
        self._is_complete = True
        self._has_news.set()

    async def __aiter__(self) -> AsyncIterator[Samples]:
        async with aclosing(self._uncut()) as uncut:
            async for samples in uncut:
                kept = samples[: self._samples_left]
                self._samples_left -= len(kept)
                self._note(kept)
                if len(kept):
                    yield kept
                if len(kept) < len(samples):
                    await self._end("length")
                if self.finish_reason is not None:
                    return
        self.finish_reason = self.finish_reason or "stop"

    def _note(self, samples: Samples) -> None:
        """Tell the timeline what is heard now."""
        if self._timeline is not None:
            self._timeline.hear(samples, is_speech=self._is_speech)
            if self._is_speech:
                self._timeline.hear_words(words_of(self._speaking))

    def _end_part(self) -> None:
        if self._timeline is not None:
            self._timeline.hear_words(words_of(self._speaking))
            self._timeline.end_part()

    async def aclose(self) -> None:
        """Stop the current part and start no other; repeated calls change nothing."""
        await self._end("cancelled")

    async def _end(self, reason: FinishReason) -> None:
        self.finish_reason = self.finish_reason or reason
        self._has_news.set()
        self._end_part()
        if self._speaking is not None:
            await self._speaking.aclose()

    async def _uncut(self) -> AsyncGenerator[Samples, None]:
        """Yield everything, silence only once the part behind it has begun to sound.

        So a voice that fails at the first part is found out before anything has been heard.
        """
        while (part := await self._next()) is not None:
            if isinstance(part, Pause):
                self._add_silence(part)
                continue
            async for samples in self._samples_of(part):
                for silence in self._take_silence(self._silence_s + self._gap_s):
                    yield silence
                self._has_sounded = self._is_speech = True
                yield samples
                self._is_speech = False
            self._end_part()
        if self.finish_reason is None:
            for silence in self._take_silence(self._silence_s):
                yield silence

    def _add_silence(self, pause: Pause) -> None:
        if not pause.is_gap:
            self._silence_s += pause.duration_s
        elif self._has_sounded:
            self._gap_s = pause.duration_s

    async def _next(self) -> Part | None:
        """Wait for the next part; None when there is none to come."""
        while not self._parts and not self._is_complete and self.finish_reason is None:
            self._has_news.clear()
            self.waits_for_part = True
            await self._has_news.wait()
        self.waits_for_part = False
        return self._parts.popleft() if self._parts and self.finish_reason is None else None

    async def _samples_of(self, start: Callable[[], PcmStream]) -> AsyncIterator[Samples]:
        try:
            self._speaking = start()
            if self._timeline is not None:
                self._timeline.begin_part()
            async for samples in self._speaking:
                yield samples
        except TTSError:
            self.finish_reason = self.finish_reason or "error"
            raise
        if self._speaking.finish_reason != "stop":
            self.finish_reason = self.finish_reason or self._speaking.finish_reason

    def _take_silence(self, duration_s: float) -> Iterator[Samples]:
        """Yield the silence that is due, a second at a time."""
        left = round(duration_s * self._sample_rate_hz)
        self._silence_s = self._gap_s = 0.0
        while left > 0:
            yield np.zeros(min(left, self._sample_rate_hz), np.float32)
            left -= self._sample_rate_hz
