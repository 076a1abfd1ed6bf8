"""A voice inside a request: `ref_audio` as a data URL, cloned for this request."""

import asyncio
import base64
import re
from dataclasses import replace

from qwen_tts_service.errors import BodyTooLarge, InvalidRequest
from qwen_tts_service.fields import SpeechBody
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.cloning import CloningOrder
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.types import SpeechRequest

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_OTHER_URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


async def with_own_voice(
    request: SpeechRequest, body: SpeechBody, synthesizer: Synthesizer, settings: Settings
) -> tuple[SpeechRequest, str | None]:
    """The request with the voice of its recording, if it has one, and a warning about it."""
    if body.ref_audio is None:
        return request, None
    order = CloningOrder(
        data=await asyncio.to_thread(decoded, body.ref_audio, settings.max_voice_bytes),
        transcript=body.ref_text,
        has_tail=settings.reference_tail == "silence",
    )
    clone = await synthesizer.cloner.clone(order)
    unused = None if body.speaker is None else "the voice is that of ref_audio, not of the speaker"
    warning = "; ".join(filter(None, [unused, clone.warning]))
    return replace(request, voice=clone.voice), warning or None


def decoded(recording: str, max_bytes: int) -> bytes:
    """The bytes of a data URL or of bare base64; raises InvalidRequest or BodyTooLarge."""
    recording = recording.strip()
    start = _DATA_URL.match(recording)
    if start is None and _OTHER_URL.match(recording):
        raise InvalidRequest(
            "ref_audio must be the recording itself, as data:audio/wav;base64,... or bare base64: "
            "URLs are never fetched",
            param="ref_audio",
        )
    lines = recording[start.end() if start else 0 :].split()  # as `base64` writes it
    try:
        data = base64.b64decode("".join(lines), validate=True)
    except ValueError:
        raise InvalidRequest("ref_audio is not valid base64", param="ref_audio") from None
    check_size(data, max_bytes)
    return data


def check_size(data: bytes, max_bytes: int) -> None:
    """Raise BodyTooLarge for a recording of more bytes than MAX_VOICE_BYTES."""
    if len(data) > max_bytes:
        raise BodyTooLarge(f"the recording is larger than {max_bytes} bytes (MAX_VOICE_BYTES)")
