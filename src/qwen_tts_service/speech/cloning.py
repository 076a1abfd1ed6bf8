"""Voice cloning: from a recording's file to a voice that can be spoken with or kept."""

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from qwen_tts_service.audio.recording import TAIL_S, read_recording
from qwen_tts_service.errors import Busy, CannotClone
from qwen_tts_service.text.language import detect_language
from qwen_tts_service.types import CloningVoice, KeptVoice, Language, Voice, VoiceReference

T = TypeVar("T")
R = TypeVar("R")

MOST_REMEMBERED = 32
MOST_WAITING = 8
"""Recordings that wait to be cloned; each takes seconds and holds its file."""
_RETRY_AFTER_S = 10
_SCRIPTS: dict[Language, tuple[float, float]] = {
    "chinese": (2.0, 8.0),
    "japanese": (3.0, 12.0),
    "korean": (2.5, 10.0),
}
_ALPHABETS = (6.0, 25.0)
"""Letters and digits a second in very slow and in very fast speech, pauses included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloningOrder:
    """A recording's file, and what is said in it; equal ones make the same clone.

    language: of the transcript, where it is known
    has_tail: whether silence is to follow a recording with a transcript
    """

    data: bytes
    transcript: str | None = None
    language: Language | None = None
    has_tail: bool = True

    @property
    def key(self) -> bytes:
        """The same for equal orders, and short."""
        rest = repr((self.transcript, self.language, self.has_tail)).encode()
        return hashlib.sha256(hashlib.sha256(self.data).digest() + rest).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A cloned voice and what is known of its recording.

    kind: the recording's format, such as "wav"
    duration_s, tail_s: of the recording, and of the silence that was added to it
    warning: what may make it speak badly, in ASCII
    """

    voice: KeptVoice
    kind: str
    duration_s: float
    tail_s: float
    warning: str | None = None


class VoiceCloner:
    """Clones voices, one after the other on a thread of its own, and remembers the last ones."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clone")
        self._waiting = 0
        self._known: OrderedDict[bytes, Clone] = OrderedDict()
        self._lock = threading.Lock()

    async def clone(self, order: CloningOrder) -> Clone:
        """Clone on the thread, from the event loop; also raises Busy.

        A recording that is remembered waits for no other.
        """
        if (known := await asyncio.to_thread(self._remembered, order)) is not None:
            return known
        return await self.run(self.clone_now, order)

    async def run(self, work: Callable[[T], R], argument: T) -> R:
        """Do on the thread what clones a recording; also raises Busy."""
        if self._waiting >= MOST_WAITING:
            raise Busy("too many recordings wait to be cloned", retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(work, argument))
        finally:
            self._waiting -= 1

    def clone_now(self, order: CloningOrder) -> Clone:
        """Clone on the calling thread; takes seconds.

        raises: CannotClone if the loaded model cannot, InvalidRequest for a wrong recording
        """
        if (known := self._remembered(order)) is not None:
            return known
        clone = _clone(self._voice, order)
        with self._lock:
            self._known[order.key] = clone
            if len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return clone

    def _remembered(self, order: CloningOrder) -> Clone | None:
        key = order.key  # reads the whole file
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def close(self) -> None:
        """Forget what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _clone(voice: Voice, order: CloningOrder) -> Clone:
    if not isinstance(voice, CloningVoice):
        raise CannotClone
    recording = read_recording(order.data)
    transcript = (order.transcript or "").strip() or None
    # What is heard of the speaker alone is not continued, so that no word can slip into it.
    is_tailed = transcript is not None and order.has_tail
    samples = recording.with_tail() if is_tailed else recording.samples
    at_odds = transcript and _implausible(transcript, order.language, recording.duration_s)
    return Clone(
        voice=voice.clone(VoiceReference(samples=samples, transcript=transcript)),
        kind=recording.kind,
        duration_s=recording.duration_s,
        tail_s=TAIL_S if is_tailed else 0.0,
        warning="; ".join(filter(None, [recording.warning, at_odds])) or None,
    )


def _implausible(transcript: str, language: Language | None, duration_s: float) -> str | None:
    """A warning if nobody speaks so fast or so slowly: then it is not what is said there."""
    language = language or detect_language(transcript, "english")
    pace = sum(map(str.isalnum, transcript)) / duration_s
    least, most = _SCRIPTS.get(language, _ALPHABETS)
    if least <= pace <= most:
        return None
    return (
        f"ref_text has {pace:.1f} letters for a second of the recording, and {least:g} to {most:g} "
        f"are usual in {language}: unless it is exactly what is said, all of it and no more, "
        "the speech may not end"
    )
