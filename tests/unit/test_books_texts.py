"""Books of text, Markdown and EPUB: chapters, paragraphs, encodings, and what is no book."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from qwen_tts_service.books.book import Block, Book, BookError, Chapter, make_book
from qwen_tts_service.books.read import read_book

RUSSIAN = "Глава 1\n\nЖил-был на свете маленький лис. Он очень любил мёд и боялся ос.\n" * 3


def chapters(book: Book) -> dict[str, list[str]]:
    """Titles of chapters, and what is spoken in each; titles with a # before them."""
    return {
        chapter.title: ["# " * block.is_title + block.text for block in chapter.blocks]
        for chapter in book.chapters
    }


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Read a book that is written into a file of this name."""

    def run(name: str, content: str | bytes) -> Book:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_book(path)

    return run


# Plain text -----------------------------------------------------------------------------


def test_lines_of_a_wrapped_paragraph_are_joined(read: Any) -> None:
    text = "My book\n\nOnce upon\na time.\n\n    Then it\nended.\n— Did it?\n— Yes.\n"
    expected = ["My book", "Once upon a time.", "Then it ended.", "— Did it?", "— Yes."]
    assert chapters(read("tale.txt", text)) == {"tale": expected}


@pytest.mark.parametrize("text", ["One.\nTwo.\n", f"One.\n\n{'Long ' * 30}\nTwo.\n"])
def test_each_line_is_a_paragraph_where_lines_are_not_wrapped(read: Any, text: str) -> None:
    assert chapters(read("tale.txt", text))["tale"][-1] == "Two."


@pytest.mark.parametrize(
    "title",
    [
        "Chapter 1",
        "CHAPTER XIV.",
        "Chapter One",
        "Chapter 2: The Fox",
        "Part II — Home",
        "Глава 1",
        "Глава первая.",
        "ГЛАВА 3. Начало пути",
        "Часть 2",
        "Пролог",
        "Kapitel 3",
        "Capítulo 4",
        "Épilogue",
        "第一章",
        "第12章 狐",
        "제 1 장",
    ],
)
def test_a_line_that_is_a_title_begins_a_chapter(read: Any, title: str) -> None:
    found = chapters(read("a.txt", f"Before.\n\n{title}\n\nAfter.\n"))
    assert found == {"a": ["Before."], title: [f"# {title}", "After."]}


@pytest.mark.parametrize(
    "line",
    [
        "Chapter 1 was the longest of them all.",
        "Part one: it begins with the beginning of the\nlong way home.",
        "Partly 1",
        "Глава семьи вышла.",
        f"Chapter 1: {'a' * 80}",
    ],
)
def test_a_line_that_only_begins_like_a_title_is_none(read: Any, line: str) -> None:
    assert len(read("a.txt", f"Before.\n\n{line}\n\nAfter.\n").chapters) == 1


def test_titles_are_found_where_each_line_is_a_paragraph(read: Any) -> None:
    found = chapters(read("a.txt", "Before.\nГлава 1. Лис\nОн спал.\nГлава 2\nКонец.\n"))
    assert list(found) == ["a", "Глава 1. Лис", "Глава 2"]


def test_a_title_within_a_wrapped_paragraph_is_none(read: Any) -> None:
    assert len(read("a.txt", "He read\nChapter 1\nagain.\n\nThe end.\n").chapters) == 1


def test_titles_without_a_text_belong_to_the_next_chapter(read: Any) -> None:
    found = chapters(read("a.txt", "Part 1\n\nChapter 1\n\nText.\n"))
    assert found == {"Part 1. Chapter 1": ["# Part 1", "# Chapter 1", "Text."]}


def test_a_title_at_the_end_is_kept() -> None:
    chapter = Chapter("The end", (Block("The end", is_title=True),))
    assert make_book("a", [Chapter("a", ()), chapter]).chapters == (chapter,)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1251", "koi8-r", "cp866"])
def test_the_encoding_is_found(read: Any, encoding: str) -> None:
    assert read("a.txt", RUSSIAN.encode(encoding)).text == read("b.txt", RUSSIAN).text


# Markdown -------------------------------------------------------------------------------


def test_headings_of_markdown_begin_chapters(read: Any) -> None:
    text = (
        "---\nauthor: me\n---\n# Fox Tales\n\nBy me.\n\n## One\n\nHe ate *honey*[^1].\n\n"
        "### A part of it\n\n```\n## no heading\n```\n\nTwo\n---\n\n- a\n- b & c\n\n"
        "[^1]: A note.\n"
    )
    book = read("a.md", text)
    assert book.title == "Fox Tales"
    assert chapters(book) == {
        "Fox Tales": ["# Fox Tales", "By me."],
        "One": ["# One", "He ate honey.", "# A part of it", "## no heading"],
        "Two": ["# Two", "a", "b & c"],
    }


def test_markdown_without_headings_is_one_chapter(read: Any) -> None:
    assert chapters(read("a.md", "One\ntwo.\n\n***\n\nThree.")) == {
        "a": ["One two.", "* * *", "Three."]
    }


# EPUB -----------------------------------------------------------------------------------

CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>"""
NAV = """<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"><body>
<nav epub:type="landmarks"><a href="two.xhtml">Start</a></nav>
<nav epub:type="toc"><ol><li><a href="text/one.xhtml">The <b>Fox</b></a></li>
<li><a href="text/one.xhtml#b">Bees</a><ol><li><a href="text/two%20.xhtml">Home</a></li></ol></li>
</ol></nav></body></html>"""
NCX = """<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap>
<navPoint><navLabel><text>The Fox</text></navLabel><content src="text/one.xhtml"/>
<navPoint><navLabel><text>Bees</text></navLabel><content src="text/one.xhtml#b"/></navPoint>
</navPoint><navPoint><navLabel><text>Home</text></navLabel><content src="text/two%20.xhtml#gone"/>
</navPoint></navMap></ncx>"""
COVER = "<html xmlns='http://www.w3.org/1999/xhtml'><body><img src='a.png'/></body></html>"
ONE = """<?xml version="1.0"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"
xmlns:epub="http://www.idpf.org/2007/ops"><head><title>no</title></head><body>
<span class="x pagenum">[Pg 3]</span>
<h1>The&nbsp;Fox</h1><p>He ate <i>hon</i>ey<a epub:type="noteref" href="#n1">1</a>
and<sup><a href="n.xhtml#n2">2</a></sup> slept<a href="#n3">[3]</a> at <a href="#b">home</a>.</p>
<aside epub:type="footnote" id="n1"><p>A note.</p></aside>
<div><span id="b"/>Bees<br/>came.</div><hr/><p>10 m<sup>2</sup> &amp; more</p></body></html>"""
MORE = "<html><body><p>It goes on.<p>Unclosed &mdash; and</body></html>"
TWO = "<html xmlns='http://www.w3.org/1999/xhtml'><body><h2>Home</h2><p>The end.</p></body></html>"
FILES = {
    "text/cover.xhtml": COVER,
    "text/one.xhtml": ONE,
    "text/more.xhtml": MORE,
    "text/two .xhtml": TWO,
    "text/notes.xhtml": "<html><body><p>Not read.</p></body></html>",
    "nav.xhtml": NAV,
    "toc.ncx": NCX,
}


