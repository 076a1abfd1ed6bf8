"""Titles and paragraphs of HTML, as EPUB and rendered Markdown have it."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html.entities import html5
from importlib.resources import files
from typing import Any

from .book import Block, Chapter, require

_TABLE = tomllib.loads(files(__package__).joinpath("html.toml").read_text("utf-8"))
_BREAKS, _SKIPPED, _NOT_SPOKEN, _CLASSES_NOT_SPOKEN = (
    frozenset(_TABLE[name].split())
    for name in ("breaks", "skipped", "not_spoken", "classes_not_spoken")
)
_NOTE_MARK = re.compile(r"[\[(]?(?:\d{1,3}|[*†‡]+)[\])]?")
_ENTITY = re.compile(rb"&(\w+);")
_XML_ENTITIES = (b"amp", b"lt", b"gt", b"quot", b"apos")


@dataclass(frozen=True, slots=True)
class HtmlBlock:
    """A title of level 1 to 6 or a paragraph, level 0, and the ids at which links find it."""

    text: str
    level: int
    ids: frozenset[str]

    @property
    def spoken(self) -> Block:
        """What is spoken of it."""
        return Block(self.text, is_title=self.level > 0)


def parse_xml(data: bytes) -> Any:
    """Parse XML or XHTML as far as it can be read; None if it cannot.

    Nothing outside of it is loaded. Names of characters that only HTML knows are replaced before.
    """
    require("lxml", "this book")
    from lxml import etree  # noqa: PLC0415 - of the extra `books`

    parser = etree.XMLParser(recover=True, resolve_entities=False, no_network=True, remove_pis=True)
    try:
        return etree.fromstring(_ENTITY.sub(_numbered, data), parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def _numbered(entity: re.Match[bytes]) -> bytes:
    char = html5.get(entity[1].decode() + ";")
    if char is None or entity[1] in _XML_ENTITIES:
        return entity[0]
    return "".join(f"&#{ord(each)};" for each in char).encode()


def blocks_of(root: Any) -> list[HtmlBlock]:
    """Give the blocks of an element in order."""
    reader = _BlockReader()
    reader.read(root)
    reader.end()
    return reader.blocks


def name_of(element: Any) -> str:
    """Name an element without its namespace; "" for a comment."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""


def types_of(element: Any) -> set[str]:
    """What EPUB says an element is."""
    names = ("{http://www.idpf.org/2007/ops}type", "epub:type", "role")
    return {word for name in names for word in element.get(name, "").split()}


class _BlockReader:
    def __init__(self) -> None:
        self.blocks: list[HtmlBlock] = []
        self._text: list[str] = []
        self._ids: set[str] = set()

    def read(self, element: Any) -> None:
        name = name_of(element)
        if not name or name in _SKIPPED or _is_note(element) or _is_note_mark(element, name):
            return
        if name in _BREAKS:
            self.end()
        self._ids |= {element.get("id"), element.get("name")} - {None}
        self._text.append(element.text or "")
        for child in element:
            self.read(child)
            self._text.append(child.tail or "")
        if name == "hr":
            self._text.append("* * *")
        if name in _BREAKS:
            self.end(int(name[1]) if re.fullmatch("h[1-6]", name) else 0)

    def end(self, level: int = 0) -> None:
        """End a block, if it has begun; ids without a text are those of the next one."""
        text = " ".join("".join(self._text).split())
        self._text.clear()
        if text:
            self.blocks.append(HtmlBlock(text, level, frozenset(self._ids)))
            self._ids.clear()


def _is_note(element: Any) -> bool:
    """Whether this is beside the text: a note, a number of a page, a table of contents."""
    classes = element.get("class", "").lower().split()
    return not (
        _NOT_SPOKEN.isdisjoint(types_of(element)) and _CLASSES_NOT_SPOKEN.isdisjoint(classes)
    )


def _is_note_mark(element: Any, name: str) -> bool:
    """Whether this is a number that leads to a note, of a book that does not call it one."""
    if name == "sup":
        is_link = any(name_of(child) == "a" for child in element)
    else:
        is_link = name == "a" and "#" in element.get("href", "")
    return is_link and _NOTE_MARK.fullmatch("".join(element.itertext()).strip()) is not None


def split_at_titles(blocks: list[HtmlBlock], book_title: str) -> Iterator[Chapter]:
    """Begin a chapter at every title of the highest level that has several, and above."""
    levels = sorted(block.level for block in blocks if block.level)
    repeated = [level for level in levels if levels.count(level) > 1]
    deepest = (repeated or levels or [0])[0]
    title, chapter = book_title, list[Block]()
    for block in blocks:
        if 0 < block.level <= deepest:
            yield Chapter(title, tuple(chapter))
            title, chapter = block.text, []
        chapter.append(block.spoken)
    yield Chapter(title, tuple(chapter))
