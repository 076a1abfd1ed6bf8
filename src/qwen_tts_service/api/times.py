"""When sentences and words are heard, as clients get it: a JSON body, or events along with audio.

Times come only where an answer has room for them; where it has none, a request for them is
refused.
"""

import base64
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any, Literal

from qwen_tts_service.errors import InvalidRequest
from qwen_tts_service.speech.synthesizer import Speech
from qwen_tts_service.types import Timestamp, TimestampUnit

Answer = Literal["audio", "json", "events"]
"""What the body of a response is: audio, JSON that has the audio in it, or server-sent events."""
MEDIA_TYPES: dict[Answer, str] = {"json": "application/json", "events": "text/event-stream"}


def choose_answer(
    accept: str, timestamps: TimestampUnit | None, possible: Collection[Answer]
) -> Answer:
    """Choose by the header Accept; raises InvalidRequest for times that would have no room.

    Many clients send `Accept: application/json` to every route, so without times they get audio.
    """
    if "events" in possible and MEDIA_TYPES["events"] in accept:
        return "events"
    if timestamps is None:
        return "audio"
    if "json" in possible and MEDIA_TYPES["json"] in accept:
        return "json"
    ways = " or ".join(f"`Accept: {kind}`" for way, kind in MEDIA_TYPES.items() if way in possible)
    raise InvalidRequest(
        f"timestamps do not fit into a file of audio; send the header {ways}", param="timestamps"
    )


def timed_file(data: bytes, speech: Speech, format: str, sample_rate_hz: int) -> dict[str, Any]:
    """A whole file of audio and its times as one JSON object."""
    return {
        "audio": base64.b64encode(data).decode(),
        "format": format,
        "sample_rate": sample_rate_hz,
        "timestamps": [fields_of(timestamp) for timestamp in speech.timestamps],
    }


def fields_of(timestamp: Timestamp, *, after_s: float = 0.0) -> dict[str, Any]:
    """A timestamp in JSON, in milliseconds' precision; after_s: of audio that came before."""
    times = {
        "start_s": round(after_s + timestamp.start_s, 3),
        "end_s": round(after_s + timestamp.end_s, 3),
    }
    return asdict(timestamp) | times


class TimeEvents:
    """The events about one speech that have not been sent yet.

    after_s: seconds of audio that the client has got before this speech, and that times include
    """

    def __init__(self, speech: Speech, *, after_s: float = 0.0) -> None:
        self._speech = speech
        self._after_s = after_s
        self._sent = 0
        self._begun_s: float | None = None

    def take(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield `timestamp` for what has ended, then `sentence` for one that has begun."""
        for timestamp in self._speech.timestamps[self._sent :]:
            self._sent += 1
            yield "timestamp", fields_of(timestamp, after_s=self._after_s)
        begun = self._speech.begun_sentence
        if begun is not None and begun.start_s != self._begun_s:
            self._begun_s = begun.start_s
            fields = fields_of(begun, after_s=self._after_s)
            del fields["end_s"]
            yield "sentence", fields
