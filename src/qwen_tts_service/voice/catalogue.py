"""Speakers of Qwen3-TTS CustomVoice, age bands, and the voice names of OpenAI's speech API.

The speakers are in speakers.toml; a checkpoint may have others, which a speakers.json beside it
describes.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from qwen_tts_service.errors import StartupError
from qwen_tts_service.types import Gender, Language

AgeBand = Literal["child", "teen", "young", "adult", "senior"]
AGE_BANDS: tuple[AgeBand, ...] = get_args(AgeBand)
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
    ages: the bands the voice passes for; our judgement, not the publisher's; () is not known
    dialect: what the speaker talks when the text is Chinese; None means standard Mandarin
    """

    id: str
    name: str
    gender: Gender
    ages: tuple[AgeBand, ...]
    description: str
    native_language: Language | None
    dialect: str | None = None


@runtime_checkable
class KnowsSpeakers(Protocol):
    """What a voice also is that knows something of its speakers, by their ids."""

    @property
    def known(self) -> Mapping[str, Speaker]: ...


SPEAKERS: Mapping[str, Speaker] = MappingProxyType(
    {
        name: Speaker(id=name, **row | {"ages": tuple(row["ages"])})
        for name, row in tomllib.loads(
            files(__package__).joinpath("speakers.toml").read_text("utf-8")
        ).items()
    }
)


def read_speakers(file: Path) -> Mapping[str, Speaker]:
    """Return the known speakers and those of a checkpoint's speakers.json, if it has one.

    It is an object of objects, by the speaker's name: `gender` ("female", "male" or "neutral") and,
    as far as they are known, `age` in years, `description` and `native_language`. Raises
    StartupError that names what is wrong.
    """
    if not file.exists():
        return SPEAKERS
    try:
        rows = json.loads(file.read_text("utf-8"))
        return {**SPEAKERS, **{name.lower(): _speaker(name, row) for name, row in rows.items()}}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StartupError(
            f"{file} must be an object of speakers, each with a gender (female, male or neutral) "
            f"and perhaps age, description, native_language: {error}"
        ) from error


def _speaker(name: str, row: dict[str, Any]) -> Speaker:
    unknown = row.keys() - {"gender", "age", "description", "native_language"}
    if unknown or row.get("gender") not in get_args(Gender):
        raise ValueError(f"{name}: unknown {sorted(unknown)}" if unknown else f"{name}: no gender")
    age, description, language = (row.get(f) for f in ("age", "description", "native_language"))
    if not isinstance(description, str | None) or language not in (None, *get_args(Language)):
        raise ValueError(f"{name}: description is a text, native_language one of the ten languages")
    return Speaker(
        id=name.lower(),
        name=name,
        gender=row["gender"],
        ages=() if age is None else (age_band(age),),
        description=description or "",
        native_language=language,
    )


# Dylan and Eric are left out on purpose: a client that knows only these names should not find
# its Chinese read in a dialect.
OPENAI_VOICES: Mapping[str, str] = {
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
"""The voice names of OpenAI's speech API -> speaker ids."""


def gender_of_openai_voice(name: str) -> Gender | None:
    """Describe one of OpenAI's voices as it sounds here; None for an unknown name."""
    speaker = OPENAI_VOICES.get(name.strip().casefold())
    return None if speaker is None else SPEAKERS[speaker].gender
