"""Pronunciation lexicon: words and how they are to be spoken, replaced before normalisation.

    lexicon_of({"GPU": "джи пи ю"}).apply("Моя GPU шумит.") -> "Моя джи пи ю шумит."

A text is cut into tokens (words, spaces, single marks, Chinese, Japanese and Korean characters),
and the tokens are looked up by all beginnings of entries, so time does not grow with their number.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import Language

from .language import LANGUAGES, parse_language

MAX_WORD_CHARS = 64
MAX_READING_CHARS = 200


class LexiconError(ValueError):
    """An entry or a file is not a lexicon; the message says where and why, without its text."""


# Tokens ---------------------------------------------------------------------------------

# Scripts without spaces between words, and Hangul, where particles follow a word without one.
_WIDE = (
    "\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3105-\u318f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc"
    "\U00020000-\U0003ffff"
)
_LETTER = rf"[^\W_{_WIDE}]"
# "+" before a Cyrillic vowel marks stress, as in "обесп+ечение"; not so in "2+а" and "C++а".
_STRESS_SIGN = r"(?<![0-9A-Za-z+])\+(?=[аеёиоуыэюяАЕЁИОУЫЭЮЯ])"
# Addresses are one token, so that no word in them is replaced; bounded, so that time is linear.
_ADDRESS = (
    r"(?:[A-Za-z]{2,16}+://|www\.)[!#-'*-;=?-~]++"
    r"|\]\((?:[a-z]{2,16}+:|/|\#|\.\.?/)[!-'*-~]*+"
    r"|[A-Za-z0-9._%+\-]{1,64}+@[A-Za-z0-9.\-]++"
)


@cache
def _token() -> re.Pattern[str]:
    """The pattern of one token; made when the first lexicon is, as it looks at all of Unicode."""
    marks = "".join(
        char for char in map(chr, range(0x300, 0x10000)) if unicodedata.category(char)[0] == "M"
    )
    # Also what is invisible inside a word: soft hyphen, zero-width space and joiners.
    mark = rf"[{marks}\u00ad\u200b-\u200d\u2060]"
    word = rf"(?:(?:{_LETTER}|{_STRESS_SIGN}){mark}*+)++"
    return re.compile(rf"{_ADDRESS}|{word}|[{_WIDE}]{mark}*+|\s++|.", re.DOTALL)


# What begins with a letter or digit and may not touch a word.
_WORD = re.compile(rf"{_LETTER}|{_STRESS_SIGN}")
# No token goes on over one of these; an address is ASCII. A mark is also complete by itself.
_WIDE_MARKS = "。！？、，；：…）」』】"
_BREAK = re.compile(rf"[\s{_WIDE}{_WIDE_MARKS}]")
_SILENT = re.compile("[\u0300\u0301\u00ad\u200b-\u200d\u2060+]")


def _folded(token: str) -> str:
    """A token as it is compared: composed, straight apostrophe, no stress marks, one space."""
    if token.isspace():
        return "\n\n" if token.count("\n") > 1 else " "
    if token.isascii():
        return token
    token = unicodedata.normalize("NFC", token).replace("’", "'")
    return _SILENT.sub("", token) or token


# Lookup ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a text must be, folded, or None for any case; how many tokens; and how it is spoken."""

    exact: str | None
    length: int
    reading: str


