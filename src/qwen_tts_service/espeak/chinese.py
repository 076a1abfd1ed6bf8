"""Chinese syllables that espeak-ng 1.52 has characters for but no reading of.

Its Mandarin table lacks xiong, qiong and jiong and the old form of er, and reads their pinyin
as an English word. The characters are replaced by phonemes, which it takes between brackets.
Other characters without a reading are found by asking the library: `characters_to_check`.
"""

import unicodedata

from . import read_table

_CHARS_OF_SOUND: dict[str, str] = read_table("chinese.toml")
_PHONEMES = {
    ord(char): f"[[{sound}]]" for sound, chars in _CHARS_OF_SOUND.items() for char in chars
}
# The caller's own brackets must not be taken for phonemes.
_REPLACEMENTS = _PHONEMES | {ord("["): " ", ord("]"): " "}


def with_phonemes(text: str) -> str:
    """Write phonemes for the characters that need them; speak it with `is_phoneme_input`."""
    return text.translate(_REPLACEMENTS)


def characters_to_check(text: str) -> list[str]:
    """List the distinct Chinese characters whose reading is up to the library."""
    return sorted({char for char in text if _is_chinese(char) and ord(char) not in _PHONEMES})


def _is_chinese(char: str) -> bool:
    return char.isalpha() and unicodedata.name(char, "").startswith("CJK ")


def is_reading(phonemes: str) -> bool:
    """Whether phonemes of one Chinese character are a syllable, not the name of its code."""
    # "(en)" starts an English word; "@:11" is how it begins to spell a character's code.
    return bool(phonemes.strip("_| ")) and "(en)" not in phonemes and "@:11" not in phonemes
