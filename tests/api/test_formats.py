"""Every format through both routes: a stream decodes to the samples of the file."""

import io
from typing import Any

import av
import httpx
import numpy as np
import pytest
from tests.conftest import Server

CONTENT_TYPES = {
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "aac": "audio/aac",
    "mulaw": "audio/PCMU; rate=8000; channels=1",
    "alaw": "audio/PCMA; rate=8000; channels=1",
}
TEXT = "Сегодня хорошая погода. Мы идём гулять в парк. Потом будет обед, а вечером кино."


def decode(data: bytes, format: str) -> Any:
    """The samples as FFmpeg decodes them, int16 scale, float64."""
    if format == "pcm":
        return np.frombuffer(data, "<i2").astype(float)
    raw = {"format": format, "options": {"sample_rate": "8000", "ch_layout": "mono"}}
    with av.open(io.BytesIO(data), **(raw if format in {"mulaw", "alaw"} else {})) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    samples = np.concatenate(frames, axis=1)[0]
    return samples.astype(float) * (32768 if samples.dtype.kind == "f" else 1)


@pytest.mark.parametrize("format", CONTENT_TYPES)
def test_the_stream_decodes_to_the_file(server: Server, format: str) -> None:
    body = {"text": TEXT, "format": format, "seed": 3}
    whole = httpx.post(f"{server.base_url}/tts", json=body, timeout=60)
    with httpx.stream("POST", f"{server.base_url}/stream-tts", json=body, timeout=60) as response:
        parts = list(response.iter_raw())
    assert whole.headers["content-type"].startswith(CONTENT_TYPES[format])
    assert response.headers["content-type"] == whole.headers["content-type"]
    assert len(parts) > 3
    file, stream = decode(whole.content, format), decode(b"".join(parts), format)
    if format == "mp3":  # the file's tag frame declares a delay that the stream cannot
        shift = len(stream) - len(file)
        assert 0 <= shift <= 2 * 1152
        matches = [np.abs(stream[s : s + len(file)] - file).max() for s in range(shift + 1)]
        assert min(matches) <= 1
        return
    assert len(stream) == len(file)
    assert np.array_equal(stream, file)


@pytest.mark.parametrize("route", ["/tts", "/stream-tts"])
def test_speech_is_labelled_as_machine_made(server: Server, route: str) -> None:
    body = {"text": "One.", "format": "mp3"}
    response = httpx.post(f"{server.base_url}{route}", json=body, timeout=60)
    assert response.headers["x-ai-generated"] == "true"
    with av.open(io.BytesIO(response.content)) as container:
        assert "AI-generated) speech by espeak-ng" in container.metadata["comment"]
    response = httpx.post(f"{server.base_url}{route}", json={"text": "One."}, timeout=60)
    assert response.headers["x-ai-generated"] == "true"
    assert response.content[36:40] == b"data"  # clients cut 44 bytes


@pytest.mark.parametrize("format", CONTENT_TYPES)
def test_the_second_request_is_as_good_as_the_first(server: Server, format: str) -> None:
    body = {"text": "Раз, два.", "format": format, "seed": 3}
    first, second = (
        decode(httpx.post(f"{server.base_url}/tts", json=body, timeout=60).content, format)
        for _ in range(2)
    )
    assert len(first) == len(second)
    assert np.abs(first - second).max() == 0