@dataclass(slots=True)
class _Prefix:
    """The beginning of an entry: entries that it contains, longest first; whether any is longer."""

    entries: tuple[_Entry, ...] = ()
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class _Source:
    """Entries of one origin, by all their beginnings, in lower case; tokens of the longest."""

    prefixes: Mapping[str, _Prefix]
    most_tokens: int


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words and their readings; immutable, and empty unless made by `lexicon_of`.

    Only whole words match: no letter, digit or combining mark may touch a word on either side,
    but for Chinese, Japanese and Korean letters, which are not always separated. A word with an
    upper-case letter matches as it is written, any other in any case. Stress marks in the text
    and the shape of an apostrophe make no difference. Where several words match, the longest is
    taken, of equal ones that of the first source. A reading is not looked up again. Links and mail
    addresses stay as they are.
    """

    sources: tuple[_Source, ...] = ()

    def over(self, other: "Lexicon") -> "Lexicon":
        """Both as one; where both have a word, the reading of this one is taken."""
        return Lexicon(self.sources + other.sources)

    def apply(self, text: str) -> str:
        """Replace every known word of a whole text by its reading."""
        stream = LexiconStream(self)
        return stream.feed(text) + stream.finish()


def lexicon_of(readings: Mapping[str, str]) -> Lexicon:
    """Make a lexicon of words and readings that passed `check_entry`."""
    entries: dict[str, list[_Entry]] = {}
    tokens_of: dict[str, list[str]] = {}
    for word, reading in readings.items():
        tokens = [_folded(token) for token in _token().findall(word.strip())]
        is_exact = any(char.isupper() or char.istitle() for char in word)
        exact = "".join(tokens) if is_exact else None
        lower = [token.casefold() for token in tokens]
        tokens_of["".join(lower)] = lower
        entries.setdefault("".join(lower), []).append(_Entry(exact, len(tokens), reading))
    prefixes: dict[str, _Prefix] = {}
    for word in sorted(entries, key=len):
        # As it is written goes before any case.
        _add(prefixes, tokens_of[word], sorted(entries[word], key=lambda entry: not entry.exact))
    return Lexicon((_Source(prefixes, max(map(len, tokens_of.values()), default=0)),))


def _add(prefixes: dict[str, _Prefix], tokens: list[str], entries: list[_Entry]) -> None:
    """Add entries of the same tokens; shorter ones must have been added."""
    shorter: tuple[_Entry, ...] = ()
    for prefix in itertools.accumulate(tokens[:-1]):
        node = prefixes.setdefault(prefix, _Prefix(shorter))
        node.has_more = True
        shorter = node.entries
    prefixes["".join(tokens)] = _Prefix((*entries, *shorter))


def check_entry(word: object, reading: object) -> None:
    """Raise LexiconError for an entry that is not of two strings, or is empty or too long."""
    if not isinstance(word, str) or not isinstance(reading, str):
        raise LexiconError("word and reading must be strings")
    if not word.strip():
        raise LexiconError("the word is empty")
    if len(word) > MAX_WORD_CHARS:
        raise LexiconError(f"the word has {len(word)} characters; at most {MAX_WORD_CHARS}")
    if not reading.strip():
        raise LexiconError("the reading is empty")
    if len(reading) > MAX_READING_CHARS:
        raise LexiconError(
            f"the reading has {len(reading)} characters; at most {MAX_READING_CHARS}"
        )


class LexiconStream:
    """Apply a lexicon to a text that is being written.

    However the text is cut into pieces, what comes out, joined, is `Lexicon.apply` of the whole.
    Text is held back only while a word is incomplete or may be the beginning of a longer entry.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._sources = lexicon.sources
        self._held = ""
        self._before = ""  # the token before what is held

    def feed(self, piece: str) -> str:
        """Take the next piece of text; return what is now certain."""
        if not self._sources:
            return piece
        self._held += piece
        return self._replace(is_all=False) if _BREAK.search(piece) else ""

    def finish(self) -> str:
        """Return what is left."""
        return self._replace(is_all=True)

    def _replace(self, *, is_all: bool) -> str:
        # The character before a "+" decides what that is.
        raw = _token().findall(self._before[-1:] + self._held, len(self._before[-1:]))
        text = _Tokens(raw, self._before, is_all=is_all)
        out: list[str] = []
        at = 0
        for start in text.candidates(self._sources):
            if start < at:
                continue
            found = text.longest(self._sources, start)
            if found is None:
                out += raw[at:start]
                at = start
                break
            end, reading = found
            if reading is not None:
                out += (*raw[at:start], reading)
                at = end
        else:
            out += raw[at : text.complete]
            at = max(at, text.complete)
        if at == text.complete and at < len(raw) and raw[at].isspace():
            out.append(raw[at])  # no entry begins with it, though more of it may come
            at += 1
        if at:
            self._before = raw[at - 1]
        self._held = "".join(raw[at:])
        return "".join(out)


