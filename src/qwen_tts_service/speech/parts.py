"""Split a request's text into parts to speak and the silences between them.

    "Раз. [pause:1s] Два." -> a request for "Раз.", a pause of 1 s, a request for "Два."

A text without pauses that the voice can take whole is one part, and that part is the request.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from qwen_tts_service.text.language import detect_language
from qwen_tts_service.text.normalise import LANGUAGES_WITH_FULL, normalise
from qwen_tts_service.text.split import (
    Pause,
    is_speakable,
    nothing_to_speak,
    split_pauses,
    split_sentences,
)
from qwen_tts_service.types import Language, SpeechRequest

GAP = Pause(0.3)
"""Silence between two parts of a text that was too long for one; about what a reader takes."""


ACCENTED = ("auto", "full")
"""Levels of normalisation at which stress is set."""


@dataclass(frozen=True, slots=True)
class TextOptions:
    """Settings of how texts are read; accent: sets the stress of Russian words, if it is wanted."""

    accent: Callable[[str], str] | None = None


DEFAULT_TEXT_OPTIONS = TextOptions()


@dataclass(frozen=True, slots=True)
class TextParts:
    """A text split for speaking: at least one part is a request; warning: in ASCII."""

    parts: tuple[SpeechRequest | Pause, ...]
    warning: str | None = None


def split_request(
    request: SpeechRequest,
    longest_part_chars: int | None,
    options: TextOptions = DEFAULT_TEXT_OPTIONS,
) -> TextParts:
    """Take the pauses out, normalise what is left and cut what is too long for one part.

    The language is looked for once, in the whole text, so that every part has the same. Token
    ids stay as they are: for them the voice decides.

    longest_part_chars: None for a voice that takes a text of any length
    raises: CannotSpeak, code `no_reading`, when no part has a letter or a digit; InvalidRequest
        when `normalize` asks for what is not installed
    """
    if request.text is None:
        return TextParts((request,))
    pieces = split_pauses(request.text)
    language = request.language or detect_language(
        " ".join(piece for piece in pieces if isinstance(piece, str))
    )
    request = replace(request, language=language)
    accent = options.accent if language == "russian" and request.normalize in ACCENTED else None
    parts = tuple(
        part if isinstance(part, Pause) else replace(request, text=part)
        for piece in pieces
        for part in _parts(piece, request, accent, longest_part_chars)
    )
    if not any(isinstance(part, SpeechRequest) for part in parts):
        raise nothing_to_speak()
    return TextParts(parts, _warning(request, language))


def _parts(
    piece: str | Pause,
    request: SpeechRequest,
    accent: Callable[[str], str] | None,
    longest_part_chars: int | None,
) -> Iterator[str | Pause]:
    if isinstance(piece, Pause):
        yield piece
        return
    text = normalise(piece, request.normalize, request.language or "english")
    text = accent(text) if accent else text
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
