"""POST /v1/audio/speech/batch: up to 32 texts and a status for each, in vLLM-Omni's shape.

Every item is a request of its own, with its slot and its line in the log. One item of a batch at a
time waits in the queue, so that other requests take turns with it. The response goes out item by
item, so that not all files have to be kept until the last one is made.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from qwen_tts_service.audio.formats import content_type
from qwen_tts_service.errors import Busy, ClientLeft, TTSError
from qwen_tts_service.types import AudioFormat

from .call import Call
from .errors import body_of, response_of, status_of
from .events import summary_of
from .openai import CreateSpeechBody
from .responses import speak_file, unless_client_leaves
from .runtime import Runtime
from .schema_extra import SCHEMA_EXTRA
from .tickets import RUNTIME_KEY, Ticket, parse_body, read_body, read_fields, take_slot
from .times import fields_of

PATH = "/v1/audio/speech/batch"
MAX_ITEMS = 32


class SpeechBatchBody(BaseModel):
    """Items, and defaults for them: any field of POST /v1/audio/speech."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        hide_input_in_errors=True,
        json_schema_extra=SCHEMA_EXTRA["SpeechBatchBody"],
    )

    items: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_ITEMS,
        description="What to say: each item has an input, and fields of its own in place of the "
        "defaults.",
    )

    def item_bodies(self) -> Iterator[bytes]:
        """The body of each item as if it had been sent by itself."""
        for item in self.items:
            yield json.dumps({**(self.model_extra or {}), **item}).encode()


class BatchItemBody(CreateSpeechBody):
    """One item with the defaults of its batch."""

    format: AudioFormat = Field("wav", alias="response_format", description="The audio format.")
    stream_format: Literal["audio"] = "audio"


async def create_batch(http: Request) -> Response:
    """Answer with a batch that is being spoken, or refuse it as a whole."""
    runtime = cast("Runtime", http.scope[RUNTIME_KEY])
    try:
        data = await read_body(http, runtime.settings)
        return SpeechBatch(http, runtime, parse_body(data, SpeechBatchBody))
    except TTSError as error:
        call = Call.of(http.scope)
        call.route = PATH
        return response_of(call.fail(error))


class SpeechBatch(Response):
    """A batch of which one item has a slot, or a position in the queue. Raises Busy without."""

    def __init__(self, http: Request, runtime: Runtime, body: SpeechBatchBody) -> None:
        headers = {"Cache-Control": "no-store", "X-AI-Generated": "true"}
        super().__init__(media_type="application/json", headers=headers)
        del self.headers["Content-Length"]
        call = Call.of(http.scope)
        self._id = call.request_id
        self._tickets = [
            _ticket(http, runtime, f"{self._id}.{index}", data)
            for index, data in enumerate(body.item_bodies())
        ]
        self._turn = asyncio.Lock()
        self._speaking: set[asyncio.Future[Any]] = set()
        self._succeeded = 0
        self._first = next((ticket for ticket in self._tickets if ticket.error is None), None)
        if self._first is not None:
            take_slot(self._first)
            call.at_end(self._first.slot.release)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        with suppress(ClientLeft):  # each item has noted it
            await unless_client_leaves(asyncio.create_task(self._send_all(send)), receive)

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with asyncio.TaskGroup() as group:
            results = [group.create_task(self._result(ticket)) for ticket in self._tickets]
            before = f'{{"id": {json.dumps(self._id)}, "results": ['
            for index, result in enumerate(results):
                item = json.dumps({"index": index, **await result}, ensure_ascii=False)
                await _send_part(send, f"{before}{item}")
                before = ", "
        total = len(self._tickets)
        counts = {"total": total, "succeeded": self._succeeded, "failed": total - self._succeeded}
        await _send_part(send, f"], {json.dumps(counts)[1:]}", is_last=True)

    async def _result(self, ticket: Ticket) -> dict[str, Any]:
        """Speak one item; an error is a result too."""
        try:
            data = await self._speak(ticket)
            ticket.call.status = 200
            self._succeeded += 1
            return {"status": "success", **_facts_of(ticket, data)}
        except asyncio.CancelledError:
            ticket.call.outcome = ClientLeft.code
            raise
        except Exception as error:  # noqa: BLE001 - the item's top
            failure = ticket.fail(error)
            ticket.call.status = status_of(failure)
            return {"status": "error", **body_of(failure)}
        finally:
            self._speaking.discard(cast("asyncio.Task[Any]", asyncio.current_task()))
            ticket.call.end()

    async def _speak(self, ticket: Ticket) -> bytes:
        if ticket.error is not None:
            raise ticket.error
        async with self._turn:
            if ticket is not self._first:
                await self._enter(ticket)
            await ticket.slot.granted()
            self._speaking.add(cast("asyncio.Task[Any]", asyncio.current_task()))
        async with asyncio.timeout(ticket.runtime.settings.request_timeout_s):
            return await speak_file(ticket)

    async def _enter(self, ticket: Ticket) -> None:
        """Queue for a slot; while the queue is full, wait for items of this batch to end.

        Raises Busy if none is left whose end could make room.
        """
        while True:
            try:
                return take_slot(ticket)
            except Busy:
                if not self._speaking:
                    raise
            await asyncio.wait(self._speaking, return_when=asyncio.FIRST_COMPLETED)


def _ticket(http: Request, runtime: Runtime, request_id: str, data: bytes) -> Ticket:
    ticket = Ticket(http, Call(request_id, route=PATH), runtime, BatchItemBody)
    try:
        read_fields(ticket, data)
    except TTSError as error:
        ticket.error = error
    return ticket


def _facts_of(ticket: Ticket, data: bytes) -> dict[str, Any]:
    """What an item's own response would have in its body and in its headers."""
    speech = ticket.speech
    voice, language = ", ".join(speech.info.speakers), speech.info.choice.language
    ticket.call.note(voice=voice, language=language)
    warnings = [ticket.body.warning, ticket.warning, speech.info.warning]
    facts: dict[str, Any] = {
        "audio_data": base64.b64encode(data).decode(),
        "media_type": content_type(ticket.body.format, speech.sample_rate_hz),
        "voice": voice,
        "language": language,
        **summary_of(ticket),
    }
    if warning := "; ".join(filter(None, warnings)):
        facts["warning"] = warning
    if ticket.request.timestamps is not None:
        facts["timestamps"] = [fields_of(timestamp) for timestamp in speech.timestamps]
    return facts


async def _send_part(send: Send, text: str, *, is_last: bool = False) -> None:
    part = {"type": "http.response.body", "body": text.encode(), "more_body": not is_last}
    await send(part)


ROUTES = [Route(PATH, create_batch, methods=["POST"])]
