"""Requests of well-known clients, replayed as they send them, responses read as they read them.

Each test is one client: its fields, its headers, its way of reading the answer. The clients
themselves, where they install, are run by scripts/test_clients. It does not know what the
routes promise beyond that: see test_openai.py.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import threading
import urllib.request
import wave
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
import requests
from tests.api.test_formats import decode
from tests.conftest import KEY, Server

from qwen_tts_service.voice.catalogue import OPENAI_VOICES

TEXT = "The kettle is on. Tea will be ready in three minutes."
FRAME_BYTES = 2 * 1920


@pytest.fixture
def base(server: Server) -> str:
    return f"{server.base_url}/v1"


def is_speech(samples: Any, rate_hz: int = 24000) -> bool:
    return 1.5 * rate_hz < len(samples) < 10 * rate_hz and np.abs(samples).max() > 1000


# Plain HTTP --------------------------------------------------------------------------


def test_requests_reads_chunks(base: str) -> None:
    body = {"model": "tts-1", "input": TEXT, "voice": "alloy", "response_format": "wav"}
    with requests.post(f"{base}/audio/speech", json=body, stream=True, timeout=60) as answer:
        saved = b"".join(answer.iter_content(chunk_size=8192))
    with wave.open(io.BytesIO(saved)) as audio:
        assert is_speech(np.frombuffer(audio.readframes(10**7), "<i2"))


def test_httpx_reads_as_it_comes(base: str) -> None:
    body = {"model": "tts-1", "input": TEXT, "voice": "alloy", "response_format": "pcm"}
    with httpx.stream("POST", f"{base}/audio/speech", json=body) as answer:
        parts = list(answer.iter_bytes())
    assert len(parts) > 3
    assert is_speech(np.frombuffer(b"".join(parts), "<i2"))


@pytest.mark.parametrize("format", ["wav", "mp3", "opus", "flac", "aac"])
def test_ffmpegs_libraries_decode_from_a_pipe(base: str, format: str) -> None:
    body = {"input": TEXT, "voice": "alloy", "response_format": format, "seed": 1}
    read_end, write_end = os.pipe()
    whole = bytearray()

    def fill() -> None:
        with (
            httpx.stream("POST", f"{base}/audio/speech", json=body) as answer,
            os.fdopen(write_end, "wb") as pipe,
        ):
            for part in answer.iter_raw():
                whole.extend(part)
                pipe.write(part)

    writer = threading.Thread(target=fill)
    writer.start()
    with os.fdopen(read_end, "rb") as pipe, av.open(pipe, "r") as container:
        assert container.streams.audio[0].rate in (24000, 48000)  # opus is always 48 kHz
        samples = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    writer.join()
    assert len(samples) == len(decode(bytes(whole), format))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg binary here")
@pytest.mark.parametrize("format", ["wav", "mp3", "opus", "flac", "aac"])
def test_ffmpeg_reads_curl_from_a_pipe(base: str, format: str) -> None:
    body = json.dumps({"input": TEXT, "voice": "alloy", "response_format": format})
    command = f"curl -sN {base}/audio/speech -H 'Content-Type: application/json' -d '{body}'"
    command += " | ffmpeg -v error -i pipe:0 -f s16le -ar 24000 -"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert ran.stderr == b""
    assert is_speech(np.frombuffer(ran.stdout, "<i2"))


# Open WebUI --------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"speed": 1.2}])  # AUDIO_TTS_OPENAI_PARAMS
def test_open_webui_saves_an_mp3_that_it_never_asked_for(
    base: str, params: dict[str, float]
) -> None:
    payload = {"input": TEXT, "voice": "alloy", "model": "tts-1", **params}
    headers = {"Authorization": "Bearer none", "X-OpenWebUI-User-Name": "someone"}
    answer = httpx.post(f"{base}/audio/speech", json=payload, headers=headers)
    assert answer.status_code == 200
    with av.open(io.BytesIO(answer.content)) as container:
        assert container.format.name == "mp3"
    assert is_speech(decode(answer.content, "mp3"))


def test_open_webui_lists_voices_and_models_without_its_key(locked: Server) -> None:
    voices = httpx.get(f"{locked.base_url}/v1/audio/voices").json()["voices"]
    assert {v["id"]: v["name"] for v in voices}["alloy"] == "alloy"
    models = httpx.get(f"{locked.base_url}/v1/audio/models").json()["models"]
    assert "tts-1" in [m["id"] for m in models]


def test_open_webui_shows_our_message(base: str) -> None:
    answer = httpx.post(f"{base}/audio/speech", json={"input": "", "voice": "a", "model": "tts-1"})
    assert answer.json()["error"].get("message", "") == "input is empty; give at least one word"


# SillyTavern -------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [1, 1.0, 1.5, 0.25])
def test_sillytavern_without_a_key_sends_an_empty_bearer(base: str, speed: float) -> None:
    body = {"input": TEXT, "response_format": "mp3", "voice": "shimmer", "speed": speed}
    headers = {"Authorization": "Bearer "}
    url = f"{base}/audio/speech"
    answer = requests.post(url, json={**body, "model": "tts-1"}, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert is_speech(decode(answer.content, "mp3"))


# LiveKit -----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["mp3", "wav", "pcm", "opus", "flac", "aac"])
async def test_livekit_reads_events(base: str, format: Any) -> None:
    audio, usage = b"", {}
    async with (
        openai.AsyncClient(base_url=base, api_key="any", max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(
            input=TEXT,
            model="gpt-4o-mini-tts",
            voice="ash",
            response_format=format,
            speed=1.0,
            instructions=openai.omit,
            stream_format="sse",
        ) as answer,
    ):
        kind = answer.headers.get("content-type", "").split(";")[0].strip().lower()
        assert kind == "text/event-stream"
        async for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if event.get("type") == "speech.audio.delta":
                    audio += base64.b64decode(event.get("delta", "") or event.get("audio", ""))
                elif event.get("type") == "speech.audio.done":
                    usage = event.get("usage", {})
    assert is_speech(decode(audio, format), 48000 if format == "opus" else 24000)
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0


def test_livekit_with_tts_1_reads_audio_by_its_content_type(base: str) -> None:
    with openai.OpenAI(base_url=base, api_key="any", max_retries=0) as client:
        answer = client.audio.speech.create(
            input=TEXT, model="tts-1", voice="ash", response_format="mp3", stream_format="audio"
        )
    assert answer.response.headers["content-type"].split(";")[0] == "audio/mpeg"
    with av.open(io.BytesIO(answer.content)) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (24000, 1)


# Pipecat -----------------------------------------------------------------------------


async def test_pipecat_takes_pcm_for_24_khz_and_only_knows_openais_voices(base: str) -> None:
    pipecat_knows = "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse"
    assert set(pipecat_knows.split()) == set(OPENAI_VOICES)

    async def speak() -> list[bytes]:
        async with (
            openai.AsyncOpenAI(base_url=base, api_key="any") as client,
            client.audio.speech.with_streaming_response.create(
                input=TEXT, model="gpt-4o-mini-tts", voice="marin", response_format="pcm"
            ) as answer,
        ):
            assert answer.status_code == 200
            return [chunk async for chunk in answer.iter_bytes(24000)]

    chunks = await speak()
    assert {len(chunk) for chunk in chunks[:-1]} == {24000}
    assert len(chunks[-1]) % 2 == 0
    assert is_speech(np.frombuffer(b"".join(chunks), "<i2"))


# RealtimeTTS -------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["mp3", "pcm"])
def test_realtimetts_sends_instructions_of_null(base: str, format: Any) -> None:
    params = {"model": "tts-1", "voice": "nova", "input": TEXT, "instructions": None}
    with openai.OpenAI(base_url=base, api_key="any") as client:
        answer = client.audio.speech.create(**params, response_format=format)  # type: ignore[arg-type]
        audio = b"".join(answer.iter_bytes())
    assert is_speech(decode(audio, format))


# Home Assistant ----------------------------------------------------------------------


def test_wyoming_openai_parses_the_first_chunk_of_three_at_once(base: str) -> None:
    def say(text: str) -> tuple[int, int, int, bytes]:
        with (
            openai.OpenAI(base_url=base, api_key="any") as client,
            client.audio.speech.with_streaming_response.create(
                model="tts-1", voice="echo", input=text, response_format="wav", speed=0.9
            ) as answer,
        ):
            chunks = answer.iter_bytes(chunk_size=2048)
            first = io.BytesIO(next(chunks))
            with wave.open(first, "rb") as header:
                facts = header.getframerate(), header.getnchannels(), header.getsampwidth()
                audio = first.read() + b"".join(chunks)
            return *facts, audio

    texts = ["The first sentence is here.", "The second one is here.", "The third one is here."]
    with ThreadPoolExecutor(3) as pool:
        for rate_hz, channels, width, audio in pool.map(say, texts):
            assert (rate_hz, channels, width) == (24000, 1, 2)
            assert np.abs(np.frombuffer(audio, "<i2").astype(int)).max() > 1000


def test_wyoming_openai_takes_us_for_openai_itself(base: str) -> None:
    # It looks for other servers by these answers, and reads their lists in other shapes.
    assert httpx.get(f"{base}/test").status_code == 404
    assert httpx.get(f"{base}/readyz").status_code == 404
    assert httpx.get(f"{base}/../../health").text != "OK"


def openai_tts(base: str, **more: Any) -> urllib.request.Request:
    payload = {"model": "tts-1", "input": TEXT, "voice": "onyx", "speed": 1.25, **more}
    headers = {"Content-Type": "application/json", "User-Agent": "HomeAssistant-OpenAI-TTS"}
    data = json.dumps(payload).encode()
    return urllib.request.Request(f"{base}/audio/speech", data, headers, method="POST")


@pytest.mark.parametrize(("format", "chunk_bytes"), [("mp3", 8192), ("opus", 4096), ("wav", 8192)])
def test_openai_tts_merges_a_payload_of_its_users(base: str, format: str, chunk_bytes: int) -> None:
    extra = {"voice_attributes": {"emotion": "happy"}, "seed": 4, "chunk_size": 100, "stream": True}
    request = openai_tts(base, response_format=format, **extra)
    with urllib.request.urlopen(request, timeout=30) as answer:
        audio = b"".join(iter(lambda: answer.read(chunk_bytes), b""))
    assert answer.headers["x-seed"] == "4"
    assert is_speech(decode(audio, format), 48000 if format == "opus" else 24000)


def test_openai_tts_gives_its_key(locked: Server) -> None:
    request = openai_tts(f"{locked.base_url}/v1", response_format="wav")
    request.add_header("Authorization", f"Bearer {KEY}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert is_speech(decode(answer.read(), "wav"))
