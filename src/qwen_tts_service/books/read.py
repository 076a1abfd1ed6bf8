"""Read a book from a file, by the ending of its name."""

from pathlib import Path

from .book import Book, BookError
from .epub import read_epub
from .markdown import read_markdown
from .plain import read_plain

ENDINGS = (".txt", ".md", ".markdown", ".epub")


def read_book(path: Path) -> Book:
    """Read a book. Raises BookError."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise BookError(f"{path}: a book's name must end with {', '.join(ENDINGS)}")
    try:
        if ending == ".epub":
            return read_epub(path)
        read = read_plain if ending == ".txt" else read_markdown
        return read(path.read_bytes(), path.stem)
    except OSError as error:
        raise BookError(f"{path}: {error.strerror}") from None
    except BookError as error:
        raise BookError(f"{path}: {error}") from None
