"""Checkpoints that describe or clone their voices, behind the routes, over real HTTP."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tests.api.asking import TEXT, samples, speak
from tests.checkpoints import write_quick_checkpoint
from tests.conftest import Server, StartServer

DESCRIPTION = "A calm deep male voice."


def start(start_server: StartServer, folder: Any, kind: str) -> Any:
    write_quick_checkpoint(folder / kind, f"tiny_{kind}_1b7")
    return start_server(MODEL_NAME=kind, MODEL_PATH=str(folder), DEVICE="cpu")


@pytest.fixture(scope="module")
def design(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(start_server, tmp_path_factory.mktemp("models"), "design") as server:
        yield server


@pytest.fixture(scope="module")
def base(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(start_server, tmp_path_factory.mktemp("models"), "base") as server:
        yield server


def test_a_description_is_spoken_alike_on_every_route(design: Server) -> None:
    whole = speak(design, instruct=DESCRIPTION)
    stream = speak(design, "/stream-tts", instruct=DESCRIPTION)
    assert len(samples(whole)) == len(samples(stream)) > 0
    assert np.abs(samples(whole) - samples(stream)).max() <= 1
    assert whole.headers["x-voice"] == "designed"
    body = {"model": "design", "input": TEXT, "voice": "alloy", "instructions": DESCRIPTION}
    openai = httpx.post(
        design.base_url + "/v1/audio/speech",
        json=body | {"response_format": "pcm", "seed": 5, "max_length": 12},
        timeout=60,
    )
    assert np.abs(samples(openai) - samples(whole)).max() <= 1
    other = samples(speak(design, instruct="A bright young woman."))
    assert not np.array_equal(other, samples(whole))


def test_attributes_describe_the_voice(design: Server) -> None:
    wishes = {"gender": "male", "age": 60, "emotion": "sad"}
    described = speak(design, voice_attributes=wishes)
    assert described.headers["x-voice-applied"] == "gender, age, emotion"
    said = "The voice of an elderly man aged 60. Speak in a very sad, sorrowful tone."
    assert np.abs(samples(described) - samples(speak(design, instruct=said))).max() <= 1


def test_a_speaker_is_refused_with_a_reason(design: Server) -> None:
    response = speak(design, speaker="vivian")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unknown_speaker"
    assert "has no speakers" in response.json()["error"]["message"]
    voices = httpx.get(design.base_url + "/v1/audio/voices").json()["voices"]
    assert {voice["speaker"] for voice in voices} == {"designed"}


def test_a_model_that_clones_serves_and_says_that_it_needs_a_voice(base: Server) -> None:
    assert httpx.get(base.base_url + "/health").json()["speakers"] == []
    assert httpx.get(base.base_url + "/v1/audio/voices").json() == {"voices": []}
    response = speak(base)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "voice_required"
    assert speak(base, speaker="alloy").json()["error"]["code"] == "unknown_speaker"
