"""One WebSocket connection: events and audio out, events in, and what a session is asked for."""

import json
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import AliasChoices, ConfigDict, Field
from starlette.websockets import WebSocket, WebSocketDisconnect

from qwen_tts_service.api.errors import body_of, in_words_of
from qwen_tts_service.api.openai import CreateSpeechBody
from qwen_tts_service.errors import BodyTooLarge, ClientLeft, InvalidRequest, TTSError, shown
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.synthesizer import Output
from qwen_tts_service.types import AudioFormat, SpeechRequest
from qwen_tts_service.validation import folded

from .frames import FixedFrames

PATH = "/v1/audio/speech/stream"
MAX_FRAME_BYTES = 32 * 1024
"""Longer audio is sent in several frames: some clients refuse frames of 1 MiB."""
EVENT_TYPES = ("session.config", "input.text", "input.done", "input.cancel", "session.close")
"""Types of events that a client may send."""


class SessionConfig(CreateSpeechBody):
    """Configuration of a session: fields of OpenAI and vLLM-Omni, and ours by either name."""

    model_config = ConfigDict(populate_by_name=True)

    type: str = ""  # of the event
    text: str | None = None  # is sent by input.text, and refused here
    format: AudioFormat = Field(
        "pcm",
        validation_alias=AliasChoices("format", "response_format"),
        description="The audio format.",
    )
    split: Literal["token", "sentence"] | None = Field(  # type: ignore[assignment]
        None,
        description="Speak words as they come, or sentences when they are complete; "
        "token where the model can, if it is not said.",
    )
    frame_ms: int | None = Field(
        None,
        ge=10,
        le=200,
        description="Send pcm, mulaw or alaw in binary frames of exactly so many milliseconds; the "
        "last one before audio.done is filled up with silence.",
    )
    api_key: str | None = Field(
        None, description="The API key, for clients that cannot send headers."
    )

    def _checked_text(self, max_text_chars: int) -> None:  # noqa: ARG002 - there is none
        if self.text is not None or self.tokens is not None:
            raise InvalidRequest("send text with input.text, not in session.config", param="text")


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What every utterance of a session has in common; `request` is without a text."""

    request: SpeechRequest
    output: Output
    is_by_token: bool
    frames: FixedFrames | None = None


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """A message from the client: its type, two of its fields unchecked, and the message itself.

    raw: the message in UTF-8
    """

    type: str
    text: Any
    api_key: Any
    raw: bytes


class Connection:
    """Sends events and audio, reads events; every method raises ClientLeft once it is closed.

    settings: messages that have been read and not handled yet may have `max_speech_bytes`
    """

    def __init__(self, socket: WebSocket, settings: Settings) -> None:
        self._socket = socket
        self._settings = settings
        self._waiting_bytes = 0

    async def send(self, kind: str, **facts: object) -> None:
        """Send one JSON event."""
        text = json.dumps({"type": kind, **facts}, ensure_ascii=False)
        await self._send({"type": "websocket.send", "text": text})

    async def send_audio(self, data: bytes) -> None:
        """Send audio, waiting for a client that reads slowly."""
        for start in range(0, len(data), MAX_FRAME_BYTES):
            part = data[start : start + MAX_FRAME_BYTES]
            await self._send({"type": "websocket.send", "bytes": part})

    async def send_error(self, error: TTSError, **facts: object) -> None:
        """Send the one error body; vLLM-Omni's clients look for its message outside as well."""
        error = in_words_of(SessionConfig, error)
        await self.send("error", message=error.message, **body_of(error), **facts)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._socket.send(message)
        except (WebSocketDisconnect, RuntimeError, OSError):
            raise ClientLeft("the client closed the connection") from None

    async def close(self, code: int = 1000) -> None:
        """Close with a WebSocket status code."""
        await self._send({"type": "websocket.close", "code": code, "reason": ""})

    async def receive(self) -> ClientEvent:
        """Wait for the next event, which counts as waiting until it is `handled`.

        Raises InvalidRequest for a message that is no event, and BodyTooLarge.
        """
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientLeft("the client closed the connection")
        text = message.get("text")
        if text is None:
            raise InvalidRequest("send JSON in text frames; binary frames are not accepted")
        raw = text.encode("utf-8", "replace")
        if self._waiting_bytes + len(raw) > self._settings.max_speech_bytes:
            raise BodyTooLarge(
                f"messages waiting to be handled exceed {self._settings.max_speech_bytes} bytes "
                f"({self._settings.sets_max_speech_bytes}); send them more slowly"
            )
        event = _event_of(raw)
        self._waiting_bytes += len(raw)
        return event

    def handled(self, event: ClientEvent) -> None:
        """Subtract an event from the bytes that wait."""
        self._waiting_bytes -= len(event.raw)


def _event_of(raw: bytes) -> ClientEvent:
    try:
        event = json.loads(raw.removeprefix(BOM_UTF8))
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise InvalidRequest("the message is not a JSON object", code="invalid_json")
    kind = event.get("type")
    name = folded(kind) if isinstance(kind, str) else ""
    if name not in EVENT_TYPES:
        known = ", ".join(EVENT_TYPES)
        raise InvalidRequest(f"type must be one of {known}; got {shown(kind)}", param="type")
    return ClientEvent(name, event.get("text"), event.get("api_key"), raw)
