"""A part of a speech that neither begins nor ends with a click, as it is joined to silence."""

from collections.abc import AsyncIterator

from qwen_tts_service.audio.edges import EdgeFader
from qwen_tts_service.types import FinishReason, PcmStream, Samples, WordMark, words_of


class FadedStream:
    """A `PcmStream` whose edges are faded where they are not near zero; see `EdgeFader`."""

    def __init__(self, pcm: PcmStream, sample_rate_hz: int) -> None:
        self._pcm = pcm
        self._fader = EdgeFader(sample_rate_hz)

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._pcm.finish_reason

    async def __aiter__(self) -> AsyncIterator[Samples]:
        async for samples in self._pcm:
            if len(ready := self._fader.feed(samples)):
                yield ready
        if len(rest := self._fader.finish()):
            yield rest

    def take_words(self) -> list[WordMark]:
        """Take the words that the voice has found, if it finds any."""
        return words_of(self._pcm)

    async def aclose(self) -> None:
        """Stop the speech; harmless when repeated."""
        await self._pcm.aclose()
