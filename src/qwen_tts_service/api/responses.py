"""Audio responses: one whole file, or a stream that is sent while speech is generated."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from time import monotonic
from typing import TypeVar
from urllib.parse import quote

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from qwen_tts_service.audio.formats import content_type, file_extension
from qwen_tts_service.errors import ClientLeft, TTSError
from qwen_tts_service.speech.synthesizer import Output, Speech
from qwen_tts_service.telemetry import metrics
from qwen_tts_service.types import AudioFormat

from .call import Call
from .errors import response_of
from .tickets import Ticket
from .times import timed_file

T = TypeVar("T")

# Whole files -------------------------------------------------------------------------


class PendingFile:
    """A whole file that is being made, on a task that BentoML's batch does not wait for."""

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
            return await unless_client_leaves(self._task, self._ticket.http.receive)
        except Exception as error:  # noqa: BLE001 - the request's top
            return response_of(self._ticket.fail(error))


async def _speak_file(ticket: Ticket) -> Response:
    data = await speak_file(ticket)
    format, speech = ticket.body.format, ticket.speech
    ending = {
        "X-Audio-Seconds": f"{speech.audio_s:.3f}",
        "X-Finish-Reason": str(speech.finish_reason),
    }
    headers = speech_headers(ticket) | ending
    if ticket.answer == "json":
        timed = timed_file(data, speech, format, speech.sample_rate_hz)
        return JSONResponse(timed, headers=headers)
    return Response(data, headers=headers | file_headers(format, speech.sample_rate_hz))


async def speak_file(ticket: Ticket) -> bytes:
    """Speak a ticket to its end, and note it; sets `ticket.speech`."""
    await ticket.ready()
    format = ticket.body.format
    data, ticket.speech = await ticket.runtime.synthesizer.speak_whole(ticket.request, format)
    ticket.call.first_audio(format)
    ticket.call.spoke(ticket.speech.audio_s)
    ticket.call.note(finish_reason=ticket.speech.finish_reason)
    return data


# Streams -----------------------------------------------------------------------------


async def speak_stream(ticket: Ticket) -> AsyncGenerator[bytes, None]:
    """Yield the audio as it is made; `ticket.speech` is set before the first of it.

    Raises TTSError: at first when there is nothing to hear, later when the speech fails.
    """
    beginning = asyncio.create_task(_begin_stream(ticket))
    try:
        parts, first = await unless_client_leaves(beginning, ticket.http.receive)
    except Exception as error:
        raise ticket.fail(error) from error
    async with aclosing(ticket.speech):
        yield first
        async for part in _counting_underruns(ticket.call, ticket.speech, parts):
            yield part
        ticket.speech.check_ending()


async def _begin_stream(ticket: Ticket) -> tuple[AsyncIterator[bytes], bytes]:
    """Wait for a slot and for the first audio."""
    async with asyncio.timeout(ticket.runtime.settings.request_timeout_s):
        await ticket.ready()
        output = Output(ticket.body.format, is_stream=True)
        ticket.speech = await ticket.runtime.synthesizer.speak(ticket.request, output)
        parts = aiter(ticket.speech)
        try:
            first = await anext(parts, b"")
            if not first:
                ticket.speech.check_ending()
        except BaseException:
            await ticket.speech.aclose()
            raise
        return parts, first


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


class StreamedSpeech(Response):
    """Sends audio as it is made; a failure leaves the response unfinished."""

    def __init__(self, ticket: Ticket, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        self._ticket = ticket
        self._first = first
        self._rest = rest
        self.status_code = 200
        self.background = None
        headers = speech_headers(ticket) | self._content_headers()
        self.init_headers(headers | {"X-Accel-Buffering": "no"})

    def _content_headers(self) -> dict[str, str]:
        return file_headers(self._ticket.body.format, self._ticket.speech.sample_rate_hz)

    async def _content(self) -> AsyncIterator[bytes]:
        """Chunks of the body; a subclass may frame the audio."""
        yield self._first
        async for part in self._rest:
            yield part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        call, speech = self._ticket.call, self._ticket.speech
        try:
            async with aclosing(self._rest):
                await unless_client_leaves(asyncio.create_task(self._send_all(send)), receive)
        except Exception as error:  # noqa: BLE001 - the request's top
            # No last chunk is sent, so the server closes the connection and the client sees
            # a broken body, not a short one that looks whole.
            self._ticket.fail(error)
        finally:
            call.spoke(speech.audio_s)
            call.note(finish_reason=speech.finish_reason)
            if self.background is not None:
                await self.background()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for data in self._content():
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._ticket.call.first_audio(self._ticket.body.format)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def stream_response(
    ticket: Ticket, audio: AsyncGenerator[bytes, None], kind: type[StreamedSpeech] = StreamedSpeech
) -> Response:
    """Wait for the first audio; answer with a stream, or with an error and its status."""
    try:
        first = await anext(audio)
    except TTSError as error:
        return response_of(error)
    return kind(ticket, first, audio)


# Headers and disconnects ------------------------------------------------------


def speech_headers(ticket: Ticket) -> dict[str, str]:
    """Headers that tell who speaks, and how; of files and streams."""
    info, voice = ticket.speech.info, ticket.runtime.synthesizer.voice
    choice, seed = info.choice, ticket.speech.seed
    ticket.call.note(
        seed=seed, model=voice.model_name, voice=choice.speaker, language=choice.language
    )
    headers = {
        "Cache-Control": "no-store",
        "X-Seed": str(seed),
        "X-Model": voice.model_name,
        "X-AI-Generated": "true",
        "X-Voice": ", ".join(info.speakers),
        "X-Language": choice.language,
        "X-Voice-Applied": ", ".join(choice.applied),
        "X-Voice-Not-Applied": "; ".join(f"{k}: {why}" for k, why in choice.not_applied.items()),
        "X-Warning": "; ".join(filter(None, [ticket.body.warning, ticket.warning, info.warning])),
    }
    return {name: quote(value, safe=_HEADER_SAFE) for name, value in headers.items() if value}


def file_headers(format: AudioFormat, sample_rate_hz: int) -> dict[str, str]:
    """Headers of a response whose body is the audio itself."""
    return {
        "Content-Type": content_type(format, sample_rate_hz),
        "Content-Disposition": f'attachment; filename="speech.{file_extension(format)}"',
    }


_HEADER_SAFE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")


async def unless_client_leaves(task: asyncio.Task[T], receive: Receive) -> T:
    """Wait for a task; cancel it and raise ClientLeft if the client disconnects first."""
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