def opf(names: dict[str, str], spine: list[str]) -> str:
    items = "".join(
        f'<item id="{i}" href="{name.replace(" ", "%20")}" '
        f'media-type="application/{"x-dtbncx+xml" if name.endswith("ncx") else "xhtml+xml"}" '
        f'properties="{name.partition(".")[0]}"/>'
        for i, name in enumerate(names)
    )
    order = list(names)
    refs = "".join(
        f'<itemref idref="{order.index(name)}" linear="{"no" if "notes" in name else "yes"}"/>'
        for name in spine
    )
    return f"""<package xmlns="http://www.idpf.org/2007/opf"
xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title> Fox Tales </dc:title></metadata>
<manifest>{items}</manifest><spine>{refs}</spine></package>"""


def epub(*left_out: str, **others: str) -> bytes:
    """An EPUB without some of FILES, and with other files by their whole paths."""
    files = {name: text for name, text in FILES.items() if name not in left_out}
    spine = [name for name in files if not name.endswith("ncx")]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        everything = {
            "META-INF/container.xml": CONTAINER,
            "OEBPS/book.opf": opf(files, spine),
            **{f"OEBPS/{name}": text for name, text in files.items()},
            **others,
        }
        for name, text in everything.items():
            archive.writestr(name, text)
    return data.getvalue()


EXPECTED = {
    "The Fox": ["# The Fox", "He ate honey and slept at home."],
    "Bees": ["Bees", "came.", "* * *", "10 m2 & more", "It goes on.", "Unclosed — and"],
    "Home": ["# Home", "The end."],
}


@pytest.mark.parametrize("left_out", ["nav.xhtml", "toc.ncx"], ids=["epub2", "epub3"])
def test_chapters_of_an_epub_are_those_of_its_table_of_contents(read: Any, left_out: str) -> None:
    book = read("a.epub", epub(left_out))
    assert book.title == "Fox Tales"
    assert chapters(book) == EXPECTED


def test_an_epub_without_a_table_of_contents_is_cut_at_its_titles(read: Any) -> None:
    second = {"OEBPS/text/two .xhtml": TWO.replace("h2", "h1")}
    found = chapters(read("a.epub", epub("nav.xhtml", "toc.ncx", **second)))
    assert list(found) == ["The Fox", "Home"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.epub", b"no zip", "this is no EPUB, or it is damaged"),
        ("a.epub", epub()[:-200], "this is no EPUB, or it is damaged"),
        ("a.epub", epub(**{"META-INF/container.xml": "<a/>"}), "a part is missing"),
        ("a.epub", epub(**{"META-INF/container.xml": ""}), "container.xml cannot be read"),
        ("a.epub", epub(**{"META-INF/rights.xml": ""}), "protected (DRM)"),
        ("a.epub", epub(**{"OEBPS/book.opf": "<package/>"}), "no letter or digit"),
        ("a.txt", "\n\n* * *\n", "no letter or digit"),
        ("a.txt", "", "no letter or digit"),
        ("a.md", "", "no letter or digit"),
        ("a.pdf", "x", "must end with .txt, .md, .markdown, .epub"),
        ("a.txt", bytes(range(256)) * 4, "save it as UTF-8"),
    ],
)
def test_what_is_no_book_is_one_message(
    read: Any, name: str, content: str | bytes, words: str
) -> None:
    with pytest.raises(BookError, match=r"a\.\w+: ") as refusal:
        read(name, content)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_book_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BookError, match=r"none\.txt: No such file"):
        read_book(tmp_path / "none.txt")


def test_without_the_extra_it_is_named(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_tts_service.books.book.find_spec", lambda _: None)
    with pytest.raises(BookError, match=r"needs the package lxml; run \./scripts/setup books"):
        read("a.epub", epub())
    assert read("a.txt", "Text.")
