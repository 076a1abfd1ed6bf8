"""Speak a text that is still being written, word by word or sentence by sentence.

Whatever the pieces in which the text comes, the speech is the same. A piece by token waits in
these buffers, each with its reason: `_beginning` until the language is known, `LexiconStream` until
no longer entry of the lexicon can follow, `WordNormaliser` until its word is complete, `_unsent`
until it is known where the utterance ends, and in the voice until its tokens are certain. By
sentence it waits in the splitter, and complete sentences in a queue until they are spoken.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

from qwen_tts_service.audio.formats import check_format
from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.text.language import detect_language
from qwen_tts_service.text.lexicon import Lexicon, LexiconStream
from qwen_tts_service.text.normalise import normalise
from qwen_tts_service.text.split import (
    SentenceSplitter,
    is_speakable,
    nothing_to_speak,
    split_pauses,
)
from qwen_tts_service.text.words import WordNormaliser
from qwen_tts_service.types import (
    FRAME_S,
    Language,
    OpenUtterance,
    OpenVoice,
    SpeechRequest,
    VoiceChoice,
)

from .parts import DEFAULT_TEXT_OPTIONS, GAP, TextOptions, lexicon_for
from .sequence import PartSequence
from .synthesizer import Output, Speech, SpeechInfo, Synthesizer
from .unspeakable import NO_READING, SILENCE, WARNING

LANGUAGE_CHARS = 20
"""Text that is waited for when the language must be found out: four or five words' tokens."""
OPEN_PART_CHARS = 800
"""Twice the text of one open utterance, for a voice that names no longest part."""

BeforeSpeaking = Callable[[], Awaitable[None]]
"""Awaited before the first audio is asked for: takes a slot."""


def can_speak_by_token(synthesizer: Synthesizer) -> bool:
    """Whether the voice can speak a text before its sentences are complete."""
    return isinstance(synthesizer.voice, OpenVoice)


class OpenText:
    """Turn text that is being written into open utterances, added to a sequence of parts.

    request: without a text; each utterance speaks it in the language that was given or found
    part_chars: how long one utterance becomes before the next sentence end ends it
    raises: InvalidRequest for what can only be done to a text that is complete
    """

    def __init__(
        self,
        voice: OpenVoice,
        request: SpeechRequest,
        sequence: PartSequence,
        *,
        part_chars: int,
        options: TextOptions = DEFAULT_TEXT_OPTIONS,
    ) -> None:
        if request.normalize == "full":
            raise InvalidRequest(
                'normalize "full" needs whole sentences; set split to "sentence"', param="normalize"
            )
        self._voice = voice
        self._request = request
        self._sequence = sequence
        self._part_chars = part_chars
        self._options = options
        self._splitter = SentenceSplitter()
        self._lexicon = LexiconStream(Lexicon())
        self._words: WordNormaliser | None = None
        self._has_begun = False
        self._beginning = ""
        self._unsent = ""
        self._sent_chars = 0  # of the utterance that is being written
        self._ended_chars = 0  # of its sentences that are complete
        self._utterance: OpenUtterance | None = None
        self._choice: VoiceChoice | None = None

    def info(self) -> SpeechInfo:
        """Who speaks; known by the time there is audio."""
        assert self._choice is not None, "nothing has been spoken yet"
        return SpeechInfo(choice=self._choice)

    def feed(self, text: str) -> None:
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
        self._divide(self._normalised(self._lexicon.finish()))
        if self._words is not None:
            self._divide(self._words.finish())
        self._send(len(self._unsent))
        self._end_utterance()
        if self._choice is None:
            raise nothing_to_speak()
        self._sequence.finish()

    def _begin(self, *, is_all: bool) -> None:
        """Begin once there is something to say, in a language that is known."""
        text = self._beginning.lstrip()
        is_enough = self._request.language or len(text) >= LANGUAGE_CHARS or is_all
        if not is_enough or not self._has_words(text):
            return
        language: Language = self._request.language or detect_language(text[:LANGUAGE_CHARS])
        self._request = replace(self._request, language=language)
        self._lexicon = LexiconStream(lexicon_for(self._request, language, self._options))
        if self._request.normalize == "light":
            self._words = WordNormaliser(language)
        self._has_begun = True
        self._beginning = ""
        self._write(text)

    def _has_words(self, text: str) -> bool:
        """Whether there is a word, or a mark that the lexicon has a word for."""
        if is_speakable(text) or not text:
            return bool(text)
        return is_speakable(lexicon_for(self._request, "english", self._options).apply(text))

    def _write(self, text: str) -> None:
        self._divide(self._normalised(self._lexicon.feed(text)))

    def _normalised(self, text: str) -> str:
        return text if self._words is None else self._words.feed(text)

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
        if self._utterance is None:
            if not is_speakable(self._unsent[: max(chars, 0)]):
                return
            self._utterance = self._open_utterance()
        if chars > 0:
            self._utterance.feed(self._unsent[:chars])
            self._unsent = self._unsent[chars:]
            self._sent_chars += chars

    def _open_utterance(self) -> OpenUtterance:
        utterance = self._voice.open(self._request)
        if self._choice is not None:
            self._sequence.feed(GAP)
        self._choice = utterance.choice
        self._sequence.feed(lambda: utterance)
        return utterance

    def _end_utterance(self) -> None:
        if self._utterance is not None:
            self._utterance.finish()
            self._utterance = None
        self._sent_chars = self._ended_chars = 0


