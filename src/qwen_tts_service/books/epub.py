"""Read EPUB 2 and 3: documents in the order of the spine, chapters by the table of contents."""

import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from zipfile import BadZipFile, ZipFile

from .book import Block, Book, BookError, Chapter, make_book
from .html import HtmlBlock, blocks_of, name_of, parse_xml, split_at_titles, types_of

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of one document of a book, unpacked; novels have less than 2 million."""
_DOCUMENTS = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
_PROTECTED = ("META-INF/rights.xml", "META-INF/sinf.xml")
"""Only books with digital rights management have these."""

Toc = dict[tuple[str, str], str]
"""Path and fragment, which may be "", to the title that begins there."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A file of the book's manifest."""

    path: str
    kind: str
    properties: frozenset[str]


def read_epub(path: Path) -> Book:
    """Read an EPUB. Raises BookError."""
    try:
        with ZipFile(path) as archive:
            return _Epub(archive, path.stem).book()
    except (BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise BookError(f"this is no EPUB, or it is damaged: {error}") from None


class _Epub:
    """An open archive and its package document."""

    def __init__(self, archive: ZipFile, name: str) -> None:
        self._archive = archive
        if not set(_PROTECTED).isdisjoint(archive.namelist()):
            raise BookError("this EPUB is protected (DRM) and cannot be read")
        container = self._xml("META-INF/container.xml")
        roots = [each.get("full-path", "") for each in _all(container, "rootfile")]
        self._root_path = roots[0] if roots else ""
        self._root = self._xml(self._root_path)
        titles = ["".join(each.itertext()).strip() for each in _all(self._root, "title")]
        self._title = next(filter(None, titles), name)
        self._items = {
            each.get("id", ""): _Item(
                self._path(self._root_path, each.get("href", ""))[0],
                each.get("media-type", ""),
                frozenset(each.get("properties", "").split()),
            )
            for each in _all(self._root, "item")
        }

    def book(self) -> Book:
        documents = {path: blocks_of(self._xml(path)) for path in self._spine()}
        toc = self._toc()
        if any(path in documents for path, _ in toc):
            return make_book(self._title, _chapters(documents, toc, self._title))
        blocks = [block for blocks in documents.values() for block in blocks]
        return make_book(self._title, split_at_titles(blocks, self._title))

    def _spine(self) -> Iterator[str]:
        """Yield the paths of what is read, in order, without the table of contents."""
        lists = {
            self._path(self._root_path, each.get("href", ""))[0]
            for each in _all(self._root, "reference")
            if each.get("type") == "toc"
        }
        for each in _all(self._root, "itemref"):
            item = self._items.get(each.get("idref", ""))
            is_read = item is not None and each.get("linear") != "no" and item.path not in lists
            if item and is_read and item.kind in _DOCUMENTS and "nav" not in item.properties:
                yield item.path

    def _toc(self) -> Toc:
        for item in self._items.values():
            if "nav" in item.properties:
                return self._nav(item.path)
        for item in self._items.values():
            if item.kind == "application/x-dtbncx+xml":
                return self._ncx(item.path)
        return {}

    def _nav(self, path: str) -> Toc:
        lists = [each for each in _all(self._xml(path), "nav") if "toc" in types_of(each)]
        links = [link for each in lists[:1] for link in _all(each, "a")]
        return _toc((self._path(path, link.get("href", "")), link) for link in links)

    def _ncx(self, path: str) -> Toc:
        points = _all(self._xml(path), "navPoint")
        labels = [(child, each) for each in points for child in each if name_of(child) == "content"]
        return _toc(
            (self._path(path, content.get("src", "")), next(_all(point, "navLabel"), point))
            for content, point in labels
        )

    @staticmethod
    def _path(base: str, link: str) -> tuple[str, str]:
        """Give the archive's path and the fragment of a link in the file `base`."""
        path, _, fragment = link.partition("#")
        full = posixpath.join(posixpath.dirname(base), unquote(path)) if path else base
        return posixpath.normpath(full), unquote(fragment)

    def _xml(self, path: str) -> Any:
        try:
            info = self._archive.getinfo(path)
        except KeyError:
            raise BookError(
                f"this is no EPUB, or it is damaged: {path or 'a part'} is missing"
            ) from None
        if info.file_size > MAX_FILE_BYTES:
            raise BookError(f"this EPUB is damaged: {path} has {info.file_size} bytes")
        root = parse_xml(self._archive.read(info))
        if root is None:
            raise BookError(f"this EPUB is damaged: {path} cannot be read")
        return root


def _all(root: Any, name: str) -> Iterator[Any]:
    return (each for each in root.iter() if name_of(each) == name.lower())


def _toc(entries: Iterator[tuple[tuple[str, str], Any]]) -> Toc:
    toc: Toc = {}
    for place, label in entries:
        title = " ".join("".join(label.itertext()).split())
        toc[place] = ". ".join(filter(None, [toc.get(place), title]))
    return toc


def _chapters(
    documents: dict[str, list[HtmlBlock]], toc: Toc, book_title: str
) -> Iterator[Chapter]:
    """Begin a chapter wherever the table of contents leads; what it does not name goes on."""
    title, chapter = book_title, list[Block]()
    for path, blocks in documents.items():
        ids = {each for block in blocks for each in block.ids}
        for index, block in enumerate(blocks):
            here = [(path, each) for each in sorted(block.ids)]
            if index == 0:  # of the document, and of links to what is not there
                here += [place for place in toc if place[0] == path and place[1] not in ids]
            begun = list(dict.fromkeys(toc[place] for place in here if place in toc))
            if begun:
                yield Chapter(title, tuple(chapter))
                title, chapter = ". ".join(begun), []
            chapter.append(block.spoken)
    yield Chapter(title, tuple(chapter))
