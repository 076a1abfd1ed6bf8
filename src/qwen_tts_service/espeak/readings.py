"""Text rewritten where espeak-ng 1.52 has no reading: kanji, some Chinese, Russian dates."""

import re
import threading
import unicodedata
from datetime import date

from . import import_extra, no_reading, read_table

# Kanji ----------------------------------------------------------------------------------

# Only these are shown to pykakasi, which drops, doubles or splits much of everything else.
_JAPANESE = re.compile(
    r"[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)

# Words that are written as one syllable and spoken as another: two particles, and a figure.
_SPOKEN = {"は": "わ", "へ": "え", "〇": "ぜろ"}


class KanaReader:
    """Converts kanji to kana with pykakasi, which is loaded in half a second.

    Raises StartupError when pykakasi is not installed.
    """

    def __init__(self) -> None:
        self._kakasi = import_extra("pykakasi").kakasi()
        self._lock = threading.Lock()

    def read(self, text: str) -> str:
        """Write the text in kana; the spaces are what espeak-ng finds words by.

        Raises CannotSpeak, code `no_reading`, for kanji without a known reading.
        """
        with self._lock:
            return _JAPANESE.sub(self._read_run, text)

    def _read_run(self, match: re.Match[str]) -> str:
        words = self._kakasi.convert(match[0])
        # pykakasi drops kanji it does not know: a word gets no kana, or there is no word at all.
        if "".join(word["orig"] for word in words if word["hira"]) != match[0]:
            raise no_reading(
                "text has kanji that the embedded voice knows no reading for; write them in kana"
            )
        return " ".join(["", *(_SPOKEN.get(word["hira"], word["hira"]) for word in words), ""])


# Chinese --------------------------------------------------------------------------------

# Its Mandarin table lacks xiong, qiong and jiong and the old form of er, and reads their pinyin
# as an English word. The characters are replaced by phonemes, which it takes between brackets.
_PHONEMES = {
    ord(char): f"[[{sound}]]"
    for sound, chars in read_table("chinese.toml").items()
    for char in chars
}
# The caller's own brackets must not be taken for phonemes.
_REPLACEMENTS = _PHONEMES | {ord("["): " ", ord("]"): " "}


def with_phonemes(text: str) -> str:
    """Write phonemes for the characters that need them; speak it with `Delivery.has_phonemes`."""
    return text.translate(_REPLACEMENTS)


def characters_to_check(text: str) -> list[str]:
    """List the distinct Chinese characters whose reading is up to the library."""
    return sorted({char for char in text if _is_chinese(char) and ord(char) not in _PHONEMES})


def _is_chinese(char: str) -> bool:
    return char.isalpha() and unicodedata.name(char, "").startswith("CJK ")


def is_reading(phonemes: str) -> bool:
    """Whether phonemes of one Chinese character are a syllable, not the name of its code."""
    # "(en)" starts an English word; "@:11" is how it begins to spell a character's code.
    return bool(phonemes.strip("_| ")) and "(en)" not in phonemes and "@:11" not in phonemes


# Russian dates --------------------------------------------------------------------------

# espeak-ng reads the figures one by one with the dots ("ноль один точка ноль два точка ...").
# The genitive is used throughout, the case of "when?".
_WORDS: dict[str, dict[str, str]] = read_table("russian_dates.toml")
# A dot after "г" that may end the sentence (a capital or nothing follows) is left in the text.
_DATE = re.compile(
    r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.([12]\d{3})(?!\d|\.\d)"
    r"(?:\s*(?:года\b|г\.(?=\s*[^\sА-ЯЁ])|г\b))?"
)


def expand_dates(text: str) -> str:
    """Write out every date: 01.02.2024 -> первого февраля две тысячи двадцать четвёртого года.

    What is no day of the calendar stays as it is.
    """
    return _DATE.sub(_spoken, text)


def _spoken(match: re.Match[str]) -> str:
    day, month, year = (int(figures) for figures in match.groups())
    try:
        date(year, month, day)
    except ValueError:
        return match[0]
    return " ".join([*_ordinal(day), _WORDS["months"][str(month)], *_ordinal(year), "года"])


def _ordinal(number: int) -> list[str]:
    """Cardinals up to the last non-zero part, which is the ordinal: 1900, 2000, 2024."""
    for unit in (1000, 100, 10):
        rest = number % unit
        if rest and number > max(unit, 20):
            return [_WORDS["cardinals"][str(number - rest)], *_ordinal(rest)]
    return [_WORDS["ordinals"][str(number)]]
