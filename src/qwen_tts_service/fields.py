"""Request schema: fields, ranges and defaults, the same over HTTP and on the command line.

What a field means is said here once, for the documentation page and `--help` as well.
"""

import secrets
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from .errors import InvalidRequest, shown
from .settings import Settings
from .text.language import LANGUAGES, iso_code, parse_language
from .text.lexicon import MAX_READING_CHARS, MAX_WORD_CHARS, LexiconError, check_entry
from .types import (
    MAX_SEED,
    AudioFormat,
    Gender,
    InputType,
    Language,
    NormalizeLevel,
    OnUnspeakable,
    SamplingOptions,
    SpeechRequest,
    TimestampUnit,
    VoiceAttributes,
)
from .validation import choices_of, folded
from .voice.genders import known_gender

MAX_FRAMES = 4096
LANGUAGE_NAMES = ("auto", *LANGUAGES, *map(iso_code, LANGUAGES))
"""What the documents list; other names and codes that `parse_language` knows are taken too."""
MAX_TOKEN = 2**20 - 1
"""Beyond any vocabulary; the loaded model's own is checked by its voice."""
MAX_SILENCE_MS = 2000
MIN_SPEED, MAX_SPEED = 0.5, 2.0
MAX_PRONUNCIATIONS = 100
MAX_TRANSCRIPT_CHARS = 1000
"""Of a recording of 30 s, spoken very fast."""
_STRICT = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, allow_inf_nan=False)


class ForgivingBody(BaseModel):
    """A body whose enumerations take their values in any case and with blanks around them."""

    model_config = _STRICT

    @field_validator("*", mode="before")
    @classmethod
    def _as_listed(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        is_listed = isinstance(value, str) and folded(value) in choices_of(field.annotation)
        return folded(value) if is_listed else value  # what is not listed is named as it was sent


class VoiceAttributesBody(ForgivingBody):
    """The wanted voice; X-Voice-Not-Applied reports what the loaded model cannot do."""

    gender: Gender | None = Field(
        None,
        description="male, female, or neutral: no preference; or a word for it in any of the ten "
        "languages.",
    )
    age: int | None = Field(None, ge=1, le=120, description="Age in years, 1 to 120.")
    emotion: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="happy, sad, angry, neutral, excited, calm and so on, or a word of your own.",
    )

    @field_validator("gender", mode="before")
    @classmethod
    def _gender_meant(cls, value: Any) -> Any:
        return (known_gender(value) or value) if isinstance(value, str) else value


