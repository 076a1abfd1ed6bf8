"""Read Markdown: rendered to HTML, so that headings, lists and code are what they are there."""

import re

from .book import Book, make_book, require
from .html import blocks_of, parse_xml, split_at_titles
from .plain import decode

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_NOTES = re.compile(r"^\[\^[^\]\n]+\]:.*(?:\n[ \t]+.*)*|\[\^[^\]\n]+\]", re.MULTILINE)


def read_markdown(data: bytes, title: str) -> Book:
    """Read a Markdown file; a single top heading is the book's title. Raises BookError."""
    require("markdown_it", "a Markdown book")
    from markdown_it import MarkdownIt  # noqa: PLC0415 - of the extra `books`

    text = decode(data).replace("\r\n", "\n")
    text = _NOTES.sub("", _FRONT_MATTER.sub("", text))
    page = MarkdownIt("commonmark").enable("table").render(text)
    blocks = blocks_of(parse_xml(f"<body>{page}</body>".encode()))
    tops = [block.text for block in blocks if block.level == 1]
    title = tops[0] if len(tops) == 1 else title
    return make_book(title, split_at_titles(blocks, title))