class _Tokens:
    """Tokens of a text, and the entries that begin at them.

    complete: how many of them stay as they are whatever follows: those up to the last one that
        certainly begins a new token
    """

    def __init__(self, raw: list[str], before: str, *, is_all: bool) -> None:
        self._raw = raw
        self._before = before
        self._is_all = is_all
        folded = {token: _folded(token) for token in set(raw)}
        lower = {token: fold.casefold() for token, fold in folded.items()}
        self._folded = [folded[token] for token in raw]
        self._lower = [lower[token] for token in raw]
        self._text = "".join(self._lower)
        self._starts = [0, *itertools.accumulate(map(len, self._lower))]
        ends = (at for at in reversed(range(len(raw))) if _BREAK.match(raw[at]))
        last = next(ends, 0)
        is_mark = bool(raw) and raw[last] in _WIDE_MARKS
        self.complete = len(raw) if is_all else last + is_mark

    def candidates(self, sources: tuple[_Source, ...]) -> list[int]:
        """List the complete tokens that entries begin with."""
        lower = self._lower[: self.complete]
        found = {
            at for source in sources for at, token in enumerate(lower) if token in source.prefixes
        }
        return sorted(found)

    def longest(self, sources: tuple[_Source, ...], start: int) -> tuple[int, str | None] | None:
        """Find the longest entry at a token: its end, and its reading; None if it may go on.

        The reading is None where there is no entry: the token stays as it is.
        """
        best: tuple[int, str | None] = start + 1, None
        for source in sources:
            prefix = source.prefixes.get(self._lower[start])
            if prefix is None:
                continue
            if prefix.has_more:
                end, prefix = self._last_prefix(source, start)
                if end == self.complete and prefix.has_more and not self._is_all:
                    return None
            for entry in prefix.entries:
                end = start + entry.length
                if self._is_entry(entry, start, end):
                    if best[1] is None or end > best[0]:
                        best = end, entry.reading
                    break
        return best

    def _last_prefix(self, source: _Source, start: int) -> tuple[int, _Prefix]:
        """Find the longest beginning of an entry, by bisection: what is none goes on as none."""
        low, high = start + 1, min(start + source.most_tokens, self.complete)
        while low < high:
            middle = (low + high + 1) // 2
            if self._text[self._starts[start] : self._starts[middle]] in source.prefixes:
                low = middle
            else:
                high = middle - 1
        return low, source.prefixes[self._text[self._starts[start] : self._starts[low]]]

    def _is_entry(self, entry: _Entry, start: int, end: int) -> bool:
        """Say whether the text has these letters in this case, and nothing touches them."""
        if entry.exact is not None and "".join(self._folded[start:end]) != entry.exact:
            return False
        before = self._raw[start - 1] if start else self._before
        after = self._raw[end] if end < len(self._raw) else ""
        return not (
            (_WORD.match(before) and not _BREAK.match(self._raw[start]))
            or (_WORD.match(after) and not _BREAK.match(self._raw[end - 1]))
        )


# Files ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LanguageLexicons:
    """A lexicon for every language, and additions for single ones, which win over it."""

    general: Lexicon = field(default_factory=Lexicon)
    by_language: Mapping[Language, Lexicon] = field(default_factory=dict)

    def of(self, language: Language) -> Lexicon:
        """What holds for a text in this language."""
        special = self.by_language.get(language)
        return self.general if special is None else special.over(self.general)


def parse_lexicon(data: bytes) -> LanguageLexicons:
    """Read a lexicon file: UTF-8, a word, a tab and its reading on each line.

    Blank lines and lines that begin with # are skipped. Entries below a line like `[russian]` or
    `[ru]` hold for texts in that language, those above the first such line for all.
    Raises LexiconError that names the first line that is wrong.
    """
    sections: dict[Language | None, dict[str, str]] = {None: {}}
    language: Language | None = None
    for number, line in enumerate(_lines_of(data), start=1):
        try:
            if line.startswith("[") and line.endswith("]") and "\t" not in line:
                language = _section(line)
                sections.setdefault(language, {})
            elif line and not line.startswith("#"):
                _add_line(line, sections[language])
        except LexiconError as error:
            raise LexiconError(f"line {number}: {error}") from None
    general = lexicon_of(sections.pop(None))
    return LanguageLexicons(
        general, {name: lexicon_of(entries) for name, entries in sections.items() if name}
    )


def _lines_of(data: bytes) -> Iterator[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise LexiconError(f"line {number}: this is not UTF-8") from None
    yield from (line.strip(" \r") for line in text.split("\n"))


def _section(line: str) -> Language:
    try:
        language = parse_language(line[1:-1])
    except InvalidRequest:
        raise LexiconError(
            f"the language of a section is not one of {', '.join(LANGUAGES)} or their ISO codes"
        ) from None
    if language is None:
        raise LexiconError("a section needs the name of a language, as in [russian]")
    return language


def _add_line(line: str, section: dict[str, str]) -> None:
    if "\t" not in line:
        raise LexiconError("a word, a tab and its reading are expected")
    word, reading = (part.strip() for part in line.split("\t", maxsplit=1))
    check_entry(word, reading)
    if word in section:
        raise LexiconError("the word is already in the lexicon")
    section[word] = reading
