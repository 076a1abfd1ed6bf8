"""Read Russian out: numbers, dates, units, abbreviations and links in words; "ё" where it belongs.

Sentence by sentence, so that a text that is spoken while it is written is read as it would be
whole. In each, our own rules come first and put into words what the library gets wrong, then
ru-normalizr reads the rest. Needs the extra `ru`.
"""

import importlib.util
import re
import threading
from functools import cache, lru_cache
from typing import Protocol, cast

from qwen_tts_service.errors import InvalidRequest

from .russian_numbers import dictionary
from .russian_rules import SPELLINGS_WITH_YO, rules
from .split import split_sentences
from .stress import STRESS


@cache
def has_russian() -> bool:
    """Whether the extra `ru` is installed."""
    return importlib.util.find_spec("ru_normalizr") is not None


class _Library(Protocol):
    def normalize(self, text: str) -> str: ...


_LOADING = threading.Lock()


def preload_russian() -> None:
    """Load the Russian dictionaries now (0.5 s, once); raises like `read_out`."""
    _russian()
    _russian(has_roman=False)
    dictionary()


def _russian(*, has_roman: bool = True) -> _Library:
    with _LOADING:
        return _load_russian(has_roman=has_roman)


@cache
def _load_russian(*, has_roman: bool) -> _Library:
    """The library; looking for Roman numbers takes it ten times as long as all the rest."""
    try:
        from ru_normalizr import NormalizeOptions, Normalizer  # noqa: PLC0415  (optional, 0.3 s)
    except ImportError as missing:
        message = 'normalize "full" for Russian needs the extra ru; run ./scripts/setup ru'
        raise InvalidRequest(message, param="normalize", code="extra_missing") from missing
    options = NormalizeOptions(mode="safe", enable_roman_normalization=has_roman)
    return cast("_Library", Normalizer(options))


def read_out(text: str) -> str:
    """Put a Russian text into words; raises InvalidRequest if the extra `ru` is missing.

    By ru-normalizr, chosen over rutextnorm because it declines ("две минуты", "двадцать одно
    яблоко") and leaves Latin words alone. docs/russian.md says how much of it is right.
    """
    _russian()  # refuses whatever the text is
    return "".join(map(_read_sentence, split_sentences(text)))


def _read_sentence(sentence: str) -> str:
    body = sentence.rstrip()
    lines = "\n".join(map(_read_line, body.split("\n")))
    return lines + sentence[len(body) :]


def _read_line(line: str) -> str:
    read = _SUM.sub(" плюс ", line)
    for rule in rules():
        read = rule.apply(read)
    if _MAY_NEED_LIBRARY.search(read):
        library = _russian(has_roman=_ROMAN.search(read) is not None)
        read = _restore_stress(library.normalize(read).strip())
    return _WORD_WITH_E.sub(_restore_yo, read)


# Text without any of these the library would only change in its quotes and brackets: digits and
# signs, Roman numbers, short words with a point inside a sentence, "и др." and the like at its
# end, "г-н".
_MAY_NEED_LIBRARY = re.compile(
    r"[\d№§%‰°$€£₽+=×÷/&½¼¾²³]|\b[IVXLC]+\b|\b[А-Яа-яё]{1,6}\. ?\w|\b[А-Яа-яё]{1,6}\.,"
    r"|\b(?:др|пр|[тгвпдэ]|гг|вв)\.|\b[А-Яа-я]{1,2}-[а-я]{1,3}\b"
)

_ROMAN = re.compile(r"\b[IVXLCDMХІ]+\b")  # Cyrillic letters too, as they are often typed

# A plus that is no stress mark: the library must not be taken to have written it.
_SUM = re.compile(r"(?<![A-Za-z+]) ?\+ ?(?=[А-ЯЁа-яё])")

# The library writes a stress mark as "+" before the vowel.
_WRITTEN_STRESS = re.compile(r"\+([аеёиоуыэюя])", re.IGNORECASE)


def _restore_stress(text: str) -> str:
    return _WRITTEN_STRESS.sub(rf"\1{STRESS}", text)


_WORD_WITH_E = re.compile(r"(?<![\w\u0301])[А-Яа-я]*[Ее][А-Яа-я]*(?![\w\u0301])")


def _restore_yo(match: re.Match[str]) -> str:
    """Write "ё" in a word whose every meaning has it: "еще", but not "все"."""
    word = match[0]
    spelling = _with_yo(word.lower())
    return "".join(
        (new.upper() if old.isupper() else new) for old, new in zip(word, spelling, strict=True)
    )


@lru_cache(maxsize=16384)
def _with_yo(word: str) -> str:
    if word in SPELLINGS_WITH_YO:
        return SPELLINGS_WITH_YO[word]
    spellings = {parse.word for parse in dictionary().parse(word) if parse.is_known}
    return spellings.pop() if len(spellings) == 1 else word
