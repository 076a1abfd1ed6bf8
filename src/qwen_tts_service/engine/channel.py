"""A bounded channel that carries audio from a thread to the event loop.

The producer is a thread that must be able to see a full channel (`has_room`), a reader who has
left (`is_cancelled`) and to wait for either. The consumer is one coroutine.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator

from qwen_tts_service.errors import TTSError
from qwen_tts_service.types import FinishReason, Samples


class PcmChannel:
    """One utterance's audio on its way out; a `PcmStream` for whoever reads it.

    Made on the event loop that reads it. `capacity_samples` bounds what waits inside: the
    channel is full once that much waits, so at most one chunk more than this is ever held.
    """

    def __init__(self, *, capacity_samples: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._readable = asyncio.Event()
        self._lock = threading.Condition()
        self._chunks: deque[Samples] = deque()
        self._waiting_samples = 0
        self._capacity_samples = capacity_samples
        self._is_cancelled = False
        self._is_closed = False
        self._finish_reason: FinishReason | None = None
        self._error: TTSError | None = None

    # The producer's side, any thread -------------------------------------------------

    @property
    def is_cancelled(self) -> bool:
        """Whether the reader has left; nothing put from now on is kept."""
        return self._is_cancelled

    @property
    def has_room(self) -> bool:
        """Whether the reader keeps up; a producer that respects it stays bounded."""
        return self._waiting_samples < self._capacity_samples

    def put(self, samples: Samples) -> None:
        """Hand over samples, float32 [N]; never blocks, dropped if the reader has left."""
        with self._lock:
            if self._is_cancelled or self._is_closed or not len(samples):
                return
            self._chunks.append(samples)
            self._waiting_samples += len(samples)
        self._wake_reader()

    def wait_for_room(self) -> bool:
        """Block until there is room; False once the reader has left."""
        with self._lock:
            self._lock.wait_for(lambda: self.has_room or self._is_cancelled)
            return not self._is_cancelled

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
            self._finish_reason = "cancelled" if self._is_cancelled else reason
            self._error = error
        self._wake_reader()

    def _wake_reader(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._readable.set)
        except RuntimeError:  # the loop is closed: the reader is gone, and so is the need
            self._is_cancelled = True

    # The consumer's side, on the event loop ------------------------------------------

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._finish_reason

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
                return None, self._is_closed or self._is_cancelled
            chunk = self._chunks.popleft()
            self._waiting_samples -= len(chunk)
            self._lock.notify_all()
            return chunk, self._is_closed

    async def aclose(self) -> None:
        """Leave: drop what waits and let the producer see it. Harmless when repeated."""
        with self._lock:
            self._is_cancelled = True
            self._chunks.clear()
            self._waiting_samples = 0
            if self._finish_reason is None:
                self._finish_reason = "cancelled"
            self._lock.notify_all()
        self._readable.set()
