"""One utterance's audio, synthesised a piece at a time, one piece ahead of its reader.

Pieces of all utterances take turns on the one worker thread, so a long text never keeps a short
one waiting, and a reader who is slow or gone costs at most the piece in the making.
"""

import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from contextlib import closing

import numpy as np

from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import NotReady, SynthesisFailed, TTSError
from qwen_tts_service.types import FinishReason, Samples, WordMark

from . import no_reading
from .words import UtteranceWords

logger = logging.getLogger(__name__)

Synthesise = Callable[[str], Generator[Samples, None, None]]
"""Speak a piece in chunks float32 [N]; closing it stops the speech."""


class EspeakStream:
    """A `PcmStream` that starts at once; what it yields has one piece of text each.

    Made on the event loop that reads it. It fails with NotReady once the worker is shut down.

    max_samples: the speech is cut there, with finish reason ``"length"``
    words: collects when its words are heard, if that is asked for; `synthesise` adds to it
    """

    def __init__(
        self,
        pieces: Iterable[str],
        synthesise: Synthesise,
        worker: Executor,
        *,
        max_samples: int,
        words: UtteranceWords | None = None,
    ) -> None:
        self._pieces = iter(pieces)
        self._synthesise = synthesise
        self._worker = worker
        self._samples_left = max_samples
        self._has_spoken = False
        self._words = words
        self._given_samples = 0
        self._channel = PcmChannel(capacity_samples=1)
        self._start_next()

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._channel.finish_reason

    async def __aiter__(self) -> AsyncIterator[Samples]:
        async for samples in self._channel:
            self._start_next()
            self._given_samples += len(samples)
            yield samples

    def take_words(self) -> list[WordMark]:
        """Take the words of the samples that have been given out."""
        return [] if self._words is None else self._words.take(self._given_samples)

    async def aclose(self) -> None:
        """Stop within one chunk and start nothing more; harmless when repeated."""
        await self._channel.aclose()

    def _start_next(self) -> None:
        """Give the next piece to the worker, or end: at the length, or after the last piece."""
        if self._channel.is_cancelled:
            return
        if self._samples_left == 0:
            self._channel.close("length")
        elif (piece := next(self._pieces, None)) is not None:
            try:
                self._worker.submit(self._speak, piece).add_done_callback(self._pass_on)
            except RuntimeError:  # it has been shut down
                self._channel.fail(NotReady("the service is stopping"))
        elif self._has_spoken:
            self._channel.close()
        else:
            self._channel.fail(no_reading("text has nothing that the embedded voice can speak"))

    def _speak(self, piece: str) -> Samples:
        """On the worker: synthesise a piece, as much of it as the length allows."""
        chunks: list[Samples] = [np.zeros(0, np.float32)]
        with closing(self._synthesise(piece)) as made:
            while self._samples_left and not self._channel.is_cancelled:
                if (chunk := next(made, None)) is None:
                    break
                chunks.append(chunk[: self._samples_left])
                self._samples_left -= len(chunks[-1])
        return np.concatenate(chunks)

    def _pass_on(self, spoken: "Future[Samples]") -> None:
        """On the worker: hand a piece to the reader; one without a sound is left out."""
        error = spoken.exception()
        if isinstance(error, TTSError):
            self._channel.fail(error)
        elif error is not None:
            logger.error("the embedded voice failed", exc_info=error)
            self._channel.fail(SynthesisFailed("the embedded voice failed; the log says why"))
        elif spoken.result().any() or self._samples_left == 0:
            self._has_spoken = True
            self._end_piece(len(spoken.result()))
            self._channel.put(spoken.result())
        else:  # espeak-ng had no sound for it, and a lone pause is no speech
            self._end_piece(0)
            self._start_next()

    def _end_piece(self, samples: int) -> None:
        if self._words is not None:
            self._words.end_piece(samples)
