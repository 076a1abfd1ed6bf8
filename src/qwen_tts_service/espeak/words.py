"""When the words of an utterance are heard, from espeak-ng's events and from the sound itself.

espeak-ng tells where a word begins in the samples and in the text that it was given. Where a word
ends is heard: at the last sound before the next one. Positions are led back through all that was
done to the text to the text that the utterance was asked for.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qwen_tts_service.text.places import align, cut, find, through
from qwen_tts_service.types import Samples, Stretch, WordMark

LOUD = 0.003
"""Quieter samples are silence, -50 dB: a word begins with the first that is not."""
FADED = 0.01
"""A word has ended when it is quieter for good, -40 dB: what is left is the echo that some speakers
have for up to 0.14 s. See docs/log.md, 1 December 2026."""

WordBegin = tuple[int, int]
"""Sample and character at which a word begins."""


class UtteranceWords:
    """Collects the words of one utterance, piece by piece and run by run, on the worker.

    text: what was asked for, or what it was rewritten as; then `places` are those of that in it
    """

    def __init__(
        self, text: str, pieces: Sequence[str], places: Sequence[Stretch] | None = None
    ) -> None:
        aligned = align(text, " ".join(pieces))
        self._places = aligned if places is None else through(aligned, places)
        self._next_char = 0  # of the pieces with a space between them
        self._next_sample = 0  # of the utterance
        self._piece: list[WordMark] = []
        self._piece_samples = 0
        self._found: deque[WordMark] = deque()

    def add_run(
        self, run: str, spoken: str, begins: Sequence[WordBegin], samples: Samples, kept: slice
    ) -> None:
        """Add the words of the next run of the piece that is being spoken.

        spoken: what espeak-ng was given for it; samples: what it made of that, float32 [N]
        kept: what was kept of the samples
        """
        of_run = cut(self._places, self._next_char, self._next_char + len(run))
        places = through(align(run, spoken), of_run)
        samples = samples[: kept.stop]
        level = np.abs(samples)
        is_loud, is_full = level > LOUD, level > FADED
        shift = self._next_sample + self._piece_samples - kept.start
        ends = [*begins[1:], (kept.stop, len(spoken))]
        for (begin, first_char), (end, end_char) in zip(begins, ends, strict=True):
            loud, full = (np.flatnonzero(is_so[begin:end]) for is_so in (is_loud, is_full))
            first = begin + int(loud[0]) if len(loud) else begin
            last = begin + int(full[-1]) + 1 if len(full) else max(begin, end)
            chars = _whole_word(spoken, first_char, end_char)
            found = find(places, *chars) or (0, 0)
            self._piece.append(WordMark(first + shift, last + shift, *found))
        self._next_char += len(run)
        self._piece_samples += kept.stop - kept.start

    def stretch_piece(self, factor: float) -> None:
        """Say that the piece is heard so many times as fast as it was made."""
        offset = self._next_sample

        def stretched(sample: int) -> int:
            return offset + round((sample - offset) / factor)

        self._piece = [
            replace(
                mark,
                start_sample=stretched(mark.start_sample),
                end_sample=stretched(mark.end_sample),
            )
            for mark in self._piece
        ]

    def end_piece(self, samples: int) -> None:
        """Say how many samples of the piece are heard; 0 if it is left out."""
        self._next_char += 1  # the space between two pieces
        if samples:
            self._found.extend(self._piece)
            self._next_sample += samples
        self._piece, self._piece_samples = [], 0

    def take(self, samples: int) -> list[WordMark]:
        """Take the words within so many samples of the utterance; on any thread."""
        found = []
        while self._found and self._found[0].start_sample < samples:
            found.append(self._found.popleft())
        return found


def _whole_word(text: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a word without marks; espeak-ng has several words for one number."""
    while start and text[start - 1 : start + 1].isdecimal():
        start -= 1
    end = max(end, start + 1)
    while text[end - 1 : end + 1].isdecimal() and end < len(text):
        end += 1
    while end > start + 1 and not text[end - 1].isalnum():
        end -= 1
    return start, end
