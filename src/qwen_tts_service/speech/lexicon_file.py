"""The server's pronunciation lexicon: a file that is read again when it has changed."""

import logging
from pathlib import Path

from qwen_tts_service.errors import StartupError
from qwen_tts_service.text.lexicon import LanguageLexicons, LexiconError, parse_lexicon

logger = logging.getLogger(__name__)

_Version = tuple[int, int] | None
"""Time of the last change in nanoseconds and size in bytes; None if there is no file."""


class LexiconFile:
    """A lexicon file; raises StartupError with the line number if it cannot be read at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = self._version_now()
        try:
            self._lexicons = self._read()
        except LexiconError as error:
            raise StartupError(
                f"LEXICON={path}: {error}. README.md describes the file's format."
            ) from None

    def current(self) -> LanguageLexicons:
        """What the file says now; what it said before if it is broken, which is logged once."""
        version = self._version_now()
        if version != self._version:
            self._version = version
            try:
                self._lexicons = self._read()
                logger.info("the lexicon was read again: %s", self._path)
            except LexiconError as error:
                logger.warning("the changed lexicon is not used: %s: %s", self._path, error)
        return self._lexicons

    def _version_now(self) -> _Version:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def _read(self) -> LanguageLexicons:
        try:
            return parse_lexicon(self._path.read_bytes())
        except OSError as error:
            raise LexiconError(error.strerror or "it cannot be read") from None
