"""The two BentoML APIs on the wire: flat JSON in, raw audio out, a status per item.

A batchable API would take `{"requests": [...]}` and respond with a JSON list. These input and
output specs keep its batches inside the server: each HTTP request is a batch of one when it
comes in, and has its own response when it goes out.
"""

from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any, ClassVar

# Private: the only way to declare a body that is raw bytes, and to stop waiting; bentoml is pinned.
from _bentoml_sdk.io_models import IORootModel
from bentoml import IODescriptor
from bentoml._internal.marshal.dispatcher import Optimizer
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from qwen_tts_service.fields import MAX_FRAMES, SpeechBody

from .events import streamed
from .responses import PendingFile
from .schema_extra import SCHEMA_EXTRA
from .tickets import Ticket, read_ticket

# BentoML holds a batch back for as long as those before it waited on average, and on a busy
# machine that average hardly falls again: after one burst of 64 every lone file took 112 ms,
# not 31 (espeak-ng, 2 cores). Waiting gains nothing here, where the engine batches.
Optimizer.wait = property(lambda _: 0.0, lambda _, _s: None)  # type: ignore[assignment]


_TICKET: ContextVar[Ticket] = ContextVar("ticket")
"""The ticket of this task: BentoML passes only the audio to the output spec."""


class TTSBody(SpeechBody):
    """A text and how to say it; answered with one audio file."""

    model_config = ConfigDict(json_schema_extra=SCHEMA_EXTRA["TTSBody"])


class StreamTTSBody(SpeechBody):
    """A text or its tokens and how to say it; answered with audio while it is being made."""

    model_config = ConfigDict(json_schema_extra=SCHEMA_EXTRA["StreamTTSBody"])

    max_length: int = Field(
        1000, ge=1, le=MAX_FRAMES, description="Most frames of 80 ms of the whole response."
    )


class Batch(IODescriptor):
    """What the batchable method takes."""

    requests: list[Any]


class One(IODescriptor):
    """What the streaming method takes."""

    request: Any


class TTSInput(TTSBody, IODescriptor):
    """POST /tts as clients see it."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> IODescriptor:  # noqa: ARG003
        return Batch.model_construct(
            requests=[await read_ticket(request, TTSBody, ("audio", "json"))]
        )


class StreamTTSInput(StreamTTSBody, IODescriptor):
    """POST /stream-tts as clients see it."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> IODescriptor:  # noqa: ARG003
        ticket = await read_ticket(request, StreamTTSBody, ("audio", "events"))
        _TICKET.set(ticket)
        return One.model_construct(request=ticket)


class AudioFile(IORootModel[bytes]):
    """One whole audio file."""

    media_type: ClassVar[str | None] = "audio/*"

    @classmethod
    async def to_http_response(cls, obj: list[PendingFile], serde: object) -> Response:  # noqa: ARG003
        (pending,) = obj
        return await pending.response()


class AudioStream(IORootModel[bytes]):
    """Audio while it is being made."""

    media_type: ClassVar[str | None] = "audio/*"

    @classmethod
    async def to_http_response(
        cls,
        obj: AsyncGenerator[bytes, None],
        serde: object,  # noqa: ARG003
    ) -> Response:
        return await streamed(_TICKET.get(), obj)
