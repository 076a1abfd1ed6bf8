"""Cut chapters into the parts that are spoken one by one, and the silence after each."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qwen_tts_service.text.split import is_speakable, split_sentences

from .book import Book, Chapter

MAX_PART_CHARS = 800
"""About a minute of speech: enough to keep a melody, little to lose in a crash."""
_KEY_CHARS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPauses:
    """Seconds of silence after a part, by what ends there."""

    sentence_s: float = 0.3
    paragraph_s: float = 0.6
    title_s: float = 1.0
    break_s: float = 1.5


@dataclass(frozen=True, slots=True)
class BookPart:
    """A text to speak, and the silence after it.

    key: the same for the same text with the same options, and for no other
    """

    text: str
    pause_s: float
    key: str


@dataclass(frozen=True, slots=True)
class ChapterPlan:
    """A chapter and its parts; `name` is that of its files, without an ending."""

    title: str
    name: str
    parts: tuple[BookPart, ...]


def plan_chapters(
    book: Book, options: Mapping[str, Any], pauses: PartPauses
) -> tuple[ChapterPlan, ...]:
    """Cut a book into parts.

    options: all that decides how a text is spoken, as JSON has it
    """
    digits = max(2, len(str(len(book.chapters))))
    return tuple(
        ChapterPlan(
            chapter.title,
            f"{number:0{digits}} {_file_name(chapter.title)}".strip(),
            tuple(
                BookPart(text, pause_s, digest([text, options]))
                for text, pause_s in _cut(chapter, pauses)
            ),
        )
        for number, chapter in enumerate(book.chapters, 1)
    )


def digest(value: object) -> str:
    """Name a JSON value by its hash."""
    data = json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(data).hexdigest()[:_KEY_CHARS]


def _cut(chapter: Chapter, pauses: PartPauses) -> Iterator[tuple[str, float]]:
    """Yield texts and the silence behind each; short paragraphs are spoken together."""
    text = ""
    for block in chapter.blocks:
        is_silent = not is_speakable(block.text)
        is_full = len(text) + len(block.text) + 2 > MAX_PART_CHARS
        if text and (is_silent or block.is_title or is_full):
            yield text, pauses.break_s if is_silent else pauses.paragraph_s
            text = ""
        if block.is_title:
            yield block.text, pauses.title_s
        elif not is_silent:
            *first, last = _sentences(block.text)
            yield from ((part, pauses.sentence_s) for part in first)
            text = f"{text}\n\n{last}".lstrip()
    if text:
        yield text, pauses.paragraph_s


def _sentences(text: str) -> list[str]:
    """Cut a long paragraph where sentences end, into parts of about the same length."""
    fewest = -(-len(text) // MAX_PART_CHARS)
    parts = split_sentences(text, max_chars=MAX_PART_CHARS, min_chars=len(text) // fewest)
    return [part.strip() for part in parts if is_speakable(part)]


def _file_name(title: str) -> str:
    """Make a title fit for a file on every system."""
    kept = "".join(char if char.isalnum() or char in " -_.,()" else " " for char in title)
    return " ".join(kept.split())[:60].strip(" .")
