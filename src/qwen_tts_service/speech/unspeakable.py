"""A short silence in place of text that a voice cannot speak, for requests that ask for that."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

from qwen_tts_service.errors import CannotSpeak
from qwen_tts_service.text.places import cut
from qwen_tts_service.text.segments import Pause
from qwen_tts_service.text.split import is_speakable
from qwen_tts_service.types import (
    FinishReason,
    PcmStream,
    Places,
    Samples,
    SpeechRequest,
    Utterance,
    WordMark,
    words_of,
)


@dataclass(frozen=True, slots=True)
class Unspoken(Pause):
    """Silence instead of text."""


SILENCE = Unspoken(0.2)
WARNING = f"text without a reading was replaced by {SILENCE.duration_s} s of silence"
NO_READING = "no_reading"

Prepare = Callable[[SpeechRequest], Utterance]
"""Prepares a part of a text, as `Voice.prepare`."""

# After a letter alone too, where split.py expects a name: "Ѣ. Пока." shall lose no more than "Ѣ.".
_SENTENCE_END = re.compile(r"(?<=[.!?…])(?=\s)(?!\s+\Z)|(?<=[。！？\n])(?!\Z)")


class SpokenPart(NamedTuple):
    """A part made ready to speak, its text, and where that stands in the text as it was sent."""

    utterance: Utterance
    text: str
    places: Places


def prepare_or_silence(prepare: Prepare, part: SpeechRequest) -> list[SpokenPart | Pause]:
    """Prepare a part; one without a reading is refused or silenced, as the request says.

    Only the sentences that have none are silenced. Raises TTSError as `Voice.prepare` does.
    """
    try:
        return [SpokenPart(prepare(part), part.text or "", part.places)]
    except CannotSpeak as error:
        if error.code != NO_READING or part.on_unspeakable == "error":
            raise
    sentences = list(filter(is_speakable, _SENTENCE_END.split(part.text or "")))
    if len(sentences) < 2:
        return [SILENCE]
    return list(_sentence_by_sentence(prepare, part, sentences))


def _sentence_by_sentence(
    prepare: Prepare, part: SpeechRequest, sentences: list[str]
) -> Iterator[SpokenPart | Pause]:
    """Sentences with a reading that follow each other stay together, as in any other text."""
    end = 0

    def has_reading(sentence: str) -> bool:
        return SILENCE not in prepare_or_silence(prepare, replace(part, text=sentence.strip()))

    for is_read, run in groupby(sentences, has_reading):
        said = list(run)
        start = (part.text or "").index(said[0].strip(), end)
        end = start + sum(map(len, said))
        if is_read:
            text = "".join(said).strip()
            utterance = prepare(replace(part, text=text))
            yield SpokenPart(utterance, text, cut(part.places, start, end))
        else:
            yield from (SILENCE for _ in said)


class SpokenOrSilent:
    """A `PcmStream` that is silent for a moment if the voice finds no reading after all.

    silence: float32 [N]; on_silence: called before it
    """

    def __init__(
        self, stream: PcmStream, *, silence: Samples, on_silence: Callable[[], object]
    ) -> None:
        self._stream = stream
        self._silence = silence
        self._on_silence = on_silence
        self._is_silent = False

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return "stop" if self._is_silent else self._stream.finish_reason

    async def __aiter__(self) -> AsyncIterator[Samples]:
        has_sound = False
        try:
            async for samples in self._stream:
                has_sound = True
                yield samples
        except CannotSpeak as error:
            if has_sound or error.code != NO_READING:
                raise
            self._is_silent = True
            self._on_silence()
            yield self._silence

    def take_words(self) -> list[WordMark]:
        """Take the words that the voice has found, if it finds any."""
        return words_of(self._stream)

    async def aclose(self) -> None:
        """Stop speaking; harmless when repeated."""
        await self._stream.aclose()
