"""Choose speaker and instruct of Qwen3-TTS from gender, age, emotion, speaker and instruct.

A pure function over tables. Every field that was given ends up either applied or not applied with
a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from qwen_tts_service.errors import InvalidRequest, shown
from qwen_tts_service.types import Gender, Language, VoiceAttributes, VoiceChoice

from .catalogue import AGE_BANDS, OPENAI_VOICES, SPEAKERS, AgeBand, Speaker, age_band
from .emotions import InstructLanguage, emotion_phrase

Outcomes = dict[str, str | None]
"""A field of a request that was given -> None if it was applied, or the reason why not."""

NO_INSTRUCT = "this model does not follow instructions"
INSTRUCT_GIVEN = "instruct was given and takes its place"


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceCapabilities:
    """The speakers of a checkpoint, and whether it follows instructions.

    speakers: its speaker ids; the order breaks ties
    follows_instruct: False for the 0.6B checkpoints, which drop every instruction
    known: speakers that something is known of, by id
    """

    speakers: tuple[str, ...]
    follows_instruct: bool
    known: Mapping[str, Speaker] = field(default_factory=lambda: SPEAKERS)


def _bands(speaker_ids: str) -> Mapping[AgeBand, str]:
    return dict(zip(AGE_BANDS, speaker_ids.split(), strict=True))


# Columns: child, teen, young, adult, senior. A request without an age reads the adult column.
# Dylan and Eric are in no row: on Chinese text they would answer in a dialect.
_PREFERRED: Mapping[str, Mapping[Gender, Mapping[AgeBand, str]]] = {
    "chinese": {
        "female": _bands("vivian vivian vivian serena serena"),
        "male": _bands("uncle_fu uncle_fu uncle_fu uncle_fu uncle_fu"),
        "neutral": _bands("vivian vivian serena serena uncle_fu"),
    },
    "japanese": {
        "female": _bands("ono_anna ono_anna ono_anna ono_anna sohee"),
        "male": _bands("aiden aiden aiden ryan uncle_fu"),
        "neutral": _bands("ono_anna ono_anna ono_anna ono_anna uncle_fu"),
    },
    "korean": {
        "female": _bands("sohee sohee sohee sohee sohee"),
        "male": _bands("aiden aiden aiden ryan uncle_fu"),
        "neutral": _bands("sohee sohee sohee sohee uncle_fu"),
    },
    # No speaker is native to the European languages but English; English natives come closest.
    "other": {
        "female": _bands("ono_anna ono_anna vivian serena serena"),
        "male": _bands("aiden aiden aiden ryan uncle_fu"),
        "neutral": _bands("ono_anna aiden ryan ryan uncle_fu"),
    },
}

_AGE_PHRASES: Mapping[AgeBand, Mapping[InstructLanguage, str]] = {
    "child": {
        "english": "Speak in a high-pitched, childlike voice.",
        "chinese": "用稚嫩、音调偏高的童声说。",
    },
    "senior": {
        "english": "Speak slowly in an aged, slightly hoarse, thin voice, "
        "like a person in their seventies.",
        "chinese": "用苍老、略带沙哑、缓慢的老年人声音说。",
    },
}


def choose_voice(
    attributes: VoiceAttributes,
    language: Language,
    speaker: str | None,
    instruct: str | None,
    capabilities: VoiceCapabilities,
) -> VoiceChoice:
    """Choose speaker and instruct, and say which of the given fields were applied.

    language: of the text, already resolved; it is passed on by name, because left to itself
        the model gives Dylan and Eric their Chinese dialect for text in any language
    speaker: an id, a display name or a voice name of OpenAI's; wins over gender and age
    instruct: wins over emotion and over the phrase for an age; blank counts as not given
    raises: `InvalidRequest` for an unknown speaker or an emotion that is no word
    """
    given_speaker, given_instruct = given(speaker), given(instruct)
    phrases = _phrases(attributes, language, with_age=given_speaker is None)
    if given_speaker is None:
        chosen = _pick_speaker(attributes, language, capabilities)
    else:
        chosen = resolve_speaker(given_speaker, capabilities)
    if not capabilities.follows_instruct:
        spoken, obstacle = None, NO_INSTRUCT
    elif given_instruct is not None:
        spoken, obstacle = given_instruct, INSTRUCT_GIVEN
    else:
        spoken, obstacle = phrases.joined, None

    outcomes: Outcomes = {}
    known = capabilities.known.get(chosen)
    if given_speaker is not None:
        outcomes["speaker"] = None
    if attributes.gender is not None:
        outcomes["gender"] = _gender_outcome(attributes.gender, known, given_speaker is not None)
    if attributes.age is not None:
        is_said = bool(phrases.age) and obstacle is None
        outcomes["age"] = (
            None if is_said else _age_outcome(attributes.age, known, given_speaker is not None)
        )
    if given(attributes.emotion) is not None:
        is_unsaid = phrases.emotion or obstacle is INSTRUCT_GIVEN
        outcomes["emotion"] = obstacle if is_unsaid else None
    if given_instruct is not None:
        outcomes["instruct"] = None if capabilities.follows_instruct else NO_INSTRUCT
    return choice_with(outcomes, speaker=chosen, language=language, instruct=spoken)


def choice_with(
    outcomes: Outcomes, *, speaker: str, language: Language, instruct: str | None = None
) -> VoiceChoice:
    """Make a choice that says which fields were applied and which were not."""
    return VoiceChoice(
        speaker=speaker,
        language=language,
        instruct=instruct,
        applied=tuple(field for field, reason in outcomes.items() if reason is None),
        not_applied={field: reason for field, reason in outcomes.items() if reason is not None},
    )


def outcomes_of(*asked: tuple[str, object, str | None]) -> Outcomes:
    """Say of each field that was given whether it was applied.

    asked: a field, its value (None if it was not given), and why it is not applied
    """
    return {field: reason for field, value, reason in asked if value is not None}


def given(value: str | None) -> str | None:
    """Take a blank value for one that was not given; leave any other as it is."""
    return value if value and value.strip() else None


def resolve_speaker(name: str, capabilities: VoiceCapabilities) -> str:
    """Find the checkpoint's speaker that a caller means by a name, in any case and spacing.

    Raises `InvalidRequest` with code `unknown_speaker`, which lists the known ones.
    """
    wanted = _speaker_key(name)
    ids = {_speaker_key(speaker): speaker for speaker in capabilities.speakers}
    found = ids.get(wanted) or ids.get(OPENAI_VOICES.get(wanted, ""))
    if found is None:
        known = ", ".join(capabilities.speakers)
        message = f"speaker {shown(name)} is unknown; this model has {known}"
        raise InvalidRequest(message, param="speaker", code="unknown_speaker")
    return found


def _speaker_key(name: str) -> str:
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def _pick_speaker(
    attributes: VoiceAttributes, language: Language, capabilities: VoiceCapabilities
) -> str:
    """Take the table's speaker, or the nearest one where the checkpoint lacks it."""
    gender = attributes.gender or "neutral"
    band = "adult" if attributes.age is None else age_band(attributes.age)
    preferred = _PREFERRED.get(language, _PREFERRED["other"])[gender][band]

    def distance(speaker_id: str) -> tuple[bool, ...]:
        speaker = capabilities.known.get(speaker_id)
        if speaker is None:
            return (True, False, True, True)
        is_dialect = language == "chinese" and speaker.dialect is not None
        is_other_gender = gender not in ("neutral", speaker.gender)
        return (speaker_id != preferred, is_dialect, is_other_gender, band not in speaker.ages)

    return min(capabilities.speakers, key=distance)


