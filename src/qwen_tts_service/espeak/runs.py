"""Cut a text into runs, each read by one language of espeak-ng: foreign words in their own."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from qwen_tts_service.text.split import is_speakable
from qwen_tts_service.types import Language

from . import no_reading, read_table
from .mapping import LANGUAGE_CODES

_READERS: Mapping[str, dict[str, str]] = read_table("letters.toml")
_LATIN = frozenset({"en-us", "de", "fr", "es", "it", "pt-br"})
_MAX_NAMED = 20

_MARKS = "\u0300-\u036f\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963"
_LATIN_LETTERS = "A-Za-z\u00aa\u00ba\u00b5\u00c0-\u024f\u1e00-\u1eff"
_HAN = "\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u3096\u309d-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL = "\uac00-\ud7a3\u3131-\u318e"
# Letters of one script that stand together; Chinese and kana are written without spaces.
_OTHER = rf"^\W\d_{_LATIN_LETTERS}{_HAN}{_KANA}{_HANGUL}"
_WORD = re.compile(
    rf"[{_LATIN_LETTERS}](?:[{_LATIN_LETTERS}{_MARKS}]|['’](?=[{_LATIN_LETTERS}]))*+"
    rf"|[{_HAN}]++|[{_KANA}]++|[{_HANGUL}]++|[{_OTHER}](?:[{_OTHER}]|[{_MARKS}])*+"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_RUSSIAN = re.compile("[ђѓєіїјљћќўџґ]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of text for one language of espeak-ng."""

    language_code: str
    text: str


def check_letters(text: str, language: Language) -> list[str]:
    """Warn, in ASCII, of words that are read as what they are not.

    Raises CannotSpeak, code `no_reading`, naming the letters that no language here reads.
    """
    base = LANGUAGE_CODES[language]
    readers = {word: _reader(word, base) for word in set(_WORD.findall(text))}
    unread = set(_SURROGATE.findall(text)).union(
        *(_unread(word, base) for word, code in readers.items() if code is None)
    )
    if unread:
        raise no_reading(
            f"text has letters that the embedded voice cannot read: {_named(unread)}. "
            "Write these words in letters of one of the ten languages"
        )
    names = {
        _READERS[code].get("name") for code in filter(None, readers.values()) if code in _READERS
    }
    warnings = [
        f"words in {name} letters are read by espeak-ng's {name}"
        for name in sorted(filter(None, names))
    ]
    russian = (word for word, code in readers.items() if code == "ru")
    if other := set(_NOT_RUSSIAN.findall(" ".join(russian))):
        codes = ", ".join(f"U+{ord(letter):04X}" for letter in sorted(other)[:_MAX_NAMED])
        warnings.append(f"letters that Russian lacks ({codes}) are read as Russian sounds")
    return warnings


def split_runs(text: str, language: Language) -> list[Run]:
    """Cut a text where the language of espeak-ng must change; the runs joined are the text.

    What is no word stays with the word before it; figures are read in the language of the text.
    """
    base = LANGUAGE_CODES[language]
    runs: list[Run] = []
    for code, part in _coded(text, base):
        last = runs[-1] if runs else None
        if last is not None and code in (None, last.language_code):
            runs[-1] = Run(last.language_code, last.text + part)
        elif last is not None and not is_speakable(last.text):
            runs[-1] = Run(code or base, last.text + part)
        else:
            runs.append(Run(code or base, part))
    return runs


def _coded(text: str, base: str) -> Iterator[tuple[str | None, str]]:
    """Yield words and what is between them with their language; None: that of the word before."""
    at = 0
    for word in _WORD.finditer(text):
        yield from _between(text[at : word.start()], base)
        yield _reader(word[0], base) or base, word[0]
        at = word.end()
    yield from _between(text[at:], base)


def _between(gap: str, base: str) -> Iterator[tuple[str | None, str]]:
    if gap:
        yield base if is_speakable(gap) else None, gap


def _reader(word: str, base: str) -> str | None:
    """Find the language of espeak-ng that has all letters of a word; None where none has."""
    letters = "".join(sorted(set(filter(str.isalpha, word))))
    code = _reader_of(letters, base)
    # The name of a Greek letter is known everywhere.
    return base if code == "el" and len(word) == 1 else code


@lru_cache(maxsize=512)
def _reader_of(letters: str, base: str) -> str | None:
    if _letters_of_text(base).fullmatch(letters):
        return base
    return next((code for code in _READERS if _letters(code).fullmatch(letters)), None)


@cache
def _letters(code: str) -> re.Pattern[str]:
    return re.compile(f"[{_READERS[code]['letters']}]*", re.IGNORECASE)


@cache
def _letters_of_text(base: str) -> re.Pattern[str]:
    """The letters that are read in the language of the text; all but ja call English for Latin."""
    own = "" if base in _LATIN else _READERS[base]["letters"]
    latin = "" if base == "ja" else _READERS["en-us"]["letters"]
    return re.compile(f"[{own}{latin}]*", re.IGNORECASE)


def _unread(word: str, base: str) -> set[str]:
    """The letters that keep a word from being read; all, where it mixes those of languages."""
    letters = set(filter(str.isalpha, word))
    known = [_letters_of_text(base), *map(_letters, _READERS)]
    return {c for c in letters if not any(read.fullmatch(c) for read in known)} or letters


def _named(letters: set[str]) -> str:
    names = [c if c.isprintable() else f"U+{ord(c):04X}" for c in sorted(letters)]
    return " ".join(names[:_MAX_NAMED])
