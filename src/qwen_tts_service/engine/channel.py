"""A bounded channel that carries audio from a thread to the event loop.

The producer is a thread that looks whether the channel is full (`has_room`) and whether the reader
has left (`is_cancelled`). The consumer is one coroutine.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator

from qwen_tts_service.errors import TTSError
from qwen_tts_service.types import FinishReason, Samples


class PcmChannel:
    """One utterance's audio on its way to the reader, for whom it is a `PcmStream`.

    Made on the event loop that reads it. `capacity_samples` bounds what waits inside: the
    channel is full once that much waits, so at most one chunk more than this is ever held.
    """

    def __init__(self, *, capacity_samples: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._readable = asyncio.Event()
        self._lock = threading.Lock()
        self._chunks: deque[Samples] = deque()
        self._waiting_samples = 0
        self._capacity_samples = capacity_samples
        self.is_cancelled = False
        """Whether the reader has left; nothing put from now on is kept."""
        self._is_closed = False
        self.finish_reason: FinishReason | None = None
        """How the audio ended; None while it has not."""
        self._error: TTSError | None = None

    # The producer's side, any thread -------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether the reader keeps up; a producer that respects it stays bounded."""
        return self._waiting_samples < self._capacity_samples

    def put(self, samples: Samples) -> None:
        """Hand over samples, float32 [N]; never blocks, dropped if the reader has left."""
        with self._lock:
            if self.is_cancelled or self._is_closed or not len(samples):
                return
            self._chunks.append(samples)
            self._waiting_samples += len(samples)
        self._wake_reader()

    def close(self, reason: FinishReason = "stop") -> None:
        """End the speech; the reader still gets all that waits. Later calls change nothing."""
        self._end(reason, None)

    def fail(self, error: TTSError) -> None:
        """End in failure; the reader gets what waits and then `error`."""
        self._end("error", error)

    def _end(self, reason: FinishReason, error: TTSError | None) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.finish_reason = "cancelled" if self.is_cancelled else reason
            self._error = error
        self._wake_reader()

    def _wake_reader(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._readable.set)
        except RuntimeError:  # the loop is closed: the reader is gone, and so is the need
            self.is_cancelled = True

    # The consumer's side, on the event loop ------------------------------------------

    async def __aiter__(self) -> AsyncIterator[Samples]:
        while True:
            chunk, is_closed = self._take()
            if chunk is not None:
                yield chunk
            elif not is_closed:
                await self._readable.wait()
            elif self._error is not None:
                raise self._error
            else:
                return

    def _take(self) -> tuple[Samples | None, bool]:
        with self._lock:
            # Cleared under the lock: a producer that puts afterwards sets it again.
            self._readable.clear()
            if not self._chunks:
                return None, self._is_closed or self.is_cancelled
            chunk = self._chunks.popleft()
            self._waiting_samples -= len(chunk)
            return chunk, self._is_closed

    async def aclose(self) -> None:
        """Close: drop what waits and let the producer see it; repeated calls change nothing."""
        with self._lock:
            self.is_cancelled = True
            self._chunks.clear()
            self._waiting_samples = 0
            if self.finish_reason is None:
                self.finish_reason = "cancelled"
        self._readable.set()
