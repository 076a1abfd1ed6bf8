"""Tickets: HTTP requests that were read, checked and given a slot or a position in the queue."""

from codecs import BOM_UTF8
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from qwen_tts_service.errors import (
    BodyTooLarge,
    ClientLeft,
    InvalidRequest,
    TTSError,
    UnsupportedMediaType,
)
from qwen_tts_service.fields import SpeechBody
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.synthesizer import Speech
from qwen_tts_service.types import SpeechRequest
from qwen_tts_service.validation import from_validation

from .admission import Slot
from .call import Call
from .errors import in_words_of
from .inline_voice import with_own_voice
from .keys import MAY_CLONE, check_recording
from .runtime import Runtime
from .times import Answer, choose_answer

Body = TypeVar("Body", bound=BaseModel)
RUNTIME_KEY = "qwen_tts.runtime"


@dataclass(slots=True)
class Ticket:
    """An HTTP request for speech, its validated body and slot, or the error that rejected it.

    warning: about a recording in it
    answer: what the body of the response is
    error: why it was refused; `request`, `body` and `slot` are there only without one
    speech: set once speaking has begun

    What a ticket holds is freed when its `call` ends.
    """

    http: Request
    call: Call
    runtime: Runtime
    schema: type[SpeechBody]
    error: TTSError | None = None
    warning: str | None = None
    answer: Answer = "audio"
    body: SpeechBody = field(init=False)
    request: SpeechRequest = field(init=False)
    slot: Slot = field(init=False)
    speech: Speech = field(init=False)

    @property
    def accept(self) -> str:
        """The kinds of answer that the client takes; a field of its body may name one too."""
        return f"{self.http.headers.get('accept', '')}, {self.body.accept}"

    async def ready(self) -> None:
        """Wait for the slot, for a voice that is unloaded, and for the clone of a recording.

        Raises the error of a rejected request. Whoever calls it watches the time and the client.
        """
        if self.error is not None:
            raise self.error
        await self.slot.granted()
        self.call.note(queued_ms=round((monotonic() - self.call.accepted_s) * 1000))
        synthesizer = await self.runtime.keeper.wake(self.call.at_end)
        self.request, self.warning = await with_own_voice(
            self.request, self.body, synthesizer, self.runtime.settings
        )

    def fail(self, error: Exception) -> TTSError:
        """Record a failure for log and metrics; returns it with the client's names of fields."""
        return in_words_of(self.schema, self.call.fail(error))


async def read_ticket(
    http: Request, schema: type[SpeechBody], answers: tuple[Answer, ...] = ("audio",)
) -> Ticket:
    """Read and check the body and take a slot or queue for one; never raises TTSError.

    answers: what the route can answer with
    """
    ticket = Ticket(http, Call.of(http.scope), http.scope[RUNTIME_KEY], schema)
    ticket.call.route = http.url.path
    try:
        await _accept(ticket, answers)
    except TTSError as error:
        ticket.error = error
    return ticket


async def _accept(ticket: Ticket, answers: tuple[Answer, ...]) -> None:
    data = await read_body(ticket.http, ticket.runtime.settings)
    take_body(ticket, parse_body(data, ticket.schema))
    ticket.answer = choose_answer(ticket.accept, ticket.request.timestamps, answers)
    take_slot(ticket)


def take_body(ticket: Ticket, body: SpeechBody) -> None:
    """Check what a body asks for, and note it. Raises InvalidRequest."""
    call = ticket.call
    ticket.body = body
    ticket.request = ticket.body.to_request(call.request_id, ticket.runtime.settings)
    check_recording(ticket.body, is_allowed=bool(ticket.http.scope.get(MAY_CLONE)))
    call.note(
        format=ticket.body.format, chars=len(ticket.request.text or ""), seed=ticket.request.seed
    )


def take_slot(ticket: Ticket) -> None:
    """Give a ticket a slot or a position in the queue. Raises NotReady and Busy."""
    ticket.runtime.keeper.check_ready()  # not ready is said before a slot is taken
    ticket.slot = ticket.runtime.admission.enter()
    ticket.call.at_end(ticket.slot.release)


async def read_body(http: Request, settings: Settings) -> bytes:
    """The JSON body's bytes; raises UnsupportedMediaType, BodyTooLarge or ClientLeft."""
    media_type = http.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(
            "send JSON with the header `Content-Type: application/json`; "
            "with curl: -H 'Content-Type: application/json'"
        )
    body = bytearray()
    try:
        async for part in http.stream():
            body += part
            if len(body) > settings.max_speech_bytes:
                raise BodyTooLarge(
                    f"the body is larger than {settings.max_speech_bytes} bytes "
                    f"({settings.sets_max_speech_bytes})"
                )
    except ClientDisconnect:
        raise ClientLeft("the client closed the connection before the body was complete") from None
    return bytes(body)


def parse_body(data: bytes, schema: type[Body]) -> Body:
    """The body as its schema; raises InvalidRequest that names the field."""
    try:
        return schema.model_validate_json(data.removeprefix(BOM_UTF8))
    except ValidationError as error:
        if error.error_count() == 1:  # listing many takes long, and bad JSON is the only one
            (item,) = error.errors(include_input=False)
            if item["type"] == "json_invalid":
                raise _not_json(data, str(item["ctx"]["error"])) from None
        raise from_validation(error, schema) from None


def _not_json(data: bytes, reason: str) -> InvalidRequest:
    """The error for a body that is no JSON; UTF-16 and UTF-32 show by their zero bytes."""
    try:
        data.decode()
        is_utf8 = b"\0" not in data
    except UnicodeDecodeError:
        is_utf8 = False
    if not is_utf8:
        reason = "it is not UTF-8; encode it as UTF-8, not as UTF-16, cp1251 or latin-1"
    return InvalidRequest(f"the body is not valid JSON: {reason}", code="invalid_json")
