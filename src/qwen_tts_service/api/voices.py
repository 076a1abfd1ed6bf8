"""Library of voices: POST /v1/audio/voices keeps a voice, DELETE /v1/audio/voices/{name} deletes.

Field names are those of OpenAI's and vLLM-Omni's routes as far as they have them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive

from qwen_tts_service.errors import (
    BodyTooLarge,
    ClientLeft,
    InvalidRequest,
    TTSError,
    UnsupportedMediaType,
)
from qwen_tts_service.fields import VoiceForm, cloning_is_off
from qwen_tts_service.speech.cloning import Clone, CloningOrder
from qwen_tts_service.validation import from_validation
from qwen_tts_service.voice.library import LibraryEntry, check_name

from .call import Call
from .designed import NEEDS_A_BASE_MODEL, design_voice
from .errors import response_of
from .inline_voice import check_size
from .responses import unless_client_leaves
from .runtime import Runtime
from .tickets import RUNTIME_KEY

PATH = "/v1/audio/voices"
FORM_BYTES = 64 * 1024
"""Of a form, besides its recording."""
_AUDIO_FIELDS = ("audio_sample", "audio", "file", "ref_audio")


async def keep_voice(http: Request) -> Response:
    """POST /v1/audio/voices: clone a voice from a recording and keep it under a name."""
    return await _answered(http, _keep)


async def delete_voice(http: Request) -> Response:
    """DELETE /v1/audio/voices/{name}: delete a kept voice and its recording."""
    return await _answered(http, _delete)


async def _answered(
    http: Request, work: Callable[[Request, Runtime, Call], Awaitable[dict[str, Any]]]
) -> Response:
    """Do the work; what it noted and how it ended is in the request's line of the log."""
    call, runtime = Call.of(http.scope), cast("Runtime", http.scope[RUNTIME_KEY])
    call.route = PATH
    try:
        if not runtime.settings.voice_cloning:
            raise cloning_is_off()
        return JSONResponse(await work(http, runtime, call))
    except (TTSError, TimeoutError) as error:
        return response_of(call.fail(error))


async def _keep(http: Request, runtime: Runtime, call: Call) -> dict[str, Any]:
    settings, library = runtime.settings, runtime.library
    sent = await _read_form(http, settings.max_voice_bytes + FORM_BYTES)
    field, data = _recording_of(sent)
    form = _checked(sent)
    form.name = check_name(form.name)
    call.note(action="keep", voice=form.name)
    if data is not None:
        check_size(data, settings.max_voice_bytes)
    elif form.type == "audio_sample" or form.description is None:
        raise InvalidRequest(f"{field} is missing: the recording's file", param=field)
    library.place_for(form.name)  # said before seconds are spent
    runtime.uploads.take()
    make = design_voice(form, runtime, call) if data is None else _clone(form, data, runtime, call)
    try:
        entry, audio = await unless_client_leaves(asyncio.create_task(make), http.receive)
    except TTSError as error:
        as_sent = {"ref_audio": field, "text": "ref_text", "instruct": "description"}
        error.param = as_sent.get(error.param or "", error.param)
        raise
    await asyncio.to_thread(library.add, entry, audio)
    is_designed = not entry.voice.embedding
    return described(entry) | ({"warning": NEEDS_A_BASE_MODEL} if is_designed else {})


async def _clone(
    form: VoiceForm, data: bytes, runtime: Runtime, call: Call
) -> tuple[LibraryEntry, bytes]:
    order = CloningOrder(
        data=data,
        transcript=form.ref_text,
        language=form.spoken_language,
        has_tail=runtime.settings.reference_tail == "silence",
    )
    synthesizer = await runtime.keeper.wake(call.at_end)
    clone = await synthesizer.cloner.clone(order)
    return _entry(form, order, clone, runtime.settings.model_name), data


async def _delete(http: Request, runtime: Runtime, call: Call) -> dict[str, Any]:
    name = await asyncio.to_thread(runtime.library.remove, http.path_params["name"])
    call.note(action="delete", voice=name)
    return {"id": name, "object": "audio.voice.deleted", "deleted": True}


def _entry(form: VoiceForm, order: CloningOrder, clone: Clone, model: str) -> LibraryEntry:
    return LibraryEntry(
        name=form.name,
        model=model,
        voice=clone.voice,
        duration_s=clone.duration_s,
        tail_s=clone.tail_s,
        recording=f"recording.{clone.kind}" if form.keep_audio == "true" else None,
        language=order.language,
        description=form.description,
        consent=form.consent,
        warning=clone.warning,
    )


def described(entry: LibraryEntry) -> dict[str, Any]:
    """A kept voice for clients: without its numbers, transcript and consent."""
    return {
        "id": entry.name,
        "object": "audio.voice",
        "name": entry.name,
        "gender": None,
        "language": entry.language,
        "description": entry.description,
        "speaker": entry.name,
        "type": "audio_sample" if entry.voice.embedding else "prompt",
        "created_at": entry.created_at,
        "model": entry.model,
        "audio_seconds": round(entry.duration_s, 3),
        "tail_seconds": entry.tail_s,
        "has_transcript": bool(entry.voice.transcript),
        "has_recording": entry.recording is not None,
        "warning": entry.warning,
    }


# Forms -------------------------------------------------------------------------------


async def _read_form(http: Request, max_bytes: int) -> dict[str, str | bytes]:
    """The fields that are not blank, of files their bytes; raises as `read_body` does."""
    media_type = http.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        raise UnsupportedMediaType("send a form, multipart/form-data; with curl: -F name=anna")
    request = Request(http.scope, _limited(http.receive, max_bytes))
    try:
        async with request.form(max_files=1, max_part_size=FORM_BYTES) as form:
            sent = {
                name: await value.read() if isinstance(value, UploadFile) else value
                for name, value in form.items()
            }
    except HTTPException as error:
        raise InvalidRequest(f"the form is not valid: {error.detail}") from None
    except ClientDisconnect:
        raise ClientLeft("the client closed the connection before the form was complete") from None
    return {name: value for name, value in sent.items() if value.strip()}


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """Receive a body of at most so many bytes."""
    read_bytes = 0

    async def receive_limited() -> Message:
        nonlocal read_bytes
        message = await receive()
        read_bytes += len(message.get("body", b""))
        if read_bytes > max_bytes:
            raise BodyTooLarge(f"the form is larger than {max_bytes} bytes (MAX_VOICE_BYTES)")
        return message

    return receive_limited


def _recording_of(sent: dict[str, str | bytes]) -> tuple[str, bytes | None]:
    """Take the recording out of the form, with the name of its field."""
    field = next((name for name in _AUDIO_FIELDS if name in sent), _AUDIO_FIELDS[0])
    data = sent.pop(field, None)
    if isinstance(data, str):
        raise InvalidRequest(
            f"{field} must be a file; with curl: -F {field}=@clip.wav. URLs are never fetched",
            param=field,
        )
    return field, data


def _checked(sent: dict[str, str | bytes]) -> VoiceForm:
    try:
        return VoiceForm.model_validate(sent)
    except ValidationError as error:
        raise from_validation(error, VoiceForm) from None