class SpeechByToken:
    """Speaks words as they come, as one stretch of audio.

    Raises InvalidRequest for a voice that cannot, and for what needs the whole text.
    """

    def __init__(self, synthesizer: Synthesizer, request: SpeechRequest, output: Output) -> None:
        check_format(output.format, synthesizer.sample_rate_hz)
        voice = synthesizer.voice
        if not isinstance(voice, OpenVoice):
            raise InvalidRequest(
                f'{voice.model_name} needs whole sentences; set split to "sentence"', param="split"
            )
        self._synthesizer = synthesizer
        self._request = request
        self._output = output
        self._sequence = PartSequence(
            sample_rate_hz=voice.sample_rate_hz, max_frames=request.max_frames
        )
        part_chars = (voice.longest_part_chars or OPEN_PART_CHARS) // 2
        self._text = OpenText(
            voice, request, self._sequence, part_chars=part_chars, options=synthesizer.text_options
        )
        self.feed = self._text.feed
        self._silent: SpeechInfo | None = None

    @property
    def is_cut(self) -> bool:
        """Whether text was left out because max_length was reached."""
        return self._sequence.finish_reason == "length"

    async def speeches(self, before: BeforeSpeaking) -> AsyncGenerator[Speech, None]:
        """Yield the one stretch of audio."""
        await before()
        pipe = self._synthesizer.pipe(self._output)
        yield Speech(self._sequence, pipe, self._request, self._info)

    def finish(self) -> None:
        """Say that the text is complete; without a word it is refused or a silence, as asked."""
        try:
            self._text.finish()
        except CannotSpeak as error:
            if error.code != NO_READING or self._request.on_unspeakable == "error":
                raise
            choice = self._synthesizer.voice.choose(self._request)
            self._silent = SpeechInfo(choice=choice, warning=WARNING)
            self._sequence.feed(SILENCE)
            self._sequence.finish()

    def _info(self) -> SpeechInfo:
        return self._silent or self._text.info()


class SpeechBySentence:
    """Speaks every sentence once it is complete, as a stretch of audio of its own."""

    def __init__(self, synthesizer: Synthesizer, request: SpeechRequest, output: Output) -> None:
        check_format(output.format, synthesizer.sample_rate_hz)
        self._synthesizer = synthesizer
        self._request = request
        self._output = output
        self._splitter = SentenceSplitter()
        self._sentences: asyncio.Queue[str | None] = asyncio.Queue()
        self.is_cut = False

    def feed(self, text: str) -> None:
        """Add text."""
        for sentence in self._splitter.feed(text):
            self._sentences.put_nowait(sentence)

    def finish(self) -> None:
        """Say that the text is complete."""
        for sentence in (*self._splitter.finish(), None):
            self._sentences.put_nowait(sentence)

    async def speeches(self, before: BeforeSpeaking) -> AsyncGenerator[Speech, None]:
        """Yield a speech for each sentence that has words; raises CannotSpeak if none has."""
        request, speech, wordless = self._request, None, ""
        while (sentence := await self._sentences.get()) is not None:
            if self.is_cut or not self._has_words(sentence):
                wordless = sentence
                continue
            if request.max_frames < 1:
                self.is_cut = True
                continue
            if speech is None:
                await before()
            speech = self._synthesizer.speak(replace(request, text=sentence), self._output)
            yield speech
            self.is_cut = speech.finish_reason == "length"
            request = _following(request, speech)
        if speech is None and (request.on_unspeakable == "error" or not wordless):
            raise nothing_to_speak()
        if speech is None:
            await before()
            yield self._synthesizer.speak(replace(request, text=wordless), self._output)

    def _has_words(self, sentence: str) -> bool:
        """Whether anything is left to say once pauses, marks and emoji are out."""
        request, options = self._request, self._synthesizer.text_options
        lexicon = lexicon_for(request, request.language or "english", options)
        text = lexicon.apply(
            "".join(part for part in split_pauses(sentence) if isinstance(part, str))
        )
        return is_speakable(
            text if request.normalize == "none" else normalise(text, "light", "english")
        )


OpenSpeech = SpeechByToken | SpeechBySentence
"""A text that is still being written and spoken meanwhile; used on one event loop."""


def open_speech(
    synthesizer: Synthesizer, request: SpeechRequest, output: Output, *, by_token: bool
) -> OpenSpeech:
    """Prepare to speak a request without a text; takes nothing before it is read.

    Raises InvalidRequest for what cannot be done to a text that is still being written.
    """
    if by_token:
        return SpeechByToken(synthesizer, request, output)
    return SpeechBySentence(synthesizer, request, output)


def _following(request: SpeechRequest, speech: Speech) -> SpeechRequest:
    """What the next sentence is asked for: the same language, and the time that is left."""
    used = math.ceil(speech.audio_s / FRAME_S - 1e-6)
    language = speech.info.choice.language
    return replace(request, language=language, max_frames=request.max_frames - used)
