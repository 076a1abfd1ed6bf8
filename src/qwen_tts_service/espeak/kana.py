"""Convert Japanese kanji to kana (pykakasi), the only Japanese script that espeak-ng reads."""

import re
import threading

from . import import_extra, no_reading

# Only these are shown to pykakasi, which drops, doubles or splits much of everything else.
_JAPANESE = re.compile(
    r"[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)

# Words that are written as one syllable and spoken as another: two particles, and a figure.
_SPOKEN = {"は": "わ", "へ": "え", "〇": "ぜろ"}


class KanaReader:
    """Convert Japanese text to kana with a space between words.

    Raises StartupError when pykakasi is not installed. Loading takes half a second.
    """

    def __init__(self) -> None:
        self._kakasi = import_extra("pykakasi").kakasi()
        self._lock = threading.Lock()

    def read(self, text: str) -> str:
        """Write the text in kana; the spaces are what espeak-ng finds words by.

        Raises CannotSpeak, code `no_reading`, for kanji without a known reading.
        """
        with self._lock:
            return _JAPANESE.sub(self._read_run, text)

    def _read_run(self, match: re.Match[str]) -> str:
        words = self._kakasi.convert(match[0])
        # pykakasi drops kanji it does not know: a word gets no kana, or there is no word at all.
        if "".join(word["orig"] for word in words if word["hira"]) != match[0]:
            raise no_reading(
                "text has kanji that the embedded voice knows no reading for; write them in kana"
            )
        return " ".join(["", *(_SPOKEN.get(word["hira"], word["hira"]) for word in words), ""])
