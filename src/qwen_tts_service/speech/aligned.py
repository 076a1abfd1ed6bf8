"""Word times for voices that know none: an aligner looks for the words in each finished sentence.

Nothing here makes an aligner; `Synthesizer` takes one, and refuses word times without it.
"""

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from qwen_tts_service.types import FinishReason, Language, PcmStream, Samples, WordAligner, WordMark


class AlignedStream:
    """A `WordTimedStream` that passes samples on at once, and has all words once they have ended.

    text, language: of the utterance
    """

    def __init__(
        self,
        stream: PcmStream,
        aligner: WordAligner,
        *,
        sample_rate_hz: int,
        text: str,
        language: Language,
    ) -> None:
        self._stream = stream
        self._aligner = aligner
        self._sample_rate_hz = sample_rate_hz
        self._text = text
        self._language = language
        self._words: list[WordMark] = []

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._stream.finish_reason

    async def __aiter__(self) -> AsyncIterator[Samples]:
        chunks: list[Samples] = []
        async for samples in self._stream:
            chunks.append(samples)
            yield samples
        if chunks:
            self._words = await asyncio.to_thread(
                self._aligner.align,
                np.concatenate(chunks),
                self._sample_rate_hz,
                self._text,
                self._language,
            )

    def take_words(self) -> list[WordMark]:
        """Take all words at the end; none before."""
        words, self._words = self._words, []
        return words

    async def aclose(self) -> None:
        """Stop speaking; harmless when repeated."""
        await self._stream.aclose()
