"""Split a request's text into parts to speak and the silences between them.

    "Раз. [pause:1s] Два." -> a request for "Раз.", a pause of 1 s, a request for "Два."

A text without pauses that the voice can take whole is one part, and that part is the request.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from qwen_tts_service.errors import InvalidRequest, shown
from qwen_tts_service.text.language import detect_language
from qwen_tts_service.text.lexicon import Lexicon, lexicon_of
from qwen_tts_service.text.markup import parse
from qwen_tts_service.text.normalise import LANGUAGES_WITH_FULL, normalise
from qwen_tts_service.text.places import align, cut, shifted, through
from qwen_tts_service.text.say_as import written
from qwen_tts_service.text.segments import OnVoice, ParsedText, Pause, Segment, any_voice
from qwen_tts_service.text.split import (
    DEFAULT_MAX_CHARS,
    is_speakable,
    nothing_to_speak,
    split_sentences,
)
from qwen_tts_service.types import Language, Places, SpeechRequest, Stretch

from .lexicon_file import LexiconFile

_SPACES = re.compile(" {2,}")


ACCENTED = ("auto", "full")
"""Levels of normalisation at which stress is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """Server settings for reading texts.

    default_language: of a text that has no letters
    lexicon: the server's own readings of words
    accent: sets the stress of Russian words, if that is wanted
    pause_sentence_s: silence between two parts of a text that was too long for one, and between two
        speakers; about what a reader takes
    pause_paragraph_s: the same where the first part ends with its paragraph
    """

    default_language: Language = "english"
    lexicon: LexiconFile | None = None
    accent: Callable[[str], str] | None = None
    pause_sentence_s: float = 0.3
    pause_paragraph_s: float = 0.6

    def gap_behind(self, text: str = "") -> Pause:
        """The silence between a part with this text and the next one; "" is any sentence."""
        is_paragraph = text[len(text.rstrip()) :].count("\n") > 1
        duration_s = self.pause_paragraph_s if is_paragraph else self.pause_sentence_s
        return Pause(duration_s, is_gap=True)


DEFAULT_TEXT_OPTIONS = TextOptions()


@dataclass(frozen=True, slots=True)
class TextParts:
    """A text split for speaking.

    request: the whole, with its language; only if it asks for silence may no part be a request
    sent: the text as it was sent, in which the places of the parts are
    """

    request: SpeechRequest
    parts: tuple[SpeechRequest | Pause, ...]
    warning: str | None = None
    sent: str = ""


def split_request(
    request: SpeechRequest,
    longest_part_chars: int | None,
    options: TextOptions = DEFAULT_TEXT_OPTIONS,
    parsed: ParsedText | None = None,
    on_voice: OnVoice = any_voice,
) -> TextParts:
    """Read the markup, replace words of the lexicon, normalise, and cut what is too long.

    The language is looked for once, in the whole text, so that every part has the same unless
    its markup names another. Token ids stay as they are: for them the voice decides. Where times
    are asked for, every sentence is a part, and knows its place in the text as it was sent.

    longest_part_chars: None for a voice that takes a text of any length; a request may ask for
        no cut at all
    parsed: the request's text, if its markup has been read
    on_voice: called with the names of speakers in it, whether they have text or not
    raises: CannotSpeak, code `no_reading`, when no part has a letter or a digit; InvalidRequest
        for malformed SSML, and when `normalize` asks for what is not installed
    """
    if request.text is None:
        return TextParts(request, (request,))
    if parsed is None:
        has_markup = request.normalize != "none"
        parsed = parse(
            request.text,
            request.input_type,
            has_markup=has_markup,
            keeps_places=request.timestamps is not None,
            on_voice=on_voice,
        )
    language = (
        request.language
        or parsed.language
        or detect_language(_undecided(parsed), options.default_language)
    )
    request = replace(request, language=language)
    reader = _Reader(request, options)
    longest_part_chars = None if request.is_uncut else longest_part_chars
    parts = tuple(
        _with_gaps(
            _parts(parsed.segments, reader, longest_part_chars),
            options,
            has_own_pauses=longest_part_chars is None,
        )
    )
    is_silent = not any(isinstance(part, SpeechRequest) for part in parts)
    if is_silent and request.on_unspeakable == "error":
        raise nothing_to_speak()
    warnings = [*parsed.warnings, *filter(None, [_warning(request, language)])]
    return TextParts(request, parts, "; ".join(warnings) or None, parsed.sent)


def _undecided(parsed: ParsedText) -> str:
    """The text that names no language of its own; all of it if there is no such text."""
    segments = [part for part in parsed.segments if isinstance(part, Segment)]
    text = " ".join(part.text for part in segments if part.language is None)
    return text if is_speakable(text) else parsed.text


def lexicon_for(request: SpeechRequest, language: Language, options: TextOptions) -> Lexicon:
    """The readings for a request's text: its own, then the server's."""
    own = lexicon_of(dict(request.pronunciations)) if request.pronunciations else Lexicon()
    return own if options.lexicon is None else own.over(options.lexicon.current().of(language))


