"""Speech as server-sent events, in OpenAI's shape of `stream_format: sse`, with times added."""

import base64
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import Response

from qwen_tts_service.types import FRAME_S

from .errors import body_of
from .responses import StreamedSpeech, stream_response
from .tickets import Ticket
from .times import TimeEvents


async def streamed(ticket: Ticket, audio: AsyncGenerator[bytes, None]) -> Response:
    """Answer with audio as it is made, or with events that carry it."""
    kind = SpeechEvents if ticket.answer == "events" else StreamedSpeech
    return await stream_response(ticket, audio, kind)


class SpeechEvents(StreamedSpeech):
    """Speech as server-sent events: audio deltas and a summary, or an error and a broken end."""

    def _content_headers(self) -> dict[str, str]:
        return {"Content-Type": "text/event-stream; charset=utf-8"}

    async def _content(self) -> AsyncIterator[bytes]:
        times = TimeEvents(self._ticket.speech)
        try:
            async for part in super()._content():
                for kind, fields in times.take():
                    yield _event(f"speech.{kind}", **fields)
                yield _event("speech.audio.delta", audio=base64.b64encode(part).decode())
        except Exception as error:
            # Said for clients that read it, and broken off for those that do not.
            failure = self._ticket.fail(error)
            yield _event("error", **body_of(failure))
            raise failure from error
        for kind, fields in times.take():
            yield _event(f"speech.{kind}", **fields)
        yield _event("speech.audio.done", **summary_of(self._ticket))


def summary_of(ticket: Ticket) -> dict[str, Any]:
    """What there is to say of a speech that has ended."""
    request, speech = ticket.request, ticket.speech
    spoken = len(request.tokens or request.text or "")
    frames = math.ceil(round(speech.spoken_s / FRAME_S, 6))
    return {
        "usage": {"input_tokens": spoken, "output_tokens": frames, "total_tokens": spoken + frames},
        "finish_reason": speech.finish_reason,
        "seed": speech.seed,
        "audio_seconds": round(speech.audio_s, 3),
    }


def _event(kind: str, **fields: Any) -> bytes:
    return f"data: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n".encode()
