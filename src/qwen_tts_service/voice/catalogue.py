"""The nine speakers of Qwen3-TTS CustomVoice, their ages, and the names other services use.

Facts only, as tables. It does not know which of them a checkpoint really has, nor how a wish
becomes a choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from qwen_tts_service.types import Gender, Language

AgeBand = Literal["child", "teen", "young", "adult", "senior"]
AGE_BANDS: tuple[AgeBand, ...] = ("child", "teen", "young", "adult", "senior")
_LAST_YEAR_OF_BAND: tuple[tuple[int, AgeBand], ...] = (
    (12, "child"),
    (19, "teen"),
    (35, "young"),
    (54, "adult"),
)


def age_band(age: int) -> AgeBand:
    """Name the band that an age in years falls into."""
    for last_year, band in _LAST_YEAR_OF_BAND:
        if age <= last_year:
            return band
    return "senior"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """One speaker as a listener would describe it.

    id: lower case, as checkpoints spell it
    ages: the bands the voice passes for; our judgement, not the publisher's
    dialect: what the speaker talks when the text is Chinese; None means standard Mandarin
    """

    id: str
    name: str
    gender: Gender
    ages: tuple[AgeBand, ...]
    description: str
    native_language: Language
    dialect: str | None = None


_ALL = (
    Speaker(
        id="vivian",
        name="Vivian",
        gender="female",
        ages=("teen", "young"),
        description="A bright young woman with a slight edge.",
        native_language="chinese",
    ),
    Speaker(
        id="serena",
        name="Serena",
        gender="female",
        ages=("young", "adult"),
        description="A warm, gentle woman.",
        native_language="chinese",
    ),
    Speaker(
        id="ono_anna",
        name="Ono_Anna",
        gender="female",
        ages=("child", "teen", "young"),
        description="A light, playful, quick girl's voice.",
        native_language="japanese",
    ),
    Speaker(
        id="sohee",
        name="Sohee",
        gender="female",
        ages=("young", "adult"),
        description="A warm woman who shows her feelings.",
        native_language="korean",
    ),
    Speaker(
        id="uncle_fu",
        name="Uncle_Fu",
        gender="male",
        ages=("adult", "senior"),
        description="A low, mellow man who has seen a lot.",
        native_language="chinese",
    ),
    Speaker(
        id="dylan",
        name="Dylan",
        gender="male",
        ages=("teen", "young"),
        description="A clear, natural young man from Beijing.",
        native_language="chinese",
        dialect="beijing",
    ),
    Speaker(
        id="eric",
        name="Eric",
        gender="male",
        ages=("young",),
        description="A lively, slightly husky man from Chengdu.",
        native_language="chinese",
        dialect="sichuan",
    ),
    Speaker(
        id="ryan",
        name="Ryan",
        gender="male",
        ages=("young", "adult"),
        description="A dynamic man with a strong rhythm.",
        native_language="english",
    ),
    Speaker(
        id="aiden",
        name="Aiden",
        gender="male",
        ages=("teen", "young"),
        description="A sunny young American, clear and direct.",
        native_language="english",
    ),
)

SPEAKERS: Mapping[str, Speaker] = MappingProxyType({speaker.id: speaker for speaker in _ALL})

# Dylan and Eric are left out on purpose: a client that knows only these names should not find
# its Chinese read in a dialect.
OPENAI_VOICES: Mapping[str, str] = MappingProxyType(
    {
        "alloy": "serena",
        "ash": "ryan",
        "ballad": "uncle_fu",
        "cedar": "ryan",
        "coral": "vivian",
        "echo": "aiden",
        "fable": "aiden",
        "marin": "serena",
        "nova": "vivian",
        "onyx": "uncle_fu",
        "sage": "sohee",
        "shimmer": "ono_anna",
        "verse": "ryan",
    }
)
"""The voice names of OpenAI's speech API -> speaker ids."""


def gender_of_openai_voice(name: str) -> Gender | None:
    """Say how a voice of OpenAI's sounds here; None if it has no voice of this name."""
    speaker = OPENAI_VOICES.get(name.strip().casefold())
    return None if speaker is None else SPEAKERS[speaker].gender
