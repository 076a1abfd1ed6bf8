"""Split a request's text into parts to speak and the silences between them.

    "Раз. [pause:1s] Два." -> a request for "Раз.", a pause of 1 s, a request for "Два."

A text without pauses that the voice can take whole is one part, and that part is the request.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from qwen_tts_service.text.language import detect_language
from qwen_tts_service.text.lexicon import Lexicon, lexicon_of
from qwen_tts_service.text.normalise import LANGUAGES_WITH_FULL, normalise
from qwen_tts_service.text.split import (
    Pause,
    is_speakable,
    nothing_to_speak,
    split_pauses,
    split_sentences,
)
from qwen_tts_service.types import Language, SpeechRequest

from .lexicon_file import LexiconFile

GAP = Pause(0.3, is_gap=True)
"""Silence between two parts of a text that was too long for one; about what a reader takes."""


@dataclass(frozen=True, slots=True)
class TextOptions:
    """Settings of how texts are read; lexicon: the server's own readings."""

    lexicon: LexiconFile | None = None


DEFAULT_TEXT_OPTIONS = TextOptions()


@dataclass(frozen=True, slots=True)
class TextParts:
    """A text split for speaking; warning: in ASCII.

    request: the whole, with its language; only if it asks for silence may no part be a request
    """

    request: SpeechRequest
    parts: tuple[SpeechRequest | Pause, ...]
    warning: str | None = None


def split_request(
    request: SpeechRequest,
    longest_part_chars: int | None,
    options: TextOptions = DEFAULT_TEXT_OPTIONS,
) -> TextParts:
    """Take the pauses out, replace words of the lexicon, normalise what is left and cut what is too
    long for one part.

    The language is looked for once, in the whole text, so that every part has the same. Token
    ids stay as they are: for them the voice decides.

    longest_part_chars: None for a voice that takes a text of any length
    raises: CannotSpeak, code `no_reading`, when no part has a letter or a digit; InvalidRequest
        when `normalize` asks for what is not installed
    """
    if request.text is None:
        return TextParts(request, (request,))
    pieces = split_pauses(request.text)
    language = request.language or detect_language(
        " ".join(piece for piece in pieces if isinstance(piece, str))
    )
    request = replace(request, language=language)
    lexicon = lexicon_for(request, language, options)
    parts = tuple(
        part if isinstance(part, Pause) else replace(request, text=part)
        for piece in pieces
        for part in _parts(piece, request, lexicon, longest_part_chars)
    )
    is_silent = not any(isinstance(part, SpeechRequest) for part in parts)
    if is_silent and request.on_unspeakable == "error":
        raise nothing_to_speak()
    return TextParts(request, parts, _warning(request, language))


def lexicon_for(request: SpeechRequest, language: Language, options: TextOptions) -> Lexicon:
    """The readings for a request's text: its own, then the server's."""
    own = lexicon_of(dict(request.pronunciations)) if request.pronunciations else Lexicon()
    return own if options.lexicon is None else own.over(options.lexicon.current().of(language))


def _parts(
    piece: str | Pause, request: SpeechRequest, lexicon: Lexicon, longest_part_chars: int | None
) -> Iterator[str | Pause]:
    if isinstance(piece, Pause):
        yield piece
        return
    text = normalise(lexicon.apply(piece), request.normalize, request.language or "english")
    speakable = [part for part in _cut(text, longest_part_chars) if is_speakable(part)]
    for number, part in enumerate(speakable):
        if number:
            yield GAP
        yield part


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
