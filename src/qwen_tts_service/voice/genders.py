"""Recognise words for a gender in the ten languages.

The words are in genders.toml.
"""

import tomllib
import unicodedata
from collections.abc import Mapping
from importlib.resources import files
from typing import cast

from qwen_tts_service.types import Gender


def _key(word: str) -> str:
    plain = unicodedata.normalize("NFKC", word).casefold().replace("ё", "е")
    return " ".join(plain.strip(" .").split())


_GENDER_OF: Mapping[str, Gender] = {
    _key(word): cast("Gender", gender)
    for gender, words in tomllib.loads(
        files(__package__).joinpath("genders.toml").read_text("utf-8")
    ).items()
    for word in words.split(",")
}


def known_gender(word: str) -> Gender | None:
    """Recognise a word for a gender, in any case; None if it is not in the table."""
    return _GENDER_OF.get(_key(word))
