"""OpenAI's speech API: /v1/audio/speech, /v1/audio/voices, /v1/models.

Field names, defaults and the events of `stream_format: sse` are OpenAI's; what a field means is
said in fields.py.
"""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal, cast

from pydantic import ConfigDict, Field, field_validator, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen_tts_service.errors import InvalidRequest, NotReady, UnknownModel, UnknownVoice, shown
from qwen_tts_service.fields import MAX_SPEED, MIN_SPEED, SpeechBody
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.types import AudioFormat, OnUnspeakable, SpeechRequest, Voice
from qwen_tts_service.validation import folded, ignored_fields, meaning_of, unknown_field
from qwen_tts_service.voice.catalogue import (
    OPENAI_VOICES,
    KnowsSpeakers,
    Speaker,
    gender_of_openai_voice,
)
from qwen_tts_service.voice.library import VoiceLibrary

from .errors import response_of
from .events import streamed
from .responses import PendingFile, speak_stream
from .runtime import Runtime
from .schema_extra import SCHEMA_EXTRA
from .tickets import RUNTIME_KEY, read_ticket
from .times import MEDIA_TYPES
from .voices import PATH as VOICES_PATH
from .voices import delete_voice, described, keep_voice

MODEL_ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")
"""OpenAI's model names, which many clients have built in; each means the loaded model."""
MAX_JUDGED_NAMES = 20
"""Of a body without a text: each name costs a millisecond, and a body may have 100,000."""
ANY_VOICE = "auto"
"""The voice of clients that must send one and want `voice_attributes` to choose."""


class CreateSpeechBody(SpeechBody):
    """OpenAI's request, and our own fields with it; fields unknown to both are ignored and named.

    OpenAI's clients send fields of other services, and expect no error for them. Not so our own
    names of OpenAI's fields: a text or a speaker is not left out in silence.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=SCHEMA_EXTRA["CreateSpeechBody"])

    model: str | None = Field(
        None, description="The loaded model's name, or any of OpenAI's: " + ", ".join(MODEL_ALIASES)
    )
    text: str | None = Field(None, alias="input", description="What to say.")
    speaker: str | None = Field(
        None,
        alias="voice",
        min_length=1,
        max_length=64,
        description="A speaker or one of OpenAI's voices, as a name or as {id: name}; "
        f"{ANY_VOICE} lets voice_attributes and the language choose.",
        json_schema_extra=SCHEMA_EXTRA["CreateSpeechBody.voice"],
    )
    instruct: str | None = Field(
        None,
        alias="instructions",
        max_length=4096,
        description="How to speak, in plain words; overrides emotion and age.",
    )
    format: AudioFormat = Field(
        "mp3", alias="response_format", description="The audio format; pcm is s16le, mono."
    )
    speed: float = Field(
        1.0, ge=0.25, le=4, description="How fast, bounded to 0.5 to 2; the pitch stays as it is."
    )
    on_unspeakable: OnUnspeakable = Field(
        "silence",
        description="Input without a letter, a digit or a reading: 0.2 s of silence and a "
        "warning, or an error.",
    )
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="Audio as it is made, or events that carry it in base64."
    )

    @property
    def warning(self) -> str | None:
        """The fields that were ignored, and a speed that was bounded."""
        ignored = ignored_fields(list(self.model_extra or ()), type(self))
        is_bounded = self._bounded_speed != self.speed
        bounded = f"speed is {self._bounded_speed:g}, its bound" if is_bounded else None
        return "; ".join(filter(None, [ignored, bounded])) or None

    @property
    def _bounded_speed(self) -> float:
        return min(max(self.speed, MIN_SPEED), MAX_SPEED)

    @property
    def accept(self) -> str:
        return MEDIA_TYPES["events"] if self.stream_format == "sse" else ""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        if not cls.model_config.get("populate_by_name"):
            cls._refuse_our_names(given)
        return given

    @classmethod
    def _refuse_our_names(cls, given: dict[str, Any]) -> None:
        aliases = {name: field.alias for name, field in cls.model_fields.items() if field.alias}
        for name, alias in aliases.items():
            if name in given and alias not in given:
                raise unknown_field(name, cls)
        if given.keys().isdisjoint({"input", "tokens"}):
            for name in list(given)[:MAX_JUDGED_NAMES]:
                if name not in cls.model_fields and meaning_of(name, cls) == "input":
                    raise unknown_field(name, cls)

    @field_validator("speaker", mode="before")
    @classmethod
    def _name_of(cls, voice: Any) -> Any:
        name = voice.get("id", voice) if isinstance(voice, dict) else voice
        return None if name == ANY_VOICE else name

    def to_request(self, request_id: str, settings: Settings) -> SpeechRequest:
        """The request that this body asks for; also raises UnknownModel."""
        if self.model is not None:
            _check_model(self.model, settings)
        request = super().to_request(request_id, settings)
        return replace(request, rate=self._bounded_speed)


def _check_model(name: str, settings: Settings) -> None:
    known = (settings.model_name, *MODEL_ALIASES)
    if folded(name) not in {model.casefold() for model in known}:
        raise UnknownModel(
            f"model: must be {settings.model_name}, the loaded model, "
            f"or one of its aliases {', '.join(MODEL_ALIASES)}; got {shown(name)}",
            param="model",
        )


# Speech ------------------------------------------------------------------------------


async def create_speech(http: Request) -> Response:
    """POST /v1/audio/speech; flac comes whole, as its readers need the length in its header."""
    ticket = await read_ticket(http, CreateSpeechBody, ("audio", "json", "events"))
    is_whole = ticket.error is None and ticket.body.format == "flac" and ticket.answer == "audio"
    if is_whole or ticket.answer == "json":
        return await PendingFile(ticket).response()
    return await streamed(ticket, speak_stream(ticket))


# Models and voices -------------------------------------------------------------------


async def list_models(http: Request) -> Response:
    """GET /v1/models: the loaded model first, then the names it also answers to."""
    return JSONResponse({"object": "list", "data": [_model(m) for m in _models(http)]})


async def show_model(http: Request) -> Response:
    """GET /v1/models/{model}."""
    name = http.path_params["model"]
    try:
        _check_model(name, _runtime(http).settings)
    except UnknownModel as error:
        return response_of(error)
    return JSONResponse(_model(name))


async def list_audio_models(http: Request) -> Response:
    """GET /v1/audio/models: the same, as Open WebUI asks for them."""
    return JSONResponse({"models": [{"id": m, "name": m} for m in _models(http)]})


async def list_voices(http: Request) -> Response:
    """GET /v1/audio/voices: speakers, then OpenAI's names; `?legacy=true` gives bare ids."""
    try:
        voices = await _listed(http)
    except NotReady as error:
        return response_of(error)
    if http.query_params.get("legacy") == "true":
        return JSONResponse({"voices": [voice["id"] for voice in voices]})
    return JSONResponse({"voices": voices})


