"""A book to be read aloud: chapters of titles and paragraphs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

from qwen_tts_service.text.language import detect_language, parse_language
from qwen_tts_service.text.split import is_speakable
from qwen_tts_service.types import Language

JUDGED_CHARS = 2000
"""Of the middle of a book, by which its language is told."""


class BookError(Exception):
    """The book cannot be read, or what was made of it not be written; the message is for people."""


@dataclass(frozen=True, slots=True)
class Block:
    """A title or a paragraph; one without a letter, such as `* * *`, is a break."""

    text: str
    is_title: bool = False


@dataclass(frozen=True, slots=True)
class Chapter:
    """What becomes one file. The title is for lists; where it is spoken, it is a block too."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """A title and chapters, each with something to speak."""

    title: str
    chapters: tuple[Chapter, ...]

    @property
    def text(self) -> str:
        """All there is to speak."""
        return "\n".join(block.text for chapter in self.chapters for block in chapter.blocks)


def language_of(book: Book, asked: str | None, default: Language) -> Language:
    """Find the one language of a book; raises InvalidRequest for an unknown one.

    asked: by name or code, or auto
    default: of a book without letters
    """
    language = None if asked is None else parse_language(asked)
    start = max(0, (len(book.text) - JUDGED_CHARS) // 2)
    return language or detect_language(book.text[start : start + JUDGED_CHARS], default)


def make_book(title: str, chapters: Iterable[Chapter]) -> Book:
    """Leave out chapters without a word, and join titles without a text to the next chapter.

    Raises BookError if nothing is left.
    """
    book = Book(title, tuple(_joined(title, chapters)))
    if not book.chapters:
        raise BookError("the book has no letter or digit to speak")
    return book


def _joined(book_title: str, chapters: Iterable[Chapter]) -> Iterator[Chapter]:
    waiting: list[Chapter] = []
    for chapter in chapters:
        if not is_speakable("".join(block.text for block in chapter.blocks)):
            continue
        waiting.append(chapter)
        if not all(block.is_title for block in chapter.blocks):
            yield _one_of(book_title, waiting)
            waiting.clear()
    if waiting:
        yield _one_of(book_title, waiting)


def _one_of(book_title: str, chapters: list[Chapter]) -> Chapter:
    titles = [chapter.title for chapter in chapters if chapter.title != book_title]
    blocks = tuple(block for chapter in chapters for block in chapter.blocks)
    return replace(chapters[-1], title=". ".join(titles) or book_title, blocks=blocks)


def require(package: str, purpose: str) -> None:
    """Raise BookError if a package of the extra `books` is missing."""
    if find_spec(package) is None:
        raise BookError(f"{purpose} needs the package {package}; run ./scripts/setup books")
