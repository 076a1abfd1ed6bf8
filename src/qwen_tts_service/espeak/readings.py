"""Text rewritten where espeak-ng 1.52 has no reading: kanji, and some Chinese characters."""

import re
import threading
import unicodedata

from qwen_tts_service.types import Places, Stretch

from . import import_extra, no_reading, read_table

# Kanji ----------------------------------------------------------------------------------

# Only these are shown to pykakasi, which drops, doubles or splits much of everything else.
_JAPANESE = re.compile(
    r"[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)

_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")

# Words that are written as one syllable and spoken as another: two particles, and a figure.
_SPOKEN = {"は": "わ", "へ": "え", "〇": "ぜろ"}


def has_kana(text: str) -> bool:
    """Whether there is kana in a text, so that its Chinese characters are Japanese."""
    return _KANA.search(text) is not None


class KanaReader:
    """Converts kanji to kana with pykakasi, which is loaded in half a second.

    Raises StartupError when pykakasi is not installed.
    """

    def __init__(self) -> None:
        self._kakasi = import_extra("pykakasi").kakasi()
        self._lock = threading.Lock()

    def read(self, text: str) -> str:
        """Write the text in kana; the spaces are what espeak-ng finds words by.

        Raises CannotSpeak, code `no_reading`, for kanji without a known reading.
        """
        return _JAPANESE.sub(
            lambda run: " ".join(["", *map(_spoken, self._words(run[0])), ""]), text
        )

    def places(self, text: str) -> tuple[str, Places]:
        """Write the text in kana, and tell where each word of that stands in it."""
        read, places = "", list[Stretch]()
        for part in filter(None, re.split(f"({_JAPANESE.pattern})", text)):
            is_japanese = _JAPANESE.fullmatch(part) is not None
            for word in self._words(part) if is_japanese else [{"orig": part, "hira": part}]:
                at, said = places[-1].source_end if places else 0, _spoken(word)
                read += " " if is_japanese else ""
                places.append(Stretch(len(read), len(read) + len(said), at, at + len(word["orig"])))
                read += said
        return read, tuple(places)

    def _words(self, run: str) -> list[dict[str, str]]:
        with self._lock:  # run by run, so that nobody waits for a long text
            words: list[dict[str, str]] = self._kakasi.convert(run)
        # pykakasi drops kanji it does not know: a word gets no kana, or there is no word at all.
        if "".join(word["orig"] for word in words if word["hira"]) != run:
            raise no_reading(
                "text has kanji that the embedded voice knows no reading for; write them in kana"
            )
        return words


def _spoken(word: dict[str, str]) -> str:
    return _SPOKEN.get(word["hira"], word["hira"])


# Chinese --------------------------------------------------------------------------------

# Its Mandarin table lacks xiong, qiong and jiong and the old form of er, and reads their pinyin
# as an English word. The characters are replaced by phonemes, which it takes between brackets.
_PHONEMES = {
    ord(char): f"[[{sound}]]"
    for sound, chars in read_table("chinese.toml").items()
    for char in chars
}


def with_phonemes(text: str) -> str:
    """Write phonemes for the characters that need them; speak it with `Delivery.has_phonemes`."""
    return text.translate(_PHONEMES)


def characters_to_check(text: str) -> list[str]:
    """List the distinct Chinese characters whose reading is up to the library."""
    return sorted({char for char in text if _is_chinese(char) and ord(char) not in _PHONEMES})


def _is_chinese(char: str) -> bool:
    return char.isalpha() and unicodedata.name(char, "").startswith("CJK ")


def is_reading(phonemes: str) -> bool:
    """Whether phonemes of one Chinese character are a syllable, not the name of its code."""
    # "(en)" starts an English word; "@:11" is how it begins to spell a character's code.
    return bool(phonemes.strip("_| ")) and "(en)" not in phonemes and "@:11" not in phonemes
