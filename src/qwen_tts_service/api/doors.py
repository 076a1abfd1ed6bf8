r"""The two doors: a request comes in as a `Ticket` and leaves as one file or as a stream.

    read_ticket -> admission -> speak_file  -> HTTP answer with the whole file
                            \-> speak_stream -> HTTP answer that grows while speech is made

Whatever happens, what a ticket holds is freed when its `Call` ends. It does not know BentoML.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar
from urllib.parse import quote

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwen_tts_service.api.admission import Place
from qwen_tts_service.audio.formats import content_type, file_extension
from qwen_tts_service.errors import (
    BodyTooLarge,
    ClientLeft,
    InvalidRequest,
    SynthesisFailed,
    TimedOut,
    TTSError,
    UnsupportedMediaType,
)
from qwen_tts_service.fields import MAX_SEED, SpeechBody
from qwen_tts_service.speech.synthesizer import Output, Speech
from qwen_tts_service.telemetry import metrics
from qwen_tts_service.types import AudioFormat, SpeechRequest

from .call import Call
from .errors import from_validation, in_words_of, response_of
from .runtime import Runtime

logger = logging.getLogger(__name__)

RUNTIME_KEY = "qwen_tts.runtime"
T = TypeVar("T")
Parts = AsyncGenerator["StreamStart | bytes", None]
"""A StreamStart and then the audio as it is made."""


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request with a place in the queue."""

    request: SpeechRequest
    body: SpeechBody
    place: Place


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request at a door: an order, or why there is none."""

    http: Request
    call: Call
    runtime: Runtime
    schema: type[SpeechBody]
    order: Order | TTSError

    def checked(self) -> Order:
        """The order; raises the error that was found in its place."""
        if isinstance(self.order, TTSError):
            raise self.order
        return self.order


# Coming in ---------------------------------------------------------------------------


async def read_ticket(http: Request, schema: type[SpeechBody]) -> Ticket:
    """Read and check the body and take a place in the queue; never raises TTSError."""
    call = Call.of(http.scope)
    runtime: Runtime = http.scope[RUNTIME_KEY]
    call.route = http.url.path
    order: Order | TTSError
    try:
        order = await _read_order(http, call, runtime, schema)
    except TTSError as error:
        order = error
    return Ticket(http, call, runtime, schema, order)


async def _read_order(
    http: Request, call: Call, runtime: Runtime, schema: type[SpeechBody]
) -> Order:
    settings = runtime.settings
    body = parse_body(await read_body(http, settings.max_body_bytes), schema)
    request = body.to_request(call.request_id, settings)
    _ = runtime.synthesizer  # not ready is said before a place is taken
    place = runtime.admission.enter()
    call.at_end(place.release)
    call.note(format=body.format, chars=len(request.text or ""), seed=request.seed)
    return Order(request, body, place)


async def read_body(http: Request, max_bytes: int) -> bytes:
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
            if len(body) > max_bytes:
                raise BodyTooLarge(f"the body has more than {max_bytes} bytes")
    except ClientDisconnect:
        raise ClientLeft("the client closed the connection within its body") from None
    return bytes(body)


def parse_body(data: bytes, schema: type[SpeechBody]) -> SpeechBody:
    """The body as its schema; raises InvalidRequest that names the field."""
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        if error.errors(include_input=False, include_context=False)[0]["type"] == "json_invalid":
            raise InvalidRequest("the body is not valid JSON", code="invalid_json") from None
        raise from_validation(error, schema) from None


# Speaking ----------------------------------------------------------------------------


async def _first_turn(ticket: Ticket, order: Order) -> None:
    await order.place.granted()
    ticket.call.note(queued_ms=round((monotonic() - ticket.call.accepted_s) * 1000))


async def _speak_file(ticket: Ticket) -> Response:
    order = ticket.checked()
    await _first_turn(ticket, order)
    data, speech = await ticket.runtime.synthesizer.speak_whole(
        order.request,
        order.body.format,
        second_seed=None if order.body.seed is not None else secrets.randbelow(MAX_SEED + 1),
    )
    ticket.call.first_audio(order.body.format)
    ticket.call.spoke(speech.audio_s)
    ticket.call.note(finish_reason=speech.finish_reason)
    headers = (
        _headers(ticket, speech)
        | file_headers(order.body.format)
        | {
            "X-Audio-Seconds": f"{speech.audio_s:.3f}",
            "X-Finish-Reason": str(speech.finish_reason),
        }
    )
    return Response(data, headers=headers)


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Says that audio follows, and which."""

    ticket: Ticket
    speech: Speech


async def speak_stream(ticket: Ticket) -> Parts:
    """Yield a StreamStart and then the audio as it is made.

    Raises TTSError: before the StreamStart when there is nothing to hear, and later when the
    speech fails on the way.
    """
    beginning = asyncio.create_task(_begin_stream(ticket))
    try:
        speech, parts, first = await _unless_client_leaves(beginning, ticket.http.receive)
    except Exception as error:
        raise failure_of(error, ticket) from error
    async with aclosing(speech):
        yield StreamStart(ticket, speech)
        yield first
        async for part in _counting_underruns(ticket.call, speech, parts):
            yield part
        speech.check_ending()