class SpeechBody(ForgivingBody):
    """What every caller may ask for."""

    text: str | None = Field(
        None,
        description="Text to speak; [pause:0.5s] is silence, [voice:NAME] changes the speaker. "
        "Exactly one of text and tokens.",
    )
    tokens: list[Annotated[int, Field(ge=0, le=MAX_TOKEN)]] | None = Field(
        None, min_length=1, description="Text token ids of the model's tokenizer, instead of text."
    )
    temperature: float = Field(0.7, ge=0, le=2, description="Sampling temperature; 0 is greedy.")
    voice_attributes: VoiceAttributesBody | None = Field(
        None, description="The voice described by gender, age and emotion."
    )
    speaker: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Name of a speaker; overrides gender and age.",
    )
    ref_audio: str | None = Field(
        None,
        min_length=1,
        description="A recording of 1 to 30 s to speak with the voice of, as a data URL or base64; "
        "overrides the speaker. Needs a Base model and VOICE_CLONING=1.",
    )
    ref_text: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_TRANSCRIPT_CHARS,
        description="Exactly what is said in ref_audio, all of it: then its manner is cloned too.",
    )
    language: str | None = Field(
        None,
        min_length=1,
        max_length=32,
        description="Name or code of a language, such as russian or ru; auto detects it.",
    )
    instruct: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="How to speak, in plain words; overrides emotion and age.",
    )
    speed: float = Field(
        1.0,
        ge=MIN_SPEED,
        le=MAX_SPEED,
        description="How fast, 0.5 to 2; the pitch and written pauses stay as they are.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="The same seed gives the same audio; if absent, random and returned in X-Seed.",
    )
    top_k: int = Field(
        50, ge=0, le=2048, description="Sample from the k most likely codes; 0 is all."
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the most likely codes up to p.")
    repetition_penalty: float = Field(
        1.05, ge=1, le=2, description="Penalty for codes already spoken."
    )

    input_type: InputType = Field(
        "text",
        description="text, in which tags and entities are read too, or ssml; a text that begins "
        "with <speak> is SSML in any case, unless normalize is none.",
    )
    normalize: NormalizeLevel = Field(
        "auto",
        description="Text normalisation: none; light removes markdown, emoji and control "
        "characters; full also writes out Russian numbers, dates, units, abbreviations and links; "
        "auto is full where the server has the extra ru, otherwise light.",
    )

    pronunciations: dict[str, str] | None = Field(
        None,
        max_length=MAX_PRONUNCIATIONS,
        description="Words and how they are spoken, for example GPU: джи пи ю; at most "
        f"{MAX_PRONUNCIATIONS}, of {MAX_WORD_CHARS} and {MAX_READING_CHARS} characters. A word "
        "with an upper-case letter matches as it is written, any other in any case.",
    )
    on_unspeakable: OnUnspeakable = Field(
        "error",
        description="Text without a letter, a digit or a reading: an error, or 0.2 s of silence "
        "and a warning.",
    )

    timestamps: TimestampUnit | None = Field(
        None,
        description="When each sentence, or each word, is heard: comes with "
        "`Accept: application/json`, with server-sent events and on the WebSocket. Sentences are "
        "then spoken one by one; words need the embedded voice.",
    )
    format: AudioFormat = Field("wav", description="Audio format.")
    sample_rate: int | None = Field(
        None,
        ge=8000,
        le=48000,
        description="Samples a second, as far as the format carries them; if absent, 8000 for "
        "mulaw and alaw, the server's own for others.",
    )
    lead_in_ms: int = Field(
        0,
        ge=0,
        le=MAX_SILENCE_MS,
        description="Silence before the speech, in milliseconds, for players that need a moment.",
    )
    tail_ms: int = Field(
        0, ge=0, le=MAX_SILENCE_MS, description="Silence behind the speech, in milliseconds."
    )
    split: Literal["auto", "never"] = Field(
        "auto",
        description="auto cuts a long text at sentence ends, with pauses between; never speaks it "
        "in one breath as far as MAX_POSITIONS goes.",
    )
    max_length: int = Field(
        MAX_FRAMES, ge=1, le=MAX_FRAMES, description="Longest audio, in frames of 80 ms."
    )

    @property
    def warning(self) -> str | None:
        """What the caller should know of the body itself."""
        return None

    @property
    def accept(self) -> str:
        """The media type of the answer that a field asks for, as in the header Accept."""
        return ""

    @field_validator("pronunciations", mode="before")
    @classmethod
    def _checked_entries(cls, entries: Any) -> Any:
        """Name the entry that is wrong here, as the caller's words may be of any length."""
        for word, reading in entries.items() if isinstance(entries, dict) else ():
            try:
                check_entry(word, reading)
            except LexiconError as error:
                raise PydanticCustomError(
                    "pronunciation",
                    "{why} (entry {word})",
                    {"why": str(error), "word": shown(word)},
                ) from None
        return entries

    def to_request(self, request_id: str, settings: Settings) -> SpeechRequest:
        """The request that this body asks for; a seed is drawn if none was given.

        Raises InvalidRequest for rules that concern more than one field or a setting.
        """
        self._check_reference(is_cloning_on=settings.voice_cloning)
        if self.timestamps is not None and self.tokens is not None:
            raise InvalidRequest("timestamps need text: tokens have no places", param="timestamps")
        if self.timestamps is not None and self.split == "never":
            raise InvalidRequest(
                'timestamps are of sentences that are spoken one by one; set split to "auto"',
                param="split",
            )
        attributes = self.voice_attributes or VoiceAttributesBody.model_construct()
        return SpeechRequest(
            request_id=request_id,
            is_seed_drawn=self.seed is None,
            seed=draw_seed() if self.seed is None else self.seed,
            text=self._checked_text(settings.max_text_chars),
            tokens=self._checked_tokens(settings.max_text_chars),
            attributes=VoiceAttributes(
                gender=attributes.gender, age=attributes.age, emotion=attributes.emotion
            ),
            speaker=self.speaker if self.ref_audio is None else None,
            language=None if self.language is None else parse_language(self.language),
            instruct=self.instruct,
            sampling=SamplingOptions(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                repetition_penalty=self.repetition_penalty,
            ),
            normalize=self.normalize,
            input_type=self.input_type,
            rate=self.speed,
            pronunciations=tuple((self.pronunciations or {}).items()),
            on_unspeakable=self.on_unspeakable,
            timestamps=self.timestamps,
            max_frames=self.max_length,
            sample_rate_hz=self.sample_rate,
            lead_in_ms=self.lead_in_ms,
            tail_ms=self.tail_ms,
            is_uncut=self.split == "never",
        )

    def _check_reference(self, *, is_cloning_on: bool) -> None:
        if self.ref_audio is not None and not is_cloning_on:
            raise cloning_is_off("ref_audio")
        if self.ref_audio is None and self.ref_text is not None:
            raise InvalidRequest("ref_text needs ref_audio, whose words it is", param="ref_text")

    def _checked_text(self, max_text_chars: int) -> str | None:
        if (self.text is None) == (self.tokens is None):
            raise InvalidRequest("give exactly one of text and tokens", param="text")
        if self.text is None:
            return None
        if not self.text.strip():
            raise InvalidRequest("text is empty; give at least one word", param="text")
        if len(self.text) > max_text_chars:
            raise InvalidRequest(
                f"text has {len(self.text)} characters; at most {max_text_chars} are allowed "
                "(MAX_TEXT_CHARS)",
                param="text",
            )
        return self.text

    def _checked_tokens(self, max_tokens: int) -> tuple[int, ...] | None:
        if self.tokens is None:
            return None
        if len(self.tokens) > max_tokens:
            raise InvalidRequest(
                f"tokens has {len(self.tokens)} ids; at most {max_tokens} are allowed "
                "(MAX_TEXT_CHARS)",
                param="tokens",
            )
        return tuple(self.tokens)


def draw_seed() -> int:
    """A seed for a request that names none."""
    return secrets.randbelow(MAX_SEED + 1)


class VoiceForm(ForgivingBody):
    """The fields of a voice to keep, besides its recording; a description may stand for that.

    type: how the voice is made, as OpenAI's clients say it
    seed, temperature: of the clip that a described voice speaks
    """

    name: str
    ref_text: str | None = Field(
        None,
        max_length=MAX_TRANSCRIPT_CHARS,
        validation_alias=AliasChoices("ref_text", "transcript", "script_hint"),
    )
    language: str | None = Field(None, max_length=32)
    consent: str | None = Field(None, max_length=1000)
    description: str | None = Field(
        None,
        max_length=500,
        validation_alias=AliasChoices(
            "description", "speaker_description", "instructions", "prompt"
        ),
    )
    keep_audio: Literal["true", "false"] = "true"
    type: Literal["audio_sample", "prompt"] | None = None
    seed: int | None = Field(None, strict=False, ge=0, le=MAX_SEED)
    temperature: float = Field(0.7, strict=False, ge=0, le=2)

    @property
    def spoken_language(self) -> Language | None:
        """The language of the transcript, if it was named; raises InvalidRequest."""
        return None if self.language is None else parse_language(self.language)


def cloning_is_off(param: str | None = None) -> InvalidRequest:
    """The refusal of recordings by a server that takes none."""
    return InvalidRequest(
        "this server clones no voices; its operator can set VOICE_CLONING=1",
        param=param,
        code="cloning_off",
    )
