"""Jobs: one utterance for the engine to speak, as token ids and numbers."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from qwen_tts_service.types import KeptVoice, Layout, SamplingOptions


class TextFeed:
    """The rest of a text that is still being written: filled by one thread, emptied by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: deque[int] = deque()
        self._runaway_frames: int | None = None
        self.is_awaited = False
        """Whether all that was taken has been spoken; set by the thread that takes."""

    def put(self, ids: Sequence[int]) -> None:
        """Add text ids behind those that are there."""
        with self._lock:
            self._ids.extend(ids)

    def finish(self, runaway_frames: int) -> None:
        """Say that the text is complete, and what it can need at most; `Job` says the rest."""
        with self._lock:
            self._runaway_frames = runaway_frames

    def take(self, most: int) -> tuple[list[int], int | None]:
        """Return up to `most` ids and, with the last of a complete text, its runaway_frames."""
        with self._lock:
            ids = [self._ids.popleft() for _ in range(min(most, len(self._ids)))]
            return ids, None if self._ids else self._runaway_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One utterance.

    ids: a whole utterance in the tokenizer's ids; instruct_ids: a whole instruction or nothing
    speaker: of a checkpoint that has some; voice: for one that clones
    reference_ids: the whole transcript of the voice's recording, if it has one
    language: a language of the checkpoint, or "auto"
    max_frames: what the caller allows; the speech then ends as "length"
    runaway_frames: what the text can need at most; the speech then ends as "runaway"
    feed: where the text goes on, for one that is still being written; `ids` then has its first
        token or more, `layout` is "streaming_text", and the speech pauses when the text runs out
    """

    ids: tuple[int, ...]
    instruct_ids: tuple[int, ...] = ()
    speaker: str | None = None
    voice: KeptVoice | None = None
    reference_ids: tuple[int, ...] = ()
    language: str
    layout: Layout = "full_text"
    seed: int
    sampling: SamplingOptions
    max_frames: int
    runaway_frames: int
    feed: TextFeed | None = None
