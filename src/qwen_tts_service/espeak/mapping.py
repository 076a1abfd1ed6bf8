"""From wishes to a delivery: gender, age, emotion and speaker -> variant, pitch, range, rate.

A pure function over tables; every wish ends up either applied or not applied with a reason.
The tables are tuned by measured pitch, in all ten languages (tests/unit/test_espeak_sound.py).
It does not know the text, nor which emotion words people use beyond the twelve names here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.types import Gender, Language, VoiceAttributes, VoiceChoice

from .library import Delivery

AgeBand = Literal["child", "teen", "adult", "senior"]

LANGUAGE_CODES: Mapping[Language, str] = {
    "chinese": "cmn",
    "english": "en-us",
    "japanese": "ja",
    "korean": "ko",
    "german": "de",
    "french": "fr",
    "russian": "ru",
    "portuguese": "pt-br",
    "spanish": "es",
    "italian": "it",
}

_OLDEST: tuple[tuple[int, AgeBand], ...] = ((12, "child"), (19, "teen"), (54, "adult"))
"""The last year of each age band; older is ``"senior"``."""

DEFAULT_GENDER: Gender = "male"
_SPEAKER_GIVEN = "speaker was given"
_NO_INSTRUCT = "the embedded voice does not follow instructions"
_UNKNOWN_EMOTION = "the embedded voice does not know this emotion; it knows "


@dataclass(frozen=True, slots=True)
class _Voice:
    """A variant and how it is spoken when nothing else is wished."""

    variant: str
    pitch: int
    rate_wpm: int = 165


@dataclass(frozen=True, slots=True)
class _Manner:
    """What an emotion changes; pitch, range and volume are added, the rate is multiplied."""

    pitch: int = 0
    pitch_range: int = 0
    rate: float = 1.0
    volume: int = 0


# Variants were chosen among all by what pocketsphinx understands of eight English sentences at
# four pitches: m6, f2 and f5 32 of 32, f1 28, m1 26; m3 25, grandma 2, Annie 0.
_VOICES: Mapping[Gender, Mapping[AgeBand, _Voice]] = {
    "male": {
        "child": _Voice("f2", 58, 170),
        "teen": _Voice("m6", 70, 172),
        "adult": _Voice("m6", 48),
        "senior": _Voice("m1", 42, 140),
    },
    "female": {
        "child": _Voice("f5", 80, 170),
        "teen": _Voice("f2", 62, 172),
        "adult": _Voice("f2", 50),
        "senior": _Voice("f1", 50, 140),
    },
    # Between the two: a female vocal tract at the pitch where both genders overlap.
    "neutral": {
        "child": _Voice("f2", 71, 170),
        "teen": _Voice("f2", 34, 172),
        "adult": _Voice("f2", 20),
        "senior": _Voice("f1", 26, 140),
    },
}
_WHISPERS: Mapping[Gender, str] = {"male": "whisper", "female": "whisperf", "neutral": "whisperf"}

_MANNERS: Mapping[str, _Manner] = {
    "neutral": _Manner(),
    "happy": _Manner(pitch=12, pitch_range=25, rate=1.10, volume=10),
    "sad": _Manner(pitch=-15, pitch_range=-30, rate=0.78, volume=-20),
    "angry": _Manner(pitch=4, pitch_range=30, rate=1.15, volume=40),
    "fearful": _Manner(pitch=16, pitch_range=-15, rate=1.20, volume=-10),
    "surprised": _Manner(pitch=16, pitch_range=40, rate=1.00, volume=10),
    "disgusted": _Manner(pitch=-8, pitch_range=10, rate=0.88),
    "excited": _Manner(pitch=16, pitch_range=35, rate=1.22, volume=20),
    "calm": _Manner(pitch=-5, pitch_range=-15, rate=0.88, volume=-10),
    "serious": _Manner(pitch=-8, pitch_range=-20, rate=0.94),
    "friendly": _Manner(pitch=6, pitch_range=12, rate=1.00),
    "whisper": _Manner(rate=0.92),
}
EMOTIONS = tuple(_MANNERS)
"""The names of the emotions that change how the voice speaks, ``"neutral"`` among them."""


def plain_emotion(word: str) -> str | None:
    """Know the emotions by their own names only."""
    name = word.strip().casefold()
    return name if name in EMOTIONS else None


def no_gender(_: str) -> None:
    """Know no names of other services."""


@dataclass(slots=True)
class _Report:
    applied: list[str] = field(default_factory=list)
    not_applied: dict[str, str] = field(default_factory=dict)

    def note(self, wish: str, *, reason: str | None = None) -> None:
        if reason is None:
            self.applied.append(wish)
        else:
            self.not_applied[wish] = reason


def choose_delivery(
    attributes: VoiceAttributes,
    language: Language,
    speaker: str | None,
    instruct: str | None,
    *,
    speakers: Sequence[str],
    known_emotion: Callable[[str], str | None] = plain_emotion,
    gender_of_name: Callable[[str], Gender | None] = no_gender,
) -> tuple[VoiceChoice, Delivery]:
    """Choose how to speak, and say what became of every wish.

    speaker: a variant, in any case, or a name that `gender_of_name` knows; wins over gender, age
        and a whispering variant
    known_emotion: word -> one of the twelve names, or None
    raises: InvalidRequest, code `unknown_speaker`
    """
    report = _Report()
    given = None
    if speaker and speaker.strip():
        given = _resolve(speaker, speakers, gender_of_name)
    manner, is_whisper = _manner(attributes.emotion, known_emotion, report, is_given=bool(given))
    voice = _voice(attributes, given, report, is_whisper=is_whisper)
    if instruct and instruct.strip():
        report.note("instruct", reason=_NO_INSTRUCT)
    choice = VoiceChoice(
        speaker=voice.variant,
        language=language,
        applied=tuple(report.applied),
        not_applied=report.not_applied,
    )
    return choice, _delivery(LANGUAGE_CODES[language], voice, manner)


def _resolve(
    speaker: str, speakers: Sequence[str], gender_of_name: Callable[[str], Gender | None]
) -> str:
    for known in speakers:
        if known.casefold() == speaker.strip().casefold():
            return known
    gender = gender_of_name(speaker)
    if gender is not None:
        return _VOICES[gender]["adult"].variant
    raise InvalidRequest(
        f"speaker is not known; known speakers: {', '.join(speakers)}",
        param="speaker",
        code="unknown_speaker",
    )


def _manner(
    word: str | None,
    known_emotion: Callable[[str], str | None],
    report: _Report,
    *,
    is_given: bool,
) -> tuple[_Manner, bool]:
    if not word or not word.strip():
        return _Manner(), False
    name = known_emotion(word)
    if name is None or name not in _MANNERS:
        report.note("emotion", reason=_UNKNOWN_EMOTION + ", ".join(EMOTIONS))
        return _Manner(), False
    is_whisper = name == "whisper"
    report.note("emotion", reason=_SPEAKER_GIVEN if is_whisper and is_given else None)
    return (_Manner() if is_whisper and is_given else _MANNERS[name]), is_whisper


def _voice(
    attributes: VoiceAttributes, given: str | None, report: _Report, *, is_whisper: bool
) -> _Voice:
    reason = None if given is None else _SPEAKER_GIVEN
    if given is not None:
        report.note("speaker")
    if attributes.gender is not None:
        report.note("gender", reason=reason)
    if attributes.age is not None:
        report.note("age", reason=reason)
    if given is not None:
        return _Voice(given, 50)
    gender = attributes.gender or DEFAULT_GENDER
    voice = _VOICES[gender][_age_band(attributes.age)]
    return _Voice(_WHISPERS[gender], voice.pitch, voice.rate_wpm) if is_whisper else voice


def _age_band(age: int | None) -> AgeBand:
    if age is None:
        return "adult"
    return next((band for oldest, band in _OLDEST if age <= oldest), "senior")


def _delivery(language_code: str, voice: _Voice, manner: _Manner) -> Delivery:
    return Delivery(
        language_code=language_code,
        variant=voice.variant,
        rate_wpm=_within(round(voice.rate_wpm * manner.rate), 80, 450),
        pitch=_within(voice.pitch + manner.pitch, 0, 99),
        pitch_range=_within(50 + manner.pitch_range, 0, 99),
        volume=_within(100 + manner.volume, 0, 200),
    )


def _within(value: int, lowest: int, highest: int) -> int:
    return min(max(value, lowest), highest)
