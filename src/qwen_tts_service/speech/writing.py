"""The speech of a text that is still being written, as one stream of audio.

It waits for enough text to know the language, hands every word on as soon as it is complete, and
begins a new utterance at a sentence end when one has become long, so that the voice stays what it
is. Whatever the pieces in which the text comes, the speech is the same. It does not know which
voice speaks, nor who writes.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np

from qwen_tts_service.errors import CannotSpeak, InvalidRequest, TTSError
from qwen_tts_service.text.language import detect_language
from qwen_tts_service.text.split import SentenceSplitter, is_speakable
from qwen_tts_service.text.words import WordNormaliser
from qwen_tts_service.types import (
    FRAME_S,
    FinishReason,
    Language,
    OpenUtterance,
    Samples,
    SpeechRequest,
    TextStreamer,
    VoiceChoice,
)

LANGUAGE_CHARS = 20
"""Text that is waited for when the language must be found out: four or five words' tokens."""
GAP_S = 0.3
"""Silence between two utterances; about what a reader takes."""


class OpenStream:
    """A `PcmStream` to whose text one may add, on the event loop that reads it.

    request: without a text; its `max_frames` bound the whole
    part_chars: how long one utterance becomes before the next sentence end ends it
    raises: InvalidRequest for what can only be done to a text that is complete
    """

    def __init__(
        self, voice: TextStreamer, request: SpeechRequest, *, sample_rate_hz: int, part_chars: int
    ) -> None:
        if request.normalize == "full":
            raise InvalidRequest(
                'normalize "full" needs whole sentences; ask for split "sentence" with it',
                param="normalize",
            )
        self._voice = voice
        self._request = request
        self._sample_rate_hz = sample_rate_hz
        self._samples_left = round(request.max_frames * FRAME_S * sample_rate_hz)
        self._part_chars = part_chars
        self._splitter = SentenceSplitter()
        self._words: WordNormaliser | None = None
        self._has_begun = False
        self._beginning = ""  # what came before the language was known
        self._unsent = ""
        self._sent_chars = 0  # of the utterance that is being written
        self._ended_chars = 0  # of its sentences that are complete
        self._writing: OpenUtterance | None = None
        self._ready: deque[OpenUtterance] = deque()
        self._speaking: OpenUtterance | None = None
        self._news = asyncio.Event()
        self._is_complete = False
        self._finish_reason: FinishReason | None = None
        self.choice: VoiceChoice | None = None
        """Who speaks; known by the time there is audio."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the speech ended; None while it has not."""
        return self._finish_reason

    # The writer's side -----------------------------------------------------------------

    def append(self, text: str) -> None:
        """Add text; raises InvalidRequest or CannotSpeak for what this voice cannot say."""
        if self._has_begun:
            self._write(text)
        else:
            self._beginning += text
            self._begin(is_all=False)

    def finish(self) -> None:
        """Say that the text is complete; raises CannotSpeak if there is nothing in it to say."""
        if not self._has_begun:
            self._begin(is_all=True)
        if self._words is not None:
            self._divide(self._words.finish())
        self._send(len(self._unsent))
        self._end_utterance()
        if self.choice is None:
            raise CannotSpeak(
                "text has no letter or digit to speak", param="text", code="no_reading"
            )
        self._is_complete = True
        self._news.set()

    def _begin(self, *, is_all: bool) -> None:
        """Begin once there is something to say, in a language that is known."""
        text = self._beginning.lstrip()
        is_enough = self._request.language or len(text) >= LANGUAGE_CHARS or is_all
        if not is_speakable(text) or not is_enough:
            return
        language: Language = self._request.language or detect_language(text[:LANGUAGE_CHARS])
        self._request = replace(self._request, language=language)
        if self._request.normalize == "light":
            self._words = WordNormaliser(language)
        self._has_begun = True
        self._beginning = ""
        self._write(text)

    def _write(self, text: str) -> None:
        self._divide(text if self._words is None else self._words.feed(text))

    def _divide(self, text: str) -> None:
        """Send a short utterance's text at once; end a long one where a sentence ends.

        Where that is does not depend on the pieces: behind `part_chars` nothing is sent before
        its sentence is complete.
        """
        self._unsent += text
        for sentence in self._splitter.feed(text):
            self._ended_chars += len(sentence)
            if self._ended_chars >= self._part_chars:
                self._send(self._ended_chars - self._sent_chars)
                self._end_utterance()
        self._send(min(self._part_chars - self._sent_chars, len(self._unsent)))

    def _send(self, chars: int) -> None:
        if self._writing is None:
            if not is_speakable(self._unsent[: max(chars, 0)]):
                return
            self._writing = self._voice.speak_open(self._request)
            self.choice = self._writing.choice
            self._ready.append(self._writing)
            self._news.set()
        if chars > 0:
            self._writing.append(self._unsent[:chars])
            self._unsent = self._unsent[chars:]
            self._sent_chars += chars

    def _end_utterance(self) -> None:
        if self._writing is not None:
            self._writing.finish()
            self._writing = None
        self._sent_chars = self._ended_chars = 0

    # The reader's side -----------------------------------------------------------------

    async def __aiter__(self) -> AsyncIterator[Samples]:
        gap = np.zeros(0, np.float32)
        try:
            while (utterance := await self._next()) is not None:
                async for samples in utterance:
                    for part in (gap, samples):
                        if kept := await self._keep(part):
                            yield part[:kept]
                    gap = gap[:0]
                gap = np.zeros(round(GAP_S * self._sample_rate_hz), np.float32)
                if utterance.finish_reason != "stop":
                    self._finish_reason = self._finish_reason or utterance.finish_reason
        except TTSError:
            self._finish_reason = self._finish_reason or "error"
            raise
        self._finish_reason = self._finish_reason or "stop"

    async def _next(self) -> OpenUtterance | None:
        """Wait for the next utterance; None when there is none to come."""
        while not self._ready and not self._is_complete and self._finish_reason is None:
            self._news.clear()
            await self._news.wait()
        if self._finish_reason is not None or not self._ready:
            return None
        self._speaking = self._ready.popleft()
        return self._speaking

    async def _keep(self, samples: Samples) -> int:
        """How many of the samples there is room for; the speech ends when there is none."""
        kept = min(len(samples), self._samples_left)
        self._samples_left -= kept
        if kept < len(samples) and self._finish_reason is None:
            await self._end("length")
        return kept

    async def aclose(self) -> None:
        """Stop speaking; harmless when repeated."""
        await self._end("cancelled")

    async def _end(self, reason: FinishReason) -> None:
        self._finish_reason = self._finish_reason or reason
        self._news.set()
        if self._speaking is not None:
            await self._speaking.aclose()
