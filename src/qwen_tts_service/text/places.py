"""Where the characters of a rewritten text stand in the text that it was made of.

    align("за 5 %", "за пять процентов") -> "за" is "за", "пять" and "процентов" are "5 %"

Reading markup keeps exact places. Behind the many rules that rewrite words, they are found again by
the words that have stayed.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence

from qwen_tts_service.types import Places, Stretch

MAX_REWRITTEN_WORDS = 60
"""How many words in a row are searched for the next one that has stayed."""

# Words, signs that are read out, and the letters that no script writes with spaces.
_TOKEN = re.compile(
    r"[%&@§№°$€£₽¥=\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|(?:[^\W_\u2e80-\u9fff\uf900-\ufaff][\u0300-\u036f\u00ad]*|(?<=\w)['’](?=\w)"
    r"|\+(?=[аеёиоуыэюяАЕЁИОУЫЭЮЯ]))+"
)
_STRESS = re.compile("[\u0300\u0301\u00ad+]")
_NOT_SAID = ' \t\n\r.,;:!?…。、，！？*_~`#>|()[]«»“”„"'
_TELLING_CHARS = 3
_FIRST_WIDE = "\u2e80"


def find(places: Sequence[Stretch], start: int, end: int) -> tuple[int, int] | None:
    """Find the source of `text[start:end]`; None if it stands nowhere."""
    found = cut(places, start, end)
    return (min(s.source_start for s in found), max(s.source_end for s in found)) if found else None


def cut(places: Sequence[Stretch], start: int, end: int) -> Places:
    """The places of `text[start:end]`, counted from `start`."""
    out = []
    first = max(0, bisect_right(places, start, key=lambda stretch: stretch.start) - 1)
    for at in range(first, len(places)):
        stretch = places[at]
        if stretch.start >= end:
            break
        if stretch.end > start:
            out.append(_within(stretch, start, end))
    return tuple(out)


def shifted(places: Sequence[Stretch], by: int) -> Places:
    """The places of a text that now stands so many characters further on in another text."""
    return tuple(s._replace(start=s.start + by, end=s.end + by) for s in places)


def through(places: Sequence[Stretch], source: Sequence[Stretch]) -> Places:
    """The places of a text in the source of its source."""
    out: list[Stretch] = []
    for stretch in places:
        if _is_exact(stretch):
            out += shifted(cut(source, stretch.source_start, stretch.source_end), stretch.start)
        elif found := find(source, stretch.source_start, stretch.source_end):
            out.append(Stretch(stretch.start, stretch.end, *found))
    return tuple(out)


def _is_exact(stretch: Stretch) -> bool:
    return stretch.end - stretch.start == stretch.source_end - stretch.source_start


def _within(stretch: Stretch, start: int, end: int) -> Stretch:
    """What of a stretch is between two positions, counted from the first of them."""
    a, b = max(start, stretch.start), min(end, stretch.end)
    if not _is_exact(stretch):
        return Stretch(a - start, b - start, stretch.source_start, stretch.source_end)
    by = stretch.source_start - stretch.start
    return Stretch(a - start, b - start, a + by, b + by)


# Words that have stayed -----------------------------------------------------------------


def align(source: str, text: str) -> Places:
    """Find the words of a text in the source that it was rewritten from; in linear time.

    Words between two that have stayed all come from what stands between those in the source.
    """
    if source == text:
        return (Stretch(0, len(text), 0, len(text)),)
    old_found, new_found = list(_TOKEN.finditer(source)), list(_TOKEN.finditer(text))
    olds, news = ([_folded(word[0]) for word in found] for found in (old_found, new_found))
    out: list[Stretch] = []
    i = j = 0
    while j < len(news):
        old_words, new_words = _rewritten(
            olds[i : i + MAX_REWRITTEN_WORDS], news[j : j + MAX_REWRITTEN_WORDS]
        )
        start = old_found[i - 1].end() if i else 0
        i, j = i + old_words, j + new_words
        end = old_found[i].start() if i < len(olds) else len(source)
        out += _from_all(source, start, end, [word.span() for word in new_found[j - new_words : j]])
        if i < len(olds) and j < len(news) and olds[i] == news[j]:
            word = Stretch(*new_found[j].span(), *old_found[i].span())
            out.append(_with_marks(source, text, word, out[-1].end if out else 0))
            i, j = i + 1, j + 1
    return tuple(out)


def _with_marks(source: str, text: str, word: Stretch, after: int) -> Stretch:
    """A word that has stayed, with the marks around it that have stayed too; from `after` on."""
    start, end, old_start, old_end = word
    if source[old_start:old_end] != text[start:end]:
        return word
    while min(start - after, old_start) > 0 and _is_mark(source[old_start - 1], text[start - 1]):
        start, old_start = start - 1, old_start - 1
    while end < len(text) and old_end < len(source) and _is_mark(source[old_end], text[end]):
        end, old_end = end + 1, old_end + 1
    return Stretch(start, end, old_start, old_end)


def _is_mark(old: str, new: str) -> bool:
    return old == new and not (old.isalnum() or old.isspace())


def _folded(word: str) -> str:
    return _STRESS.sub("", unicodedata.normalize("NFC", word)).casefold().replace("’", "'")


def _rewritten(olds: Sequence[str], news: Sequence[str]) -> tuple[int, int]:
    """How many words were rewritten into how many, before the first that has stayed.

    A short word may have stayed or come back: it has stayed if the next one has, or if a longer
    one has behind it.
    """
    may_have: tuple[int, int] | None = None
    for words in range(len(olds) + len(news) - 1):
        for i in range(max(0, words - len(news) + 1), min(words + 1, len(olds))):
            j = words - i
            if olds[i] != news[j]:
                continue
            is_next_same = olds[i + 1 : i + 2] == news[j + 1 : j + 2]
            if words == 0 or len(olds[i]) >= _TELLING_CHARS or is_next_same:
                is_before = may_have is not None and may_have[0] < i and may_have[1] < j
                return may_have if may_have and is_before else (i, j)
            if may_have is None and olds[i].isalnum() and olds[i] < _FIRST_WIDE:
                may_have = i, j
    return may_have or (len(olds), len(news))


def _from_all(source: str, start: int, end: int, words: Sequence[tuple[int, int]]) -> list[Stretch]:
    """Say that words come from all that is said in `source[start:end]`, if there is anything."""
    between = source[start:end]
    start += len(between) - len(between.lstrip(_NOT_SAID))
    end -= len(between) - len(between.rstrip(_NOT_SAID))
    return [Stretch(*word, start, end) for word in words] if start < end else []
