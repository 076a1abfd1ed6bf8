"""Text as espeak-ng can read it: cleaned, and cut into pieces.

Pieces are not the parts of text/split.py: they end at every line, and they are as short as
espeak-ng needs them.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, cast

from qwen_tts_service.text.split import is_speakable
from qwen_tts_service.types import Language

from . import read_table

_LANGUAGES: Mapping[Language, Mapping[str, Any]] = cast("Any", read_table("languages.toml"))
_MAX_WORD_CHARS = 40
"""espeak-ng drops what a word has beyond 160 bytes; three bytes per kana or Hangul."""

# A secondary stress, composed.
_GRAVE = {"ѐ": "е", "ѝ": "и", "Ѐ": "Е", "Ѝ": "И"}

_POWER = re.compile("(?<=[0-9])[⁰¹²³⁴-⁹]++")  # "10⁶" is not 106

# With the marks that close it, so that it is read alike within a text and alone.
_CLOSING = r"(?<=[.!?…])[»”’\"')\]]*(?:[ \u00a0\u202f]»)?"
_SENTENCE_END = re.compile(
    rf"{_CLOSING}(?:\s+(?=[^a-zа-яё\s])|\Z)|(?<=[。！？])(?![。！？」』”])|\n+"
)
_CLAUSE_END = re.compile(r"(?<=[,;:—–])\s+|(?<=[，；：、])")
_HAN = "\u3400-\u9fff"  # each a word of its own for espeak-ng
_HAN_LETTER = re.compile(f"[{_HAN}]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_LONG_WORD = re.compile(rf"([^\W{_HAN}]{{{_MAX_WORD_CHARS}}})(?=[^\W{_HAN}])")


def clean(text: str) -> str:
    """Compose, widen and drop until only characters are left that espeak-ng may meet."""
    composed = _POWER.sub(_with_caret, unicodedata.normalize("NFC", text))
    return unicodedata.normalize("NFC", "".join(map(_plain, composed))).strip()


def _with_caret(power: re.Match[str]) -> str:
    return power[0] if power[0] in "²³" else "^" + unicodedata.normalize("NFKC", power[0])


def _plain(char: str) -> str:
    if char in "[]":  # between two of them espeak-ng takes phonemes
        return " "
    category = unicodedata.category(char)
    if category == "Cf":  # joiners, soft hyphens, directions: they have no sound
        return ""
    if category in ("Cc", "Co", "Cn"):
        return "\n" if char == "\n" else " "
    if unicodedata.east_asian_width(char) in "FH" and char.isalnum():
        return unicodedata.normalize("NFKC", char)
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    if category in ("No", "Nl") and char > "\u00ff":  # ⑳, Ⅳ and ⅓; ² and ½ are read
        return unicodedata.normalize("NFKC", char).replace("\u2044", "/")
    kind, *parts = unicodedata.decomposition(char).split() or [""]
    if kind in ("<square>", "<font>") or "\ufb00" <= char <= "\ufb06":  # ㎡, 𝐛, ﬁ
        return "".join(chr(int(part, 16)) for part in parts)
    if char in _GRAVE:
        return _GRAVE[char]
    if "\u1e00" <= char <= "\u1e9f":  # no language here has them
        return unicodedata.normalize("NFKD", char)[0].replace("ẞ", "SS")
    return char


def split(text: str, language: Language) -> tuple[str, ...]:
    """Cut at sentence ends, and where a sentence is too long at clauses or words.

    Each piece is speakable by itself: it has a letter or digit, and no word is so long that
    espeak-ng would drop its end.
    """
    whole_words = _LONG_WORD.sub(r"\1 ", text)
    limit = min(_LANGUAGES[name]["max_piece_chars"] for name in (language, *_wordy(text)))
    pieces = itertools.chain.from_iterable(
        _short(sentence, limit) for sentence in _SENTENCE_END.split(whole_words)
    )
    return tuple(filter(is_speakable, pieces))


def _wordy(text: str) -> Iterator[Language]:
    """Name the languages with short pieces that have words in a text."""
    if _HANGUL.search(text):
        yield "korean"
    if _HAN_LETTER.search(text):
        yield "chinese"


def _short(sentence: str, limit: int) -> Iterator[str]:
    """Cut at the last clause end, else the last space, else the last character that fits."""
    rest = sentence.strip()
    while len(rest) > limit:
        head = rest[:limit]
        ends = [match.end() for match in _CLAUSE_END.finditer(head)]
        cut = ends[-1] if ends else head.rfind(" ") + 1 or limit
        yield rest[:cut].strip()
        rest = rest[cut:].strip()
    yield rest


# Length ---------------------------------------------------------------------------------

_USUAL_RATE_WPM = 165
_SHORTEST_S = 0.4
# Letters that are spelled: abbreviations, and single letters of alphabets.
_SPELLED = re.compile(r"(?<![^\W_])(?:[A-ZА-ЯЁ]{2,5}|[^\W\d_a-zа-я\u3040-\uffff])(?![^\W_])")
# English reads on over the point of these; the other languages end a sentence there.
_INITIAL = re.compile(r"(?<![^\W_])([^\W\d_])\.(?=\s)")
# So long a number is read figure by figure.
_LONG_NUMBER = re.compile(r"\d{17,}+")
_TAKES_S = [(re.compile(match), takes_s) for match, takes_s in read_table("length.toml")["takes"]]


def expected_s(text: str, language: Language, rate_wpm: int = _USUAL_RATE_WPM) -> float:
    """Estimate how long a text takes to speak at a rate in words per minute."""
    text = _LONG_NUMBER.sub(lambda number: " ".join(number[0]), text)
    if language == "english":
        text = _INITIAL.sub(r"\1", text)
    spelled = sum(map(len, _SPELLED.findall(text)))
    letters = sum(map(str.isalpha, text)) - spelled
    seconds = _SHORTEST_S + letters / _LANGUAGES[language]["letters_per_s"] + 0.1 * spelled
    seconds += sum(takes_s * len(found.findall(text)) for found, takes_s in _TAKES_S)
    return float(seconds * _USUAL_RATE_WPM / rate_wpm)
