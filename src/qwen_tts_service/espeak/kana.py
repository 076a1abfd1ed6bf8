"""Japanese kanji to kana, so that espeak-ng, which reads kana only, can read Japanese.

It does not know espeak-ng, nor which other characters a Japanese text may have.
"""

import threading
from typing import Any

from qwen_tts_service.errors import CannotSpeak, StartupError

# Written as one syllable and, as a particle standing alone, spoken as another.
_PARTICLES = {"は": "わ", "へ": "え"}


class KanaReader:
    """Convert Japanese text to kana with a space between words.

    Raises StartupError when pykakasi is not installed. Loading takes half a second.
    """

    def __init__(self) -> None:
        try:
            import pykakasi  # noqa: PLC0415 -- an optional extra, and slow to import
        except ImportError:
            raise StartupError(
                "the embedded voice needs pykakasi, which is not installed; "
                "run: pip install 'qwen-tts-service[espeak]'"
            ) from None
        self._kakasi: Any = pykakasi.kakasi()  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    def read(self, text: str) -> str:
        """Write the text in kana; the spaces are what espeak-ng finds words by.

        Raises CannotSpeak, code `no_reading`, for kanji without a known reading.
        """
        with self._lock:
            words = self._kakasi.convert(text)
        # pykakasi drops characters it does not know: a word without kana, or no word at all.
        is_complete = "".join(word["orig"] for word in words) == text
        if not is_complete or any(word["orig"] and not word["hira"] for word in words):
            raise CannotSpeak(
                "text has kanji that the embedded voice knows no reading for; write them in kana",
                param="text",
                code="no_reading",
            )
        return " ".join(_PARTICLES.get(word["hira"], word["hira"]) for word in words)
