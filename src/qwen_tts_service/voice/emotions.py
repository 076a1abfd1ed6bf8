"""Recognise emotion words in three languages and word them as instructions in two.

The words and phrases are in emotions.toml.
"""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal, cast, get_args

from qwen_tts_service.errors import InvalidRequest

Emotion = Literal[
    "neutral",
    "happy",
    "sad",
    "angry",
    "fearful",
    "surprised",
    "disgusted",
    "excited",
    "calm",
    "serious",
    "friendly",
    "whisper",
]
EMOTIONS: tuple[Emotion, ...] = get_args(Emotion)
InstructLanguage = Literal["english", "chinese"]

MAX_EMOTION_CHARS = 64
_PARAM = "voice_attributes.emotion"

_TABLE: Mapping[Emotion, Mapping[str, str]] = cast(
    "Any", tomllib.loads(files(__package__).joinpath("emotions.toml").read_text("utf-8"))
)


def _key(word: str) -> str:
    return " ".join(word.casefold().replace("ё", "е").strip(" .!。！").split())


_EMOTION_OF: Mapping[str, Emotion] = {
    _key(word): emotion for emotion, row in _TABLE.items() for word in row["words"].split(",")
}


def known_emotion(word: str) -> Emotion | None:
    """Recognise an emotion word in English, Russian or Chinese; None if it is not in the table."""
    return _EMOTION_OF.get(_key(word))


def emotion_phrase(word: str, language: InstructLanguage) -> str:
    """Turn an emotion into an instruction; "" for a neutral one.

    A word outside the table is put into a plain phrase as it is. Raises `InvalidRequest` for
    what cannot be such a word: too long, without a letter, control characters, `<`, `>`, `|`.
    """
    word = _checked(word)
    emotion = known_emotion(word)
    if emotion is not None:
        return _TABLE[emotion][language]
    if language == "chinese":
        return f"用{word}的语气说。"
    article = "an" if word[0].lower() in "aeiou" else "a"
    return f"Speak in {article} {word} tone."


def _checked(word: str) -> str:
    word = word.strip()
    if len(word) > MAX_EMOTION_CHARS:
        reason = f"emotion is longer than {MAX_EMOTION_CHARS} characters; use instruct for more"
        raise InvalidRequest(reason, param=_PARAM)
    # <, > and | are what special tokens of the model are written with.
    if not word.isprintable() or set(word) & set("<>|"):
        reason = "emotion may contain neither control characters nor '<', '>', '|'"
        raise InvalidRequest(reason, param=_PARAM)
    if not any(char.isalpha() for char in word):
        raise InvalidRequest("emotion has no letter; write it as a word", param=_PARAM)
    return word.rstrip(" .!。！")