class _Reader:
    """Rewrites the segments of one request for speaking."""

    def __init__(self, request: SpeechRequest, options: TextOptions) -> None:
        self.request = request
        self._accent = options.accent if request.normalize in ACCENTED else None
        self._lexicon = cache(lambda language: lexicon_for(request, language, options))

    def read(self, segments: list[Segment], language: Language) -> str:
        """Read segments one by one, and keep the space between them."""
        if len(segments) == 1:
            return self._read(segments[0], language)
        texts = []
        for segment in segments:
            text = segment.text
            before = text[: len(text) - len(text.lstrip())]
            after = text[len(text.rstrip()) :] if text.strip() else ""
            read = self._read(segment, language).strip()
            if not after and read[-1:].isalnum() and not text[-1:].isalnum():  # "№" is a word now
                after = " "
            texts.append(before + read + after)
        text = "".join(texts).strip()
        return text if self.request.normalize == "none" else _SPACES.sub(" ", text)

    def places(self, segments: list[Segment], text: str) -> Places:
        """Where the text that was read from segments stands in the text as it was sent."""
        written, source = "", list[Stretch]()
        for segment in segments:
            source += shifted(segment.places, len(written))
            written += segment.text
        return through(align(written, text), source)

    def _read(self, segment: Segment, language: Language) -> str:
        text, is_literal = segment.text, segment.is_literal
        if segment.say_as is not None:
            text, is_literal = written(text, segment.say_as, language)
        if is_literal:
            return text
        text = self._lexicon(language).apply(text)
        text = normalise(text, self.request.normalize, language, is_mid_line=segment.is_mid_line)
        return self._accent(text) if self._accent and language == "russian" else text


def _parts(
    segments: Iterable[Segment | Pause], reader: _Reader, longest_part_chars: int | None
) -> Iterator[SpeechRequest | Pause]:
    """Speak segments of one manner together, so that a sentence keeps its melody."""
    request = reader.request

    def manner_of(part: Segment | Pause) -> SpeechRequest | None:
        if isinstance(part, Pause):
            return None
        return replace(
            request,
            speaker=part.speaker or request.speaker,
            language=part.language or request.language,
            rate=part.rate * request.rate,
            pitch=part.pitch,
            phonemes=part.phonemes,
        )

    for asked, run in groupby(segments, key=manner_of):
        if asked is None:
            yield from (part for part in run if isinstance(part, Pause))
            continue
        spoken = [part for part in run if isinstance(part, Segment)]
        text = reader.read(spoken, asked.language or "english")
        if request.timestamps is None:
            sentences = _cut(text, longest_part_chars)
            yield from (replace(asked, text=part) for part in sentences if is_speakable(part))
        else:
            yield from _timed(
                replace(asked, text=text), reader.places(spoken, text), longest_part_chars
            )


def _timed(
    asked: SpeechRequest, places: Places, longest_part_chars: int | None
) -> Iterator[SpeechRequest]:
    """Cut at every sentence end; phonemes are those of the whole."""
    at, text = 0, asked.text or ""
    longest = min(DEFAULT_MAX_CHARS, longest_part_chars or DEFAULT_MAX_CHARS)
    for sentence in split_sentences(text, max_chars=longest) if asked.phonemes is None else [text]:
        start, at = at, at + len(sentence)
        if is_speakable(sentence):
            yield replace(asked, text=sentence, places=cut(places, start, at))


def _with_gaps(
    parts: Iterable[SpeechRequest | Pause], options: TextOptions, *, has_own_pauses: bool
) -> Iterator[SpeechRequest | Pause]:
    """Put a gap where a text was cut and where the speaker changes.

    has_own_pauses: of a voice that takes a text of any length, so pauses behind each sentence
    """
    before: SpeechRequest | Pause | None = None
    for part in parts:
        if isinstance(before, SpeechRequest) and isinstance(part, SpeechRequest):
            # What differs in language, rate, pitch or phonemes comes in the middle of a sentence.
            is_cut = replace(before, text="") == replace(part, text="")
            if before.speaker != part.speaker or (is_cut and not has_own_pauses):
                yield options.gap_behind(before.text or "")
        yield part
        before = part


def blame_text(error: InvalidRequest, speaker: str | None) -> InvalidRequest:
    """The error for a speaker whom the text names, not the request."""
    if error.code != "unknown_speaker":
        return error
    return InvalidRequest(
        f"text names the voice {shown(speaker or '')}: {error.message}",
        param="text",
        code=error.code,
    )


def _cut(text: str, longest_part_chars: int | None) -> list[str]:
    """Cut at sentence ends into parts of about the same length, as few as possible."""
    if longest_part_chars is None or len(text) <= longest_part_chars:
        return [text]
    fewest = -(-len(text) // longest_part_chars)
    return split_sentences(text, max_chars=longest_part_chars, min_chars=len(text) // fewest)


def _warning(request: SpeechRequest, language: Language) -> str | None:
    if request.normalize == "full" and language not in LANGUAGES_WITH_FULL:
        return f"normalize: there are no full rules for {language}; light was applied"
    return None