async def show_voice(http: Request) -> Response:
    """GET /v1/audio/voices/{name}: one of the list, in any case."""
    name = http.path_params["name"]
    try:
        listed = {voice["id"].lower(): voice for voice in await _listed(http)}
    except NotReady as error:
        return response_of(error)
    if (voice := listed.get(name.lower())) is None:
        return response_of(UnknownVoice(f"there is no voice {shown(name)}", param="name"))
    return JSONResponse(voice)


async def _listed(http: Request) -> list[dict[str, Any]]:
    with ExitStack() as at_end:
        runtime = _runtime(http)
        return _voices(await runtime.keeper.wake(at_end.callback), runtime.library)


def _runtime(http: Request) -> Runtime:
    return cast("Runtime", http.scope[RUNTIME_KEY])


def _models(http: Request) -> tuple[str, ...]:
    return (_runtime(http).settings.model_name, *MODEL_ALIASES)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "qwen-tts-service"}


def _voices(synthesizer: Synthesizer, library: VoiceLibrary) -> list[dict[str, Any]]:
    voice = synthesizer.voice
    kept = {name: library.entry(name) for name in voice.speakers}
    known = voice.known if isinstance(voice, KnowsSpeakers) else {}
    own = [
        described(entry) if entry else _describe(name, name, known.get(name))
        for name, entry in kept.items()
    ]
    speaking = {name: _who_speaks(voice, name) for name in OPENAI_VOICES}
    return own + [_describe(name, who, known.get(who)) for name, who in speaking.items() if who]


def _who_speaks(voice: Voice, name: str) -> str | None:
    """Ask the voice itself, so that no name is listed that would then be refused."""
    try:
        return voice.choose(SpeechRequest(request_id="voices", seed=0, speaker=name)).speaker
    except InvalidRequest:
        return None


def _describe(name: str, who: str, speaker: Speaker | None) -> dict[str, Any]:
    """One voice and who speaks with it; what is not known is null."""
    display = speaker.name.replace("_", " ") if speaker and name == who else name
    return {
        "id": name,
        "name": display,
        "gender": speaker.gender if speaker else gender_of_openai_voice(name),
        "language": speaker and speaker.native_language,
        "description": (speaker and speaker.description) or None,
        "speaker": who,
    }


async def answer_voices(http: Request) -> Response:
    """Any method of /v1/audio/voices."""
    return await (keep_voice if http.method == "POST" else list_voices)(http)


async def answer_voice(http: Request) -> Response:
    """Any method of /v1/audio/voices/{name}."""
    return await (delete_voice if http.method == "DELETE" else show_voice)(http)


# One route for all methods of a path: only so does a 405 name them all in Allow.
ROUTES = [
    Route("/v1/audio/speech", create_speech, methods=["POST"]),
    Route(VOICES_PATH, answer_voices, methods=["GET", "POST"]),
    Route(VOICES_PATH + "/{name}", answer_voice, methods=["GET", "DELETE"]),
    Route("/v1/audio/models", list_audio_models),
    Route("/v1/models", list_models),
    Route("/v1/models/{model:path}", show_model),
]
