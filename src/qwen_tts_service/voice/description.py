"""Describe a voice to a model that makes one of a description (Qwen3-TTS VoiceDesign).

A pure function over descriptions.toml. Every field that was given ends up either applied or not
applied with a reason.
"""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from qwen_tts_service.errors import InvalidRequest, shown
from qwen_tts_service.types import Gender, Language, VoiceAttributes, VoiceChoice

from .catalogue import age_band, gender_of_openai_voice
from .emotions import InstructLanguage, emotion_phrase
from .mapping import INSTRUCT_GIVEN, choice_with, given, instruct_language, outcomes_of

DESIGNED = "designed"
"""What stands for a speaker's name."""
_ONLY_GENDER = "this model has no speakers; of this name only the gender is described"
_NOTHING = "this model has no speakers, and the voice was described otherwise"

_TABLE: Mapping[str, Mapping[str, Any]] = tomllib.loads(
    files(__package__).joinpath("descriptions.toml").read_text("utf-8")
)
CLIP_TEXTS: Mapping[Language, str] = _TABLE["clip"]  # type: ignore[assignment]
"""What a described voice says in the clip that is kept of it."""


def describe_voice(
    attributes: VoiceAttributes, language: Language, speaker: str | None, instruct: str | None
) -> VoiceChoice:
    """Word the voice that is wanted, and say which of the given fields were applied.

    speaker: nothing but a voice name of OpenAI's, which many clients must send: it stands for a
        gender where nothing else describes the voice
    instruct: the description itself; wins over all else; blank counts as not given
    raises: `InvalidRequest` for any other speaker, or an emotion that is no word
    """
    named = _gender_of(speaker) if given(speaker) else None
    gender = attributes.gender or named
    words = instruct_language(language)
    emotion = emotion_phrase(attributes.emotion or "", words) if given(attributes.emotion) else ""
    sentences = filter(None, (describe_person(gender, attributes.age, words), emotion))
    described = ("" if words == "chinese" else " ").join(sentences) or None
    obstacle = INSTRUCT_GIVEN if given(instruct) else None
    outcomes = outcomes_of(
        ("speaker", named, _NOTHING if obstacle or attributes.gender else _ONLY_GENDER),
        ("gender", attributes.gender, obstacle),
        ("age", attributes.age, obstacle),
        ("emotion", given(attributes.emotion), obstacle),
        ("instruct", given(instruct), None),
    )
    return choice_with(
        outcomes, speaker=DESIGNED, language=language, instruct=given(instruct) or described
    )


def describe_person(gender: Gender | None, age: int | None, language: InstructLanguage) -> str:
    """Say in a sentence who speaks; "" if nothing is known of them."""
    table = _TABLE[language]
    if gender is None and age is None:
        return ""
    who = table[gender or "unsaid"]["any" if age is None else age_band(age)]
    sentence: str = table["sentence" if age is None else "aged"].format(who=who, age=age)
    return sentence


def _gender_of(speaker: str | None) -> Gender:
    gender = gender_of_openai_voice(speaker or "")
    if gender is None:
        raise InvalidRequest(
            f"speaker {shown(speaker)} cannot be had: this model has no speakers, it makes a voice "
            "of a description; send instruct, or gender, age and emotion",
            param="speaker",
            code="unknown_speaker",
        )
    return gender
