"""The contract: routes, defaults, headers, and the two clients that BentoML brings."""

import gc
import io
import time
import wave
from collections.abc import Iterator
from typing import Any

import bentoml
import httpx
import numpy as np
import openapi_spec_validator
import pytest
import requests
from tests.conftest import Server

TEXT = "Привет, мир! Это проверка."


@pytest.fixture
def collects_clients() -> Iterator[None]:
    """Collect bentoml's clients before the next test: their warnings would be counted as its own.

    bentoml 1.4.39 makes a temporary folder for every client and leaves it to the collector.
    """
    yield
    gc.collect()


_client_leaves_its_folder = pytest.mark.filterwarnings(
    "ignore:Implicitly cleaning up:ResourceWarning",
    "ignore:Exception ignored in. <finalize object:pytest.PytestUnraisableExceptionWarning",
)


def test_the_streaming_example_saves_a_wav_that_plays(server: Server) -> None:
    response = requests.post(
        f"{server.base_url}/stream-tts",
        json={
            "text": "Привет, мир!",
            "voice_attributes": {"gender": "female", "age": 25, "emotion": "happy"},
        },
        stream=True,
        timeout=60,
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "audio/wav"
    saved = b"".join(response.iter_content(chunk_size=8192))
    with wave.open(io.BytesIO(saved)) as audio:
        assert (audio.getframerate(), audio.getnchannels(), audio.getsampwidth()) == (24000, 1, 2)
        samples = np.frombuffer(audio.readframes(10**7), "<i2")
    assert 0.5 < len(samples) / 24000 < 10
    assert np.abs(samples).max() > 1000


def test_the_file_example_is_a_wav_with_exact_sizes(server: Server) -> None:
    response = httpx.post(
        f"{server.base_url}/tts",
        json={
            "text": "Привет, мир!",
            "format": "wav",
            "voice_attributes": {"gender": "male", "age": 30, "emotion": "neutral"},
        },
    )
    assert response.status_code == 200
    with wave.open(io.BytesIO(response.content)) as audio:
        assert len(response.content) == 44 + 2 * audio.getnframes()
        seconds = audio.getnframes() / 24000
    assert float(response.headers["x-audio-seconds"]) == pytest.approx(seconds, abs=1e-3)
    assert response.headers["x-finish-reason"] == "stop"
    assert response.headers["content-length"] == str(len(response.content))


def log_line(server: Any, words: str) -> str:
    """The line with these words; it is written when the answer has been sent, so wait for it."""
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        for line in server.log.read_text().splitlines():
            if words in line:
                return str(line)
        time.sleep(0.02)
    pytest.fail(f"no line has {words!r}")


@pytest.mark.parametrize("route", ["/tts", "/stream-tts"])
def test_an_answer_names_the_voice_and_the_attributes_applied(server: Server, route: str) -> None:
    response = httpx.post(
        server.base_url + route,
        json={"text": TEXT, "voice_attributes": {"gender": "female", "age": 70}, "instruct": "x"},
        headers={"X-Request-Id": "headers-1", "Accept": "*/*"},
    )
    headers = response.headers
    assert headers["x-request-id"] == "headers-1"
    assert headers["x-model"] == "espeak-ng"
    assert headers["x-language"] == "russian"
    assert headers["x-voice"]
    assert 0 <= int(headers["x-seed"]) < 2**32
    assert {"gender", "age"} <= set(headers["x-voice-applied"].split(", "))
    assert headers["x-voice-not-applied"].startswith("instruct: ")
    line = log_line(server, f"{route} id=headers-1")
    assert "outcome=ok" in line
    assert "Привет" not in server.log.read_text()


@pytest.mark.parametrize("route", ["/tts", "/stream-tts"])
def test_a_given_seed_is_kept_and_a_missing_one_is_drawn(server: Server, route: str) -> None:
    url = server.base_url + route
    given = httpx.post(url, json={"text": TEXT, "seed": 7})
    drawn = {httpx.post(url, json={"text": "да"}).headers["x-seed"] for _ in range(4)}
    assert given.headers["x-seed"] == "7"
    assert len(drawn) > 1


@pytest.mark.parametrize("route", ["/tts", "/stream-tts"])
def test_max_length_ends_the_speech_cleanly_after_so_many_frames(
    server: Server, route: str
) -> None:
    response = httpx.post(
        server.base_url + route, json={"text": TEXT * 5, "max_length": 10, "format": "pcm"}
    )
    assert response.status_code == 200
    assert len(response.content) / 2 / 24000 == pytest.approx(0.8, abs=0.01)


def test_the_defaults_are_the_documented_ones(server: Server) -> None:
    schemas = httpx.get(f"{server.base_url}/docs.json").json()["components"]["schemas"]
    fields = schemas["StreamTTSInput"]["properties"]
    assert fields["temperature"]["default"] == 0.7
    assert (fields["temperature"]["minimum"], fields["temperature"]["maximum"]) == (0, 2)
    assert fields["max_length"]["default"] == 1000
    assert (fields["max_length"]["minimum"], fields["max_length"]["maximum"]) == (1, 4096)
    assert fields["format"]["default"] == "wav"


def test_swagger_shows_both_routes_with_examples_that_work(server: Server) -> None:
    spec = httpx.get(f"{server.base_url}/docs.json").json()
    for route, model in (("/tts", "TTSInput"), ("/stream-tts", "StreamTTSInput")):
        content = spec["paths"][route]["post"]["requestBody"]["content"]
        assert content["application/json"]["schema"]["title"] == model
        assert "audio/*" in spec["paths"][route]["post"]["responses"]["200"]["content"]
        example = spec["components"]["schemas"][model]["example"]
        assert httpx.post(server.base_url + route, json=example).status_code == 200


def test_the_documentation_is_valid_openapi_and_every_reference_leads_somewhere(
    server: Server,
) -> None:
    spec = httpx.get(f"{server.base_url}/docs.json").json()

    def check(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                target: Any = spec
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for child in node.values():
                check(child)
        elif isinstance(node, list):
            for child in node:
                check(child)

    check(spec)
    openapi_spec_validator.validate(spec)


def test_the_swagger_page_may_load_nothing_from_elsewhere(server: Server) -> None:
    response = httpx.get(f"{server.base_url}/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy
    assert "//" not in response.text.replace("<!DOCTYPE html>", "")


@pytest.mark.usefixtures("collects_clients")
@_client_leaves_its_folder
def test_bentomls_clients_call_both_routes(server: Server) -> None:
    whole = httpx.post(f"{server.base_url}/tts", json={"text": TEXT, "seed": 1}).content
    with bentoml.SyncHTTPClient(server.base_url) as client:
        assert bytes(client.tts(text=TEXT, seed=1)) == whole
        parts = list(client.stream_tts(text=TEXT, seed=1, format="pcm"))
    assert b"".join(parts) == whole[44:]


@pytest.mark.usefixtures("collects_clients")
@_client_leaves_its_folder
async def test_bentomls_async_client_calls_both_routes(server: Server) -> None:
    async with bentoml.AsyncHTTPClient(server.base_url) as client:
        whole = bytes(await client.tts(text=TEXT, format="pcm"))
        stream = [part async for part in client.stream_tts(text=TEXT, format="pcm")]
    assert whole == b"".join(stream)
    assert len(whole) > 24000


def test_health_names_version_model_device_and_slots(server: Server) -> None:
    state = httpx.get(f"{server.base_url}/health").json()
    assert state["ready"] is True
    assert state["status"] == "ready"
    assert (state["model"], state["device"]) == ("espeak-ng", "cpu")
    assert state["slots"] == {"total": 10, "active": 0, "queued": 0, "queue_limit": 20}
    assert state["version"]


def test_metrics_count_requests_and_first_audio(server: Server) -> None:
    httpx.post(f"{server.base_url}/stream-tts", json={"text": TEXT, "format": "mp3"})
    text = httpx.get(f"{server.base_url}/metrics").text
    assert 'tts_requests_total{outcome="ok",route="/stream-tts"}' in text
    assert 'tts_first_audio_seconds_count{format="mp3",route="/stream-tts"}' in text
    for name in ("tts_audio_seconds_total", "tts_real_time_factor_count", "tts_memory_bytes"):
        assert f"\n{name}" in text
    assert "tts_slots 10.0" in text
