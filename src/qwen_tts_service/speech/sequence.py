"""Several utterances, and silences between them, as one stream of audio.

It does not know what an utterance is, nor which voice speaks.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Generic

import numpy as np

from qwen_tts_service.errors import TTSError
from qwen_tts_service.text.split import Pause
from qwen_tts_service.types import FRAME_S, FinishReason, PcmStream, Samples, UtteranceT


class ScriptStream(Generic[UtteranceT]):
    """A `PcmStream` that speaks one part after the other and holds one part's audio at a time.

    speak: starts an utterance; the next one starts when the one before has ended
    max_frames: of all parts together, silence included; the speech is cut there as "length"

    A part that ends in any other way than "stop" is the end of the whole.
    """

    def __init__(
        self,
        parts: Sequence[UtteranceT | Pause],
        speak: Callable[[UtteranceT], PcmStream],
        *,
        sample_rate_hz: int,
        max_frames: int,
    ) -> None:
        self._parts = parts
        self._speak = speak
        self._sample_rate_hz = sample_rate_hz
        self._samples_left = round(max_frames * FRAME_S * sample_rate_hz)
        self._silence_s = 0.0
        self._speaking: PcmStream | None = None
        self._finish_reason: FinishReason | None = None

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._finish_reason

    async def __aiter__(self) -> AsyncIterator[Samples]:
        async with aclosing(self._perform()) as performance:
            async for samples in performance:
                kept = samples[: self._samples_left]
                self._samples_left -= len(kept)
                if len(kept):
                    yield kept
                if len(kept) < len(samples):
                    await self._end("length")
                if self._finish_reason is not None:
                    return
        self._finish_reason = self._finish_reason or "stop"

    async def aclose(self) -> None:
        """Stop the part that speaks and start no other; harmless when repeated."""
        await self._end("cancelled")

    async def _end(self, reason: FinishReason) -> None:
        self._finish_reason = self._finish_reason or reason
        if self._speaking is not None:
            await self._speaking.aclose()

    async def _perform(self) -> AsyncGenerator[Samples, None]:
        """Yield everything, silence only once the part behind it has begun to sound.

        So a voice that fails at the first part is found out before anything has been heard.
        """
        for part in self._parts:
            if self._finish_reason is not None:
                return
            if isinstance(part, Pause):
                self._silence_s += part.duration_s
                continue
            async for samples in self._samples_of(part):
                for silence in self._take_silence():
                    yield silence
                yield samples
        if self._finish_reason is None:
            for silence in self._take_silence():
                yield silence

    async def _samples_of(self, utterance: UtteranceT) -> AsyncIterator[Samples]:
        try:
            self._speaking = self._speak(utterance)
            async for samples in self._speaking:
                yield samples
        except TTSError:
            self._finish_reason = "error"
            raise
        if self._speaking.finish_reason != "stop":
            self._finish_reason = self._finish_reason or self._speaking.finish_reason

    def _take_silence(self) -> Iterator[Samples]:
        """Yield the silence that is due, a second at a time."""
        left = round(self._silence_s * self._sample_rate_hz)
        self._silence_s = 0.0
        while left > 0:
            yield np.zeros(min(left, self._sample_rate_hz), np.float32)
            left -= self._sample_rate_hz
