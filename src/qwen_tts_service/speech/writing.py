"""Speak a text that is still being written, word by word or sentence by sentence.

Whatever the pieces in which the text comes, the speech is the same. Each buffer that a piece waits
in has a reason. On the WebSocket: the session's inbox, so that a cancel can overtake other events,
and `WebSocketUtterance`, while half a character is missing. By token: `MarkupReader` until a tag
is complete; `OpenText`, first until the language is known, then while it is open where the
utterance ends; `LexiconStream` while a longer entry of the lexicon may follow; `WordNormaliser`
until the word is complete; and in the Qwen voice `OpenTokenizer` until the tokens are certain and
`TextFeed` until the engine's thread takes them. By sentence: `SentenceReader` until a sentence is
complete, SSML until the document is, and a queue of sentences until they are spoken.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial

from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.text.language import beginning_that_tells, detect_language, tells_language
from qwen_tts_service.text.lexicon import Lexicon, LexiconStream
from qwen_tts_service.text.markup import Event, MarkupReader, SentenceReader, parse
from qwen_tts_service.text.normalise import drop_split_emphasis, normalise
from qwen_tts_service.text.places import align, through
from qwen_tts_service.text.segments import (
    MAX_PAUSE_S,
    OnVoice,
    ParsedText,
    Pause,
    Segment,
    VoiceChange,
    any_voice,
)
from qwen_tts_service.text.split import SentenceSplitter, is_speakable, nothing_to_speak
from qwen_tts_service.text.ssml import could_be_ssml, is_ssml
from qwen_tts_service.text.words import WordNormaliser
from qwen_tts_service.types import (
    FRAME_S,
    Language,
    OpenUtterance,
    OpenVoice,
    PcmStream,
    SpeechRequest,
    VoiceChoice,
)

from .parts import DEFAULT_TEXT_OPTIONS, TextOptions, blame_text, lexicon_for
from .sequence import PartSequence
from .synthesizer import Output, Speech, SpeechInfo, Synthesizer
from .unspeakable import NO_READING, SILENCE, WARNING

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
    on_voice: called with the names of speakers in it
    faded: what keeps the edges of an utterance from clicking
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
        on_voice: OnVoice = any_voice,
        faded: Callable[[PcmStream], PcmStream] = lambda pcm: pcm,
    ) -> None:
        if request.normalize == "full":
            raise InvalidRequest(
                'normalize "full" needs whole sentences; set split to "sentence"', param="normalize"
            )
        if request.input_type == "ssml":
            raise InvalidRequest(
                'input_type "ssml" needs the whole text; set split to "sentence"',
                param="input_type",
            )
        self._voice = voice
        self._request = request
        self._own_speaker = request.speaker
        self._sequence = sequence
        self._faded = faded
        self._part_chars = part_chars
        self._options = options
        self._splitter = SentenceSplitter()
        self._markup = MarkupReader(has_markup=request.normalize != "none", on_voice=on_voice)
        self._entries = Lexicon()
        self._lexicon: LexiconStream | None = None
        self._words: WordNormaliser | None = None
        self._has_begun = False
        self._beginning: list[Event] = []
        self._is_new_stretch = True
        self._silence_s = 0.0  # before the next utterance, as it was written
        self._unsent = ""
        self._sent_chars = 0  # of the utterance that is being written
        self._ended_chars = 0  # of its sentences that are complete
        self._utterance: OpenUtterance | None = None
        self._choice: VoiceChoice | None = None

    def info(self) -> SpeechInfo:
        """Who speaks; known by the time there is audio."""
        assert self._choice is not None, "nothing has been spoken yet"
        return SpeechInfo(choice=self._choice, speakers=(self._choice.speaker,))

    @property
    def waits_for_text(self) -> bool:
        """Whether all the text so far has been spoken, and it is not complete."""
        waits = self._utterance is not None and self._utterance.waits_for_text
        return waits or self._sequence.waits_for_part

    def feed(self, text: str) -> None:
        """Add text; raises InvalidRequest or CannotSpeak for what this voice cannot say."""
        for event in self._markup.feed(text):
            self._take(event)

    def finish(self) -> None:
        """Say that the text is complete; raises CannotSpeak if there is nothing in it to say."""
        for event in self._markup.finish():
            self._take(event)
        if not self._has_begun:
            self._begin(is_all=True)
        self._end_stretch()
        if self._choice is None:
            raise nothing_to_speak()
        self._feed_silence()
        self._sequence.finish()

    def _take(self, event: Event) -> None:
        if self._has_begun:
            self._write(event)
        else:
            self._beginning.append(event)
            self._begin(is_all=False)

    def _begin(self, *, is_all: bool) -> None:
        """Begin once there is something to say, in a language that is known."""
        # As of a whole text: what is before and behind a pause are two words.
        text = "".join(part if isinstance(part, str) else " " for part in self._beginning).lstrip()
        judged = text if is_all else beginning_that_tells(text)
        if (judged is None and self._request.language is None) or not self._has_words(text):
            return
        language: Language = self._request.language or detect_language(
            judged or "", self._options.default_language
        )
        self._request = replace(self._request, language=language)
        self._entries = lexicon_for(self._request, language, self._options)
        self._has_begun = True
        beginning, self._beginning = self._beginning, []
        for event in beginning:
            self._write(event)

    def _has_words(self, text: str) -> bool:
        """Whether there is a word, or a mark that the lexicon has a word for."""
        if is_speakable(text) or not text:
            return bool(text)
        return is_speakable(lexicon_for(self._request, "english", self._options).apply(text))

    def _write(self, event: Event) -> None:
        if isinstance(event, Pause):
            if event.duration_s > 0:
                self._end_stretch()
                self._silence_s += event.duration_s
                return
            event = " "
        if isinstance(event, VoiceChange):
            self._end_stretch()
            self._request = replace(self._request, speaker=event.speaker or self._own_speaker)
            return
        lexicon = self._lexicon or self._begin_stretch()
        self._divide(self._normalised(lexicon.feed(event)))

    def _begin_stretch(self) -> LexiconStream:
        self._lexicon = LexiconStream(self._entries)
        if self._request.normalize != "none":
            self._words = WordNormaliser(self._request.language or "english")
        return self._lexicon

    def _end_stretch(self) -> None:
        """End what is being written: a pause or another speaker follows, or nothing."""
        if self._lexicon is not None:
            self._divide(self._normalised(self._lexicon.finish()))
        if self._words is not None:
            self._divide(self._words.finish())
        self._lexicon = self._words = None
        self._splitter.finish()
        self._send(len(self._unsent))
        self._end_utterance()
        self._unsent = ""
        self._is_new_stretch = True

    def _normalised(self, text: str) -> str:
        return text if self._words is None else self._words.feed(text)

    def _divide(self, text: str) -> None:
        """Send a short utterance's text at once; end a long one where a sentence ends.

        Where that is does not depend on the pieces: behind `part_chars` nothing is sent before
        its sentence is complete.
        """
        if self._is_new_stretch:
            text = text.lstrip()
        if not text:
            return
        self._is_new_stretch = False
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
        try:
            utterance = self._voice.open(self._request)
        except InvalidRequest as error:
            if self._request.speaker == self._own_speaker:
                raise
            raise blame_text(error, self._request.speaker) from None
        if self._silence_s == 0 and self._choice is not None:
            self._sequence.feed(self._options.gap_behind())
        self._feed_silence()
        self._choice = utterance.choice
        self._sequence.feed(lambda: self._faded(utterance))
        return utterance

    def _feed_silence(self) -> None:
        if self._silence_s > 0:
            self._sequence.feed(Pause(min(self._silence_s, MAX_PAUSE_S)))
        self._silence_s = 0.0

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
        synthesizer.rate_of(request, output.format)
        if request.timestamps is not None:
            raise InvalidRequest(
                'timestamps need whole sentences; set split to "sentence"', param="timestamps"
            )
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
            synthesizer.processed,
            request,
            self._sequence,
            part_chars=part_chars,
            options=synthesizer.text_options,
            on_voice=partial(synthesizer.check_speaker, request),
            faded=synthesizer.faded,
        )
        self.feed = self._text.feed
        self._silent: SpeechInfo | None = None

    @property
    def is_cut(self) -> bool:
        """Whether text was left out because max_length was reached."""
        return self._sequence.finish_reason == "length"

    @property
    def waits_for_text(self) -> bool:
        """Whether all the text so far has been spoken, and it is not complete."""
        return self._text.waits_for_text

    async def speeches(self, before: BeforeSpeaking) -> AsyncGenerator[Speech, None]:
        """Yield the one stretch of audio."""
        await before()
        pipe = self._synthesizer.pipe(self._request, self._output)
        yield Speech(self._sequence, pipe, self._request, self._info)

    def finish(self) -> None:
        """Say that the text is complete; without a word it is refused or a silence, as asked."""
        try:
            self._text.finish()
        except CannotSpeak as error:
            if error.code != NO_READING or self._request.on_unspeakable == "error":
                raise
            choice = self._synthesizer.voice.choose(self._request)
            self._silent = SpeechInfo(choice=choice, speakers=(choice.speaker,), warning=WARNING)
            self._sequence.feed(SILENCE)
            self._sequence.finish()

    def _info(self) -> SpeechInfo:
        return self._silent or self._text.info()


class SpeechBySentence:
    """Speaks every sentence once it is complete, as a stretch of audio of its own.

    Where the client named no language, each sentence has its own, spoken by the same speaker.
    """

    def __init__(self, synthesizer: Synthesizer, request: SpeechRequest, output: Output) -> None:
        synthesizer.rate_of(request, output.format)
        synthesizer.check_times(request)
        self._synthesizer = synthesizer
        self._request = request
        self._output = output
        self._check_speaker = partial(synthesizer.check_speaker, request)
        self._reader = SentenceReader(
            has_markup=request.normalize != "none",
            keeps_places=request.timestamps is not None,
            has_words=self._has_words,
            on_voice=self._check_speaker,
        )
        self._sentences: asyncio.Queue[ParsedText | None] = asyncio.Queue()
        self._is_ssml: bool | None = True if request.input_type == "ssml" else None
        self._beginning: list[str] = []  # while it may be SSML, or all of it if it is
        self._sent = ""  # all of it, if it is not
        self._speaker: str | None = None  # of the first sentence
        self._emphasis: str | None = None  # the mark that is open from the sentence before
        self._last_part: Segment | Pause | None = None  # of the sentence before
        self._wordless: ParsedText | None = None  # the last sentence that has no words
        self.is_cut = False
        self.waits_for_text = False
        """Whether all the text so far has been spoken, and it is not complete."""

    def feed(self, text: str) -> None:
        """Add text; SSML is collected until it is complete."""
        if self._is_ssml is None:
            self._judge("".join(self._beginning) + text)
        elif self._is_ssml:
            self._beginning.append(text)
        else:
            self._sent += text
            self._put(self._reader.feed(text))

    def finish(self) -> None:
        """Say that the text is complete; raises InvalidRequest for malformed SSML."""
        beginning = "".join(self._beginning)
        if self._is_ssml:
            self._put([self._parsed(beginning)])
        else:
            self._sent += beginning
            self._put([*self._reader.feed(beginning), *self._reader.finish()])
            self._wordless = self._reader.left_out
        self._sentences.put_nowait(None)

    def _parsed(self, document: str) -> ParsedText:
        keeps_places = self._request.timestamps is not None
        return parse(
            document,
            self._request.input_type,
            keeps_places=keeps_places,
            on_voice=self._check_speaker,
        )

    def _judge(self, beginning: str) -> None:
        """Find out whether a text is SSML: by its first tag, if markup is read at all."""
        has_markup = self._request.normalize != "none"
        if has_markup and could_be_ssml(beginning):
            self._beginning = [beginning]
            return
        self._is_ssml = has_markup and is_ssml(beginning)
        self._beginning = []
        self.feed(beginning)

    def _put(self, sentences: Iterable[ParsedText]) -> None:
        for sentence in sentences:
            self._sentences.put_nowait(self._without_split_emphasis(sentence))

    def _without_split_emphasis(self, sentence: ParsedText) -> ParsedText:
        """A sentence that is normalised alone shows only one half of a pair of marks."""
        if self._is_ssml:
            return sentence
        if self._request.normalize == "none":
            return replace(sentence, sent=self._sent)
        segments = tuple(map(self._whole_emphasis, sentence.segments))
        return replace(sentence, segments=segments, sent=self._sent)

    def _whole_emphasis(self, part: Segment | Pause) -> Segment | Pause:
        if isinstance(part, Pause):
            return part
        text, self._emphasis = drop_split_emphasis(part.text, self._emphasis)
        if text == part.text:
            return part
        return replace(part, text=text, places=through(align(part.text, text), part.places))

    async def speeches(self, before: BeforeSpeaking) -> AsyncGenerator[Speech, None]:
        """Yield a speech for each sentence that has words; raises CannotSpeak if none has."""
        max_frames, speech = self._request.max_frames, None
        async for sentence, language in self._sentences_with_language():
            if self.is_cut or max_frames < 1:
                self.is_cut = True
                continue
            if speech is None:
                await before()
            request = replace(
                self._request,
                text=sentence.text,
                language=language,
                max_frames=max_frames,
                lead_in_ms=self._request.lead_in_ms if speech is None else 0,
                tail_ms=0,
            )
            output = replace(self._output, is_continued=speech is not None)
            speech = await self._synthesizer.speak(
                self._by_the_same(request), output, self._behind_gap(sentence)
            )
            yield speech
            self.is_cut = speech.finish_reason == "length"
            max_frames -= _used_frames(speech)
        if speech is None and self._request.on_unspeakable == "error":
            raise nothing_to_speak()
        if speech is not None and self._request.tail_ms:
            yield self._tail(speech)
        if speech is None:
            wordless = self._wordless or ParsedText(())
            await before()
            request = replace(self._request, text=wordless.text)
            yield await self._synthesizer.speak(request, self._output, wordless)

    def _tail(self, last: Speech) -> Speech:
        """The silence behind the text, as a stretch of its own: by now it is known to be over."""
        tail_s = self._request.tail_ms / 1000
        silence = PartSequence(
            [Pause(tail_s)],
            sample_rate_hz=self._synthesizer.voice.sample_rate_hz,
            max_frames=math.ceil(tail_s / FRAME_S),
        )
        silence.finish()
        request = replace(self._request, text="", lead_in_ms=0, tail_ms=0)
        pipe = self._synthesizer.pipe(request, replace(self._output, is_continued=True))
        return Speech(silence, pipe, request, lambda: last.info)

    def _behind_gap(self, sentence: ParsedText) -> ParsedText:
        """Put a gap before the words of another speaker, as in a text that is spoken whole."""
        before, first = self._last_part, sentence.segments[0]
        self._last_part = sentence.segments[-1]
        if isinstance(first, Pause) or not isinstance(before, Segment):
            return sentence
        own = self._request.speaker
        if (before.speaker or own) == (first.speaker or own):
            return sentence
        gap_s = self._synthesizer.text_options.gap_behind().duration_s
        return replace(sentence, segments=(Pause(gap_s), *sentence.segments))

    def _has_words(self, sentence: ParsedText) -> bool:
        """Whether anything is left to say once marks and emoji are out."""
        request, options = self._request, self._synthesizer.text_options
        lexicon = lexicon_for(request, request.language or "english", options)

        def says(segment: Segment) -> str:
            text = lexicon.apply(segment.text)
            if request.normalize == "none":
                return text
            return normalise(text, "light", "english", is_mid_line=segment.is_mid_line)

        segments = (part for part in sentence.segments if isinstance(part, Segment))
        return any(map(is_speakable, map(says, segments)))

    async def _sentences_with_language(self) -> AsyncGenerator[tuple[ParsedText, Language], None]:
        """Yield the sentences that have words; one that tells no language takes its neighbour's.

        At the beginning that is the next one, so it waits until a sentence tells one or the text
        is complete.
        """
        waiting: list[ParsedText] = []
        language = self._request.language
        default = self._synthesizer.text_options.default_language
        while (sentence := await self._next_sentence()) is not None:
            if not self._has_words(sentence):
                self._wordless = sentence
                continue
            waiting.append(sentence)
            if self._request.language is None:
                language = self._language_of(sentence, language)
            if language is not None:
                for each in waiting:
                    yield each, language
                waiting.clear()
        for each in waiting:
            yield each, detect_language(each.text, default)

    async def _next_sentence(self) -> ParsedText | None:
        self.waits_for_text = self._sentences.empty()
        try:
            return await self._sentences.get()
        finally:
            self.waits_for_text = False

    def _language_of(self, sentence: ParsedText, before: Language | None) -> Language | None:
        """What a sentence names or is found to be in; if it tells none that of the one before."""
        if sentence.language is not None:
            return sentence.language
        if not tells_language(sentence.text):
            return before
        default = self._synthesizer.text_options.default_language
        return detect_language(sentence.text, default, after=before)

    def _by_the_same(self, request: SpeechRequest) -> SpeechRequest:
        """Name the first sentence's speaker where another would be chosen for the language."""
        speaker = self._synthesizer.voice.choose(request).speaker
        self._speaker = self._speaker or speaker
        return request if speaker == self._speaker else replace(request, speaker=self._speaker)


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


def _used_frames(speech: Speech) -> int:
    return math.ceil(speech.spoken_s / FRAME_S - 1e-6)