async def _begin_stream(ticket: Ticket) -> tuple[Speech, AsyncIterator[bytes], bytes]:
    """Wait for a slot and for the first audio."""
    order = ticket.checked()
    async with asyncio.timeout(ticket.runtime.settings.request_timeout_s):
        await _first_turn(ticket, order)
        speech = ticket.runtime.synthesizer.speak(order.request, Output(order.body.format, True))
        parts = aiter(speech)
        try:
            return speech, parts, await anext(parts)
        except BaseException as error:
            await speech.aclose()
            if isinstance(error, StopAsyncIteration):
                raise SynthesisFailed("the voice made no sound for this text") from None
            raise


async def _counting_underruns(
    call: Call, speech: Speech, parts: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Count the parts that came after the audio before them had been played to its end."""
    started_s = monotonic()
    sent_s = speech.audio_s
    underruns = 0
    async for part in parts:
        if monotonic() - started_s > sent_s:
            underruns += 1
        sent_s = speech.audio_s
        yield part
    if call.route is not None:
        metrics.UNDERRUNS.labels(call.route).inc(underruns)
    call.note(underruns=underruns)


def _headers(ticket: Ticket, speech: Speech) -> dict[str, str]:
    choice = speech.choice
    voice = ticket.runtime.synthesizer.voice
    ticket.call.note(
        seed=speech.seed, model=voice.model_name, voice=choice.speaker, language=choice.language
    )
    headers = {
        "Cache-Control": "no-store",
        "X-Seed": str(speech.seed),
        "X-Model": voice.model_name,
        "X-Voice": choice.speaker,
        "X-Language": choice.language,
        "X-Voice-Applied": ", ".join(choice.applied),
        "X-Voice-Not-Applied": "; ".join(f"{k}: {why}" for k, why in choice.not_applied.items()),
        "X-Warning": speech.warning or "",
    }
    return {name: quote(value, safe=_HEADER_SAFE) for name, value in headers.items() if value}


def file_headers(format: AudioFormat) -> dict[str, str]:
    """What the answer's body is, when it is the audio itself."""
    return {
        "Content-Type": content_type(format),
        "Content-Disposition": f'attachment; filename="speech.{file_extension(format)}"',
    }


_HEADER_SAFE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")


# Going out ---------------------------------------------------------------------------


class PendingFile:
    """A file that is being made; the batch that ordered it does not wait for it."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._task = asyncio.create_task(self._speak())
        ticket.call.at_end(self._task.cancel)

    async def _speak(self) -> Response:
        async with asyncio.timeout(self._ticket.runtime.settings.request_timeout_s):
            return await _speak_file(self._ticket)

    async def response(self) -> Response:
        """Wait for the file, or for the client to leave; never raises."""
        try:
            return await _unless_client_leaves(self._task, self._ticket.http.receive)
        except Exception as error:  # noqa: BLE001 - the request's top
            return response_of(failure_of(error, self._ticket))


class StreamedSpeech(Response):
    """Sends the parts as they come; a failure on the way leaves the answer unfinished."""

    def __init__(self, parts: Parts, start: StreamStart) -> None:
        self._parts = parts
        self._ticket = start.ticket
        self._speech = start.speech
        self._order = start.ticket.checked()
        self.status_code = 200
        self.background = None
        headers = _headers(start.ticket, start.speech) | self._content_headers()
        self.init_headers(headers | {"X-Accel-Buffering": "no"})

    def _content_headers(self) -> dict[str, str]:
        return file_headers(self._order.body.format)

    async def _content(self) -> AsyncIterator[bytes]:
        """What is sent, piece by piece; a subclass may frame the parts."""
        async for part in self._parts:
            assert isinstance(part, bytes)
            yield part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        call = self._ticket.call
        try:
            async with aclosing(self._parts):
                await _unless_client_leaves(asyncio.create_task(self._send_all(send)), receive)
        except Exception as error:  # noqa: BLE001 - the request's top
            # No last chunk is sent, so the server closes the connection and the client sees
            # a broken body, not a short one that looks whole.
            failure_of(error, self._ticket)
        finally:
            call.spoke(self._speech.audio_s)
            call.note(finish_reason=self._speech.finish_reason)
            if self.background is not None:
                await self.background()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for data in self._content():
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._ticket.call.first_audio(self._order.body.format)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def stream_response(
    parts: Parts, answer: Callable[[Parts, StreamStart], StreamedSpeech] = StreamedSpeech
) -> Response:
    """Wait for the first audio; answer with a stream, or with an error and its status."""
    try:
        start = await anext(parts)
    except TTSError as error:
        return response_of(error)
    assert isinstance(start, StreamStart)
    return answer(parts, start)


async def _unless_client_leaves(task: asyncio.Task[T], receive: Receive) -> T:
    """The task's result; the task is ended and ClientLeft raised if the client goes first."""
    leaving = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft("the client closed the connection")
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def failure_of(error: Exception, ticket: Ticket) -> TTSError:
    """Name the error for the client, the log and the metrics.

    What we did not foresee gets a traceback in the log and a plain word for the client.
    """
    if isinstance(error, TimeoutError):
        error = TimedOut("the speech took longer than REQUEST_TIMEOUT_S; send less text")
    elif not isinstance(error, TTSError):
        logger.error("id=%s failed while speaking", ticket.call.request_id, exc_info=error)
        error = SynthesisFailed("the speech failed; the log has the details")
    ticket.call.outcome = error.code
    return in_words_of(ticket.schema, error)