@dataclass(frozen=True, slots=True)
class _Phrases:
    emotion: str
    age: str
    joiner: str

    @property
    def joined(self) -> str | None:
        return self.joiner.join(filter(None, (self.emotion, self.age))) or None


def _phrases(attributes: VoiceAttributes, language: Language, *, with_age: bool) -> _Phrases:
    """Word emotion and age in Chinese for Chinese text, otherwise in English."""
    words = instruct_language(language)
    emotion = given(attributes.emotion)
    age = ""
    if with_age and attributes.age is not None:
        age = _AGE_PHRASES.get(age_band(attributes.age), {}).get(words, "")
    return _Phrases(
        emotion="" if emotion is None else emotion_phrase(emotion, words),
        age=age,
        joiner="" if words == "chinese" else " ",
    )


def instruct_language(language: Language) -> InstructLanguage:
    """Say in which language a model is told how to speak a language."""
    return "chinese" if language == "chinese" else "english"


def _gender_outcome(wanted: Gender, speaker: Speaker | None, is_speaker_given: bool) -> str | None:
    if wanted == "neutral":
        return "no speaker is neutral, so neutral means no preference"
    if speaker is None:
        return "the gender of this speaker is not known"
    if speaker.gender == wanted:
        return None
    if is_speaker_given:
        return f"speaker was given and is {speaker.gender}"
    return f"this model has no fitting {wanted} speaker"


def _age_outcome(age: int, speaker: Speaker | None, is_speaker_given: bool) -> str | None:
    """Judge an age that no instruct phrase carries."""
    if speaker is None or not speaker.ages:
        return "the age of this speaker is not known"
    if age_band(age) in speaker.ages:
        return None
    if is_speaker_given:
        return "speaker was given and sounds another age"
    return "no fitting speaker sounds this age"
