"""When the sentences or words of a text are heard, noted while the text is spoken.

Positions are samples at the voice's rate, from the beginning of the speech; `AudioPipe.time_s`
tells when they are heard in the audio that is sent.
"""

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qwen_tts_service.text.places import find
from qwen_tts_service.types import Places, Samples, Stretch, TimestampUnit, WordMark

LOUD = 0.003
"""Quieter samples count as silence, -50 dB: so quiet is the noise that a voice makes in pauses."""
MOST_MARKS = 8
"""How many quotes, brackets and marks of emphasis may begin a sentence."""
# What belongs to a sentence beside its words.
_BEFORE = re.compile(r"[\"'«„“‘(¿¡*_~`]*\Z")
_BEHIND = re.compile(r"[.,!?…:;»”’\"')。，、！？；：」』）*_~`]*")


@dataclass(frozen=True, slots=True)
class HeardSpan:
    """Samples in which characters of the text as it was sent are heard."""

    start_sample: int
    end_sample: int
    start_char: int
    end_char: int


class Timeline:
    """Takes down when the parts of a text are heard; told of by a `PartSequence`.

    sent: the text as it was sent
    places: of the text of each part in it
    """

    def __init__(self, sent: str, places: Iterable[Places], unit: TimestampUnit) -> None:
        self.sent = sent
        self.spans: list[HeardSpan] = []
        """What has been heard to its end."""
        self.begun: HeardSpan | None = None
        """The sentence that is being heard, up to now."""
        self._unit = unit
        self._waiting = deque(places)
        self._places: Sequence[Stretch] = ()
        self._position = 0
        self._end_char = 0  # of the last span
        self._part_start: int | None = None
        self._words: deque[WordMark] = deque()  # not heard to their end yet
        self._word: HeardSpan | None = None  # heard, and perhaps followed by more of it

    def begin_part(self) -> None:
        """Begin the next part, which is not heard yet."""
        self._places = self._waiting.popleft()
        self._part_start = None

    def hear(self, samples: Samples, *, is_speech: bool) -> None:
        """Take down the next samples, float32 [N]: of the part, or silence before or behind it."""
        if is_speech and self._part_start is None:
            self._part_start = self._position
        if is_speech and self._unit == "sentence":
            self._hear_sentence(samples)
        self._position += len(samples)

    def _hear_sentence(self, samples: Samples) -> None:
        loud = np.flatnonzero(np.abs(samples) > LOUD)
        if not len(loud):
            return
        if self.begun is None:
            if (chars := self._sentence()) is None:
                return
            self.begun = HeardSpan(self._position + int(loud[0]), self._position, *chars)
        self.begun = replace(self.begun, end_sample=self._position + int(loud[-1]) + 1)

    def _sentence(self) -> tuple[int, int] | None:
        """Where the part stands as it was sent, with the marks around its words."""
        if (found := find(self._places, 0, self._places[-1].end if self._places else 0)) is None:
            return None
        start, end = max(found[0], self._end_char), found[1]
        text = self.sent[start:end]
        if not text.strip():  # it was rewritten together with the sentence before
            return None
        start += len(text) - len(text.lstrip())
        end -= len(text) - len(text.rstrip())
        before = _BEFORE.search(self.sent, max(self._end_char, start - MOST_MARKS), start)
        behind = _BEHIND.match(self.sent, end)
        return before.start() if before else start, behind.end() if behind else end

    def hear_words(self, words: Iterable[WordMark]) -> None:
        """Take down words of the part; each counts once it has been heard to its end."""
        self._words.extend(words)
        while self._words and self._heard_of_part >= self._words[0].end_sample:
            self._hear_word(self._words.popleft())

    @property
    def _heard_of_part(self) -> int:
        return 0 if self._part_start is None else self._position - self._part_start

    def _hear_word(self, word: WordMark) -> None:
        shift = self._position - self._heard_of_part
        start, end = shift + word.start_sample, min(shift + word.end_sample, self._position)
        found = find(self._places, word.start_char, word.end_char)
        if self._word and (found is None or found[0] < self._word.end_char):
            last = max(self._word.end_char, found[1] if found else 0)
            self._word = replace(self._word, end_sample=end, end_char=last)
        elif found and found[1] > self._end_char:  # else it was rewritten together with another
            self._end_word()
            self._word = HeardSpan(start, end, max(found[0], self._end_char), found[1])

    def _end_word(self) -> None:
        if self._word is not None:
            self.spans.append(self._word)
            self._end_char = self._word.end_char
            self._word = None

    def end_part(self) -> None:
        """Say that the part has been heard; repeated calls change nothing."""
        for word in self._words:  # of speech that was cut, as far as it was heard
            if word.start_sample < self._heard_of_part:
                self._hear_word(word)
        self._words.clear()
        self._end_word()
        if self.begun is not None:
            self.spans.append(self.begun)
            self._end_char = self.begun.end_char
            self.begun = None
