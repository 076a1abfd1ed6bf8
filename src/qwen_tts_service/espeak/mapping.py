"""Choose how espeak-ng speaks: gender, age, emotion, speaker -> variant, pitch, range, rate.

A pure function over the tables in deliveries.toml.
"""

import math
from collections.abc import Sequence
from typing import Any

from qwen_tts_service.errors import InvalidRequest, shown
from qwen_tts_service.types import Gender, SpeechRequest, VoiceAttributes, VoiceChoice
from qwen_tts_service.voice.catalogue import age_band, gender_of_openai_voice
from qwen_tts_service.voice.emotions import EMOTIONS, known_emotion
from qwen_tts_service.voice.mapping import choice_with, given, outcomes_of

from . import read_table
from .library import Delivery

_TABLES = read_table("deliveries.toml")
LANGUAGE_CODES = {name: row["code"] for name, row in read_table("languages.toml").items()}
_DEFAULT_GENDER: Gender = "male"
_MIN_RATE_WPM, _MAX_RATE_WPM = 80, 450
MIN_PITCH, MAX_PITCH = 0, 99
# By the pitch heard from m6, f2 and m3 in English and Russian at ten settings.
_OCTAVE_UP, _OCTAVE_DOWN = 67, 75
_SPEAKER_GIVEN = "speaker was given"
_NO_INSTRUCT = "the embedded voice does not follow instructions"
_UNKNOWN_EMOTION = "the embedded voice does not know this emotion; it knows " + ", ".join(EMOTIONS)


def choose_delivery(
    request: SpeechRequest, speakers: Sequence[str]
) -> tuple[VoiceChoice, Delivery]:
    """Choose how to speak a request, and say which of the given fields were applied.

    A speaker is a variant, in any case, or a voice name of OpenAI's; it wins over gender, age
    and a whispering variant.

    speakers: the variants of the library
    raises: InvalidRequest, code `unknown_speaker`
    """
    attributes, language = request.attributes, request.language or "english"
    speaker = None if given(request.speaker) is None else _resolve(request.speaker or "", speakers)
    emotion = known_emotion(attributes.emotion or "")
    is_whisper = emotion == "whisper"
    reason = None if speaker is None else _SPEAKER_GIVEN
    of_emotion = _UNKNOWN_EMOTION if emotion is None else reason if is_whisper else None
    outcomes = outcomes_of(
        ("emotion", given(attributes.emotion), of_emotion),
        ("speaker", speaker, None),
        ("gender", attributes.gender, reason),
        ("age", attributes.age, reason),
        ("instruct", given(request.instruct), _NO_INSTRUCT),
    )
    person = _TABLES["given"] | {"variant": speaker}
    if speaker is None:
        person = _person(attributes, is_whisper=is_whisper)
    is_plain = emotion is None or (is_whisper and speaker is not None)
    manner = _TABLES["manners"]["neutral" if is_plain else emotion]
    delivery = Delivery(
        language_code=LANGUAGE_CODES[language],
        variant=person["variant"],
        rate_wpm=_rate_wpm(person["rate_wpm"] * manner["rate"] * request.rate),
        pitch=_pitch(person["pitch"] + manner["pitch"], request.pitch),
        pitch_range=50 + manner["pitch_range"],
        volume=100 + manner["volume"],
    )
    return choice_with(outcomes, speaker=delivery.variant, language=language), delivery


def _rate_wpm(rate_wpm: float) -> int:
    """Within what espeak-ng takes: slower and faster it goes on with another rate."""
    return round(min(max(rate_wpm, _MIN_RATE_WPM), _MAX_RATE_WPM))


def _pitch(pitch: int, factor: float) -> int:
    """The pitch by a factor, within what espeak-ng takes: to about 0.65 and 1.65 of 50."""
    octave = _OCTAVE_UP if factor > 1 else _OCTAVE_DOWN
    return round(min(max(pitch + octave * math.log2(factor), MIN_PITCH), MAX_PITCH))


def _resolve(speaker: str, speakers: Sequence[str]) -> str:
    for known in speakers:
        if known.casefold() == speaker.strip().casefold():
            return known
    gender = gender_of_openai_voice(speaker)
    if gender is not None:
        return str(_TABLES["voices"][gender]["adult"]["variant"])
    raise InvalidRequest(
        f"speaker {shown(speaker)} is not known; known speakers: {', '.join(speakers)}",
        param="speaker",
        code="unknown_speaker",
    )


def _person(attributes: VoiceAttributes, *, is_whisper: bool) -> dict[str, Any]:
    gender = attributes.gender or _DEFAULT_GENDER
    band = "adult" if attributes.age is None else age_band(attributes.age)
    person: dict[str, Any] = _TABLES["voices"][gender]["adult" if band == "young" else band]
    return person | {"variant": _TABLES["whispers"][gender]} if is_whisper else person
