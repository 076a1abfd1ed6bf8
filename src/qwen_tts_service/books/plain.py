"""Read plain text: its encoding, its paragraphs, and lines such as "Chapter 1" and "Глава 1"."""

import codecs
import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise

from .book import Block, Book, BookError, Chapter, make_book, require

_MARKS = {codecs.BOM_UTF8: "utf-8-sig"}
_MARKS |= dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16")
_ENCODINGS = ["cp1251", "koi8_r", "cp866", "cp1252", "cp1250"]
_ENCODINGS += ["gb18030", "big5", "shift_jis", "euc_jp", "cp949"]
"""Those that texts in the ten languages have, besides UTF-8."""
LONGEST_WRAPPED_LINE = 100
"""Characters; a text with longer lines has a paragraph on each line."""
_MOST_TITLE_CHARS = 80
_TABLE = tomllib.loads(files(__package__).joinpath("titles.toml").read_text("utf-8"))
_NUMBERED, _ALONE = "|".join(_TABLE["numbered"].split()), "|".join(_TABLE["alone"])
_TITLE = re.compile(
    rf"(?:(?:{_NUMBERED})\s+(?:\d{{1,3}}|[^\W\d_]+)[.:]?(?P<name>\s*[.:—–-]\s*\S.*)?"
    rf"|(?:{_ALONE})[.:]?"
    r"|第\s?[\d０-９一二三四五六七八九十百千零〇两]+\s?[章回节節卷部篇話话](?:[\s：:].*)?"
    r"|제\s?\d+\s?[장부편](?:[\s:.].*)?)",
    re.IGNORECASE,
)
_NEW_PARAGRAPH = re.compile(r"\t| {2,}|\s*[—–] ")


def read_plain(data: bytes, title: str) -> Book:
    """Read a text file. Raises BookError."""
    return make_book(title, chapters_of(paragraphs_of(decode(data)), title))


def decode(data: bytes) -> str:
    """Decode UTF-8, UTF-16 with its mark, or what the bytes look like. Raises BookError."""
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        require("charset_normalizer", "a text that is not UTF-8")
    from charset_normalizer import from_bytes  # noqa: PLC0415 - of the extra `books`

    found = from_bytes(data, cp_isolation=_ENCODINGS).best()
    if found is None:
        raise BookError("the text's encoding is not known; save it as UTF-8")
    return str(found)


def paragraphs_of(text: str) -> Iterator[Block]:
    """Yield titles and paragraphs; the lines of a wrapped paragraph are joined."""
    lines = text.splitlines()
    is_wrapped = "" in map(str.strip, lines) and max(map(len, lines)) <= LONGEST_WRAPPED_LINE
    paragraph: list[str] = []
    for line, follower in pairwise([*lines, "", ""]):
        is_alone = not (is_wrapped and follower.strip())
        is_within = is_wrapped and bool(paragraph)
        is_title = not is_within and _is_title(line.strip(), is_alone=is_alone)
        begins = not is_wrapped or is_title or not line.strip() or _NEW_PARAGRAPH.match(line)
        if begins and paragraph:
            yield Block(" ".join(paragraph))
            paragraph.clear()
        if is_title:
            yield Block(line.strip(), is_title=True)
        elif line.strip():
            paragraph.append(line.strip())


def _is_title(line: str, *, is_alone: bool) -> bool:
    """Whether a line is a title; "Part one: the beginning of" may also begin a paragraph."""
    found = _TITLE.fullmatch(line) if len(line) <= _MOST_TITLE_CHARS else None
    return found is not None and (is_alone or not found["name"])


def chapters_of(blocks: Iterator[Block], book_title: str) -> Iterator[Chapter]:
    """Begin a chapter at every title."""
    title, chapter = book_title, list[Block]()
    for block in blocks:
        if block.is_title:
            yield Chapter(title, tuple(chapter))
            title, chapter = block.text, []
        chapter.append(block)
    yield Chapter(title, tuple(chapter))
