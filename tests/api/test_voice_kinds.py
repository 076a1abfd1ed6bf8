"""Checkpoints that describe or clone their voices, behind the routes, over real HTTP."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from tests.api.asking import TEXT, samples, speak
from tests.checkpoints import write_quick_checkpoint
from tests.conftest import Server, StartServer

DESCRIPTION = "A calm deep male voice."


PATH = "/v1/audio/voices"


def start(start_server: StartServer, folder: Any, kind: str, **settings: str) -> Any:
    write_quick_checkpoint(folder / kind, f"tiny_{kind}_1b7")
    own = {"MODEL_NAME": kind, "MODEL_PATH": str(folder), "VOICES_PATH": str(folder / "voices")}
    return start_server(DEVICE="cpu", **own, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and kept voices of all servers here."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def design(start_server: StartServer, folder: Path) -> Iterator[Server]:
    with start(start_server, folder, "design", VOICE_CLONING="1") as server:
        yield server


@pytest.fixture(scope="module")
def base(start_server: StartServer, folder: Path) -> Iterator[Server]:
    with start(start_server, folder, "base") as server:
        yield server


def keep(server: Server, **form: str) -> httpx.Response:
    files = {name: (None, value) for name, value in form.items()}
    return httpx.post(server.base_url + PATH, files=files, timeout=60)


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


def test_a_designed_voice_is_kept_as_it_was_heard_and_a_base_model_speaks_with_it(
    design: Server, base: Server, folder: Path
) -> None:
    clip = {"ref_text": "hello the world", "language": "english", "seed": "5"}
    kept = keep(design, name="deep", description=DESCRIPTION, consent="Nobody's.", **clip)
    assert kept.status_code == 200, kept.text
    voice = kept.json()
    assert (voice["type"], voice["description"], voice["has_transcript"]) == (
        "prompt",
        DESCRIPTION,
        True,
    )
    assert "Base model" in voice["warning"]
    recording = (folder / "voices" / "deep" / "recording.wav").read_bytes()
    heard = {"text": clip["ref_text"], "instruct": DESCRIPTION, "language": "english", "seed": 5}
    whole = httpx.post(design.base_url + "/tts", json=heard, timeout=60)
    one, other = (
        soundfile.read(io.BytesIO(file), dtype="int16")[0].astype(int)
        for file in (whole.content, recording)
    )
    assert len(one) == len(other) > 24000
    assert np.abs(one - other).max() <= 1
    named = speak(base, speaker="deep")
    assert named.headers["x-voice"] == "deep"
    with_recording = {"speaker": None, "ref_text": clip["ref_text"]}
    with_recording["ref_audio"] = base64.b64encode(recording).decode()
    assert speak(base, **with_recording).json()["error"]["code"] == "cloning_off"
    (listed,) = httpx.get(base.base_url + PATH).json()["voices"]
    assert (listed["id"], listed["description"], listed["warning"]) == ("deep", DESCRIPTION, None)
    assert httpx.delete(f"{design.base_url}{PATH}/deep").status_code == 200
    assert speak(base, speaker="deep").json()["error"]["code"] == "unknown_speaker"


def test_what_no_voice_can_be_designed_from_is_refused(design: Server) -> None:
    form = {"name": "x", "description": DESCRIPTION, "ref_text": "hello the world", "seed": "5"}
    for change, status, param in (
        ({"keep_audio": "false"}, 400, "keep_audio"),
        ({"type": "audio_sample"}, 400, "audio_sample"),
        ({"seed": "-1"}, 400, "seed"),
        ({"seed": "five"}, 400, "seed"),
        ({"temperature": "3"}, 400, "temperature"),
        ({"ref_text": "..."}, 422, "ref_text"),
        ({"ref_text": "hello [pause:1s] the world"}, 400, "ref_text"),
    ):
        refused = keep(design, **form | change)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), change
    assert httpx.delete(f"{design.base_url}{PATH}/x").status_code == 404
