"""One utterance's audio, synthesised a piece at a time, one piece ahead of its reader.

Pieces of all utterances take turns on the one worker thread, so a long text never keeps a
short one waiting, and a reader who is slow or gone costs at most the piece in the making.
It does not know how a piece is synthesised.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future

import numpy as np

from qwen_tts_service.errors import CannotSpeak, NotReady, SynthesisFailed, TTSError
from qwen_tts_service.types import FinishReason, Samples

Synthesise = Callable[[str, Callable[[Samples], bool]], None]
"""Speak a piece, passing each chunk float32 [N] on until that returns False."""


class EspeakStream:
    """A `PcmStream` that starts at once; what it yields has one piece of text each.

    max_samples: the speech is cut there, with finish reason ``"length"``
    raises: NotReady once the worker has been shut down, here or while iterating
    """

    def __init__(
        self, pieces: Sequence[str], synthesise: Synthesise, worker: Executor, *, max_samples: int
    ) -> None:
        self._pieces: Iterator[str] = iter(pieces)
        self._synthesise = synthesise
        self._worker = worker
        self._samples_left = max_samples
        self._is_cancelled = False
        self._finish_reason: FinishReason | None = None
        self._ahead = self._start_next()

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._finish_reason

    async def __aiter__(self) -> AsyncIterator[Samples]:
        has_spoken = False
        try:
            while (piece := await self._take()) is not None:
                if piece.any() or self._finish_reason == "length":
                    has_spoken = True
                    yield piece
                # else: espeak-ng had no sound for it, and a lone pause is no speech
        except TTSError:
            self._finish_reason = "error"
            raise
        if not has_spoken and self._finish_reason == "stop":
            self._finish_reason = "error"
            raise CannotSpeak(
                "text has nothing that the embedded voice can speak",
                param="text",
                code="no_reading",
            )

    async def aclose(self) -> None:
        """Stop within one chunk and start nothing more; harmless when repeated."""
        self._is_cancelled = True
        if self._ahead is not None:
            self._ahead.cancel()
        if self._finish_reason is None:
            self._finish_reason = "cancelled"

    async def _take(self) -> Samples | None:
        """Wait for the piece in the making, start the next; None at the end."""
        if self._finish_reason is not None or self._ahead is None:
            self._finish_reason = self._finish_reason or "stop"
            return None
        made = asyncio.wrap_future(self._ahead)
        await asyncio.wait({made})  # unlike `await made`, ends normally when aclose() cancels it
        if self._is_cancelled:
            return None
        samples = made.result()
        self._samples_left -= len(samples)
        self._ahead = self._start_next()
        if self._samples_left == 0:
            self._finish_reason = "length"
        return samples

    def _start_next(self) -> "Future[Samples] | None":
        piece = next(self._pieces, None) if self._samples_left > 0 else None
        if piece is None:
            return None
        try:
            return self._worker.submit(self._speak, piece, self._samples_left)
        except RuntimeError:
            raise NotReady("the service is stopping") from None

    def _speak(self, piece: str, max_samples: int) -> Samples:
        """On the worker: synthesise a piece, at most `max_samples` of it."""
        chunks: list[Samples] = []
        room = max_samples

        def keep(chunk: Samples) -> bool:
            nonlocal room
            chunks.append(chunk[:room])
            room -= len(chunks[-1])
            return room > 0 and not self._is_cancelled

        if not self._is_cancelled:
            try:
                self._synthesise(piece, keep)
            except OSError as error:
                raise SynthesisFailed("espeak-ng could not be loaded") from error
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
