"""Cloned voices over real HTTP: kept, spoken with on every route, deleted, and sent inline."""

import base64
import io
import json
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
from websockets.sync.client import connect

REFERENCE = Path(__file__).parent.parent / "data" / "voices" / "references" / "ref_a.flac"
DATA = REFERENCE.read_bytes()
OTHER = (REFERENCE.parent / "ref_b.flac").read_bytes()
SAID = "hello the wide world"
PATH = "/v1/audio/voices"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cloning")
    write_quick_checkpoint(folder / "models" / "base", "tiny_base_1b7")
    return folder


def settings_in(folder: Path) -> dict[str, str]:
    return {
        "MODEL_NAME": "base",
        "MODEL_PATH": str(folder / "models"),
        "DEVICE": "cpu",
        "VOICES_PATH": str(folder / "voices"),
        "VOICE_CLONING": "1",
        "MAX_VOICES": "3",
        "MAX_VOICE_BYTES": "500000",
    }


@pytest.fixture(scope="module")
def base(start_server: StartServer, folder: Path) -> Iterator[Server]:
    with start_server(**settings_in(folder)) as server:
        yield server


@pytest.fixture
def anna(base: Server) -> Iterator[str]:
    """A kept voice with its transcript."""
    assert keep(base, "Anna", ref_text=SAID).status_code == 200
    yield "Anna"
    httpx.delete(f"{base.base_url}{PATH}/Anna")


def keep(
    server: Server, name: str, data: bytes = DATA, field: str = "audio_sample", **form: str
) -> httpx.Response:
    files = {field: ("clip.flac", data, "audio/flac")}
    form = {"name": name, **form}
    return httpx.post(server.base_url + PATH, data=form, files=files, timeout=60)


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return dict(response.json()["error"])


def data_url(data: bytes) -> str:
    return "data:audio/flac;base64," + base64.b64encode(data).decode()


def alike(one: Any, other: Any) -> bool:
    return len(one) == len(other) > 0 and bool(np.abs(one - other).max() <= 1)


def socket_speech(server: Server, **config: Any) -> tuple[dict[str, Any], Any]:
    """The first event of a session, and the samples of a sentence in it."""
    url = server.base_url.replace("http", "ws") + "/v1/audio/speech/stream"
    config = {"split": "sentence", "seed": 5, "max_length": 12, "format": "pcm", **config}
    with connect(url, max_size=None) as socket:
        socket.send(json.dumps({"type": "session.config", **config}))
        ready = json.loads(socket.recv())
        audio = b""
        for event in ({"type": "input.text", "text": TEXT}, {"type": "input.done"}):
            socket.send(json.dumps(event))
        while ready["type"] == "session.ready":
            message = socket.recv()
            if isinstance(message, bytes):
                audio += message
            elif json.loads(message)["type"] in ("session.done", "error"):
                break
    return ready, np.frombuffer(audio, "<i2").astype(int)


def test_a_kept_voice_is_described_and_listed(base: Server, anna: str, folder: Path) -> None:
    voices = httpx.get(base.base_url + PATH).json()["voices"]
    (voice,) = voices
    assert {k: voice[k] for k in ("id", "name", "speaker", "model")} == {
        "id": anna,
        "name": anna,
        "speaker": anna,
        "model": "base",
    }
    assert voice["has_transcript"] is True
    assert voice["has_recording"] is True
    assert (voice["audio_seconds"], voice["tail_seconds"]) == (2.03, 0.5)
    assert httpx.get(base.base_url + "/health").json()["speakers"] == [anna]
    assert (folder / "voices" / "anna" / "recording.flac").read_bytes() == DATA


def test_a_kept_voice_speaks_alike_on_every_route(base: Server, anna: str) -> None:
    whole = speak(base, speaker=anna)
    assert whole.headers["x-voice"] == anna
    stream = speak(base, "/stream-tts", speaker="ANNA")
    assert alike(samples(stream), samples(whole))
    openai = {"input": TEXT, "voice": anna, "response_format": "pcm", "seed": 5, "max_length": 12}
    said = httpx.post(base.base_url + "/v1/audio/speech", json=openai, timeout=60)
    assert alike(samples(said), samples(whole))
    ready, heard = socket_speech(base, voice=anna)
    assert ready["voice"] == anna
    assert alike(heard, samples(whole))
    assert alike(samples(speak(base, text=f"[voice:{anna}]{TEXT}", speaker=anna)), samples(whole))


def test_an_inline_recording_speaks_like_the_voice_kept_from_it(base: Server, anna: str) -> None:
    kept = samples(speak(base, speaker=anna))
    inline = {"ref_audio": data_url(DATA), "ref_text": SAID}
    whole = speak(base, **inline)
    assert whole.headers["x-voice"] == "cloned"
    assert "ref_" not in whole.headers.get("x-warning", "")
    assert alike(samples(whole), kept)
    assert alike(samples(speak(base, "/stream-tts", **inline)), kept)
    openai = {"input": TEXT, "voice": "alloy", "response_format": "pcm", "seed": 5, **inline}
    said = httpx.post(
        base.base_url + "/v1/audio/speech", json={**openai, "max_length": 12}, timeout=60
    )
    assert alike(samples(said), kept)
    assert "not of the speaker" in said.headers["x-warning"]
    ready, heard = socket_speech(base, **inline)
    assert ready["voice"] == "cloned"
    assert alike(heard, kept)
    bare = speak(base, ref_audio=base64.b64encode(DATA).decode(), ref_text=SAID)
    assert alike(samples(bare), kept)


def test_the_transcript_and_the_recording_make_the_voice(base: Server, anna: str) -> None:
    kept = samples(speak(base, speaker=anna))
    by_sound = samples(speak(base, ref_audio=data_url(DATA)))
    other = samples(speak(base, ref_audio=data_url(OTHER), ref_text=SAID))
    assert not alike(by_sound, kept)
    assert not alike(other, kept)


def test_a_transcript_that_cannot_be_all_is_warned_of(base: Server) -> None:
    inline = speak(base, ref_audio=data_url(DATA), ref_text="hello")
    assert "may not end" in inline.headers["x-warning"]
    kept = keep(base, "short", ref_text="hello", consent="I agree.", description="calm")
    assert "may not end" in kept.json()["warning"]
    assert kept.json()["description"] == "calm"
    assert httpx.delete(f"{base.base_url}{PATH}/short").json()["deleted"] is True


def test_only_the_numbers_are_kept_if_asked(base: Server, folder: Path) -> None:
    kept = keep(base, "numbers", field="file", keep_audio="false")
    assert (kept.json()["has_recording"], kept.json()["has_transcript"]) == (False, False)
    assert [f.name for f in (folder / "voices" / "numbers").iterdir()] == ["voice.json"]
    inline = samples(speak(base, ref_audio=data_url(DATA)))
    assert alike(samples(speak(base, speaker="numbers")), inline)
    httpx.delete(f"{base.base_url}{PATH}/numbers")


def test_a_deleted_voice_is_gone(base: Server, folder: Path) -> None:
    keep(base, "gone")
    gone = httpx.delete(f"{base.base_url}{PATH}/Gone", headers={"X-Request-Id": "away-1"})
    assert gone.json() == {"id": "gone", "object": "audio.voice.deleted", "deleted": True}
    assert error_of(speak(base, speaker="gone"), 400)["code"] == "unknown_speaker"
    assert not (folder / "voices" / "gone").exists()
    again = httpx.delete(f"{base.base_url}{PATH}/gone")
    assert error_of(again, 404)["code"] == "voice_not_found"
    lines = [line for line in base.log.read_text().splitlines() if "id=away-1" in line]
    assert len(lines) == 1
    assert "action=delete voice=gone" in lines[0]


def test_uploads_are_logged_by_name_and_nothing_of_them(base: Server, anna: str) -> None:
    (line,) = [
        line for line in base.log.read_text().splitlines() if "action=keep voice=Anna" in line
    ][-1:]
    assert "outcome=ok" in line
    assert SAID not in base.log.read_text()


@pytest.mark.parametrize(
    ("form", "data", "code", "says"),
    [
        ({"name": "../x"}, DATA, "invalid_request", "name must be"),
        ({"name": "Vivian"}, DATA, "invalid_request", "built-in"),
        ({"name": "alloy"}, DATA, "invalid_request", "built-in"),
        ({"name": "a"}, b"not audio", "invalid_recording", "not audio"),
        ({"name": "a", "colour": "red"}, DATA, "unknown_field", "colour"),
        ({"name": "a", "language": "klingon"}, DATA, "invalid_request", "language"),
        ({"name": "a", "keep_audio": "maybe"}, DATA, "invalid_request", "keep_audio"),
        ({"name": ""}, DATA, "invalid_request", "name"),
    ],
)
def test_a_wrong_form_is_refused(
    base: Server, form: dict[str, str], data: bytes, code: str, says: str
) -> None:
    error = error_of(keep(base, **form, data=data), 400)
    assert error["code"] == code
    assert says in error["message"]


def test_a_name_is_kept_once_and_so_many_voices_at_most(base: Server, anna: str) -> None:
    assert error_of(keep(base, "anna"), 400)["code"] == "voice_exists"
    for name in ("one", "two"):
        assert keep(base, name).status_code == 200
    full = error_of(keep(base, "three"), 400)
    assert full["code"] == "library_full"
    for name in ("one", "two"):
        assert httpx.delete(f"{base.base_url}{PATH}/{name}").status_code == 200


@pytest.mark.parametrize("field", ["audio_sample", "file"])
def test_a_recording_that_is_refused_is_named_as_it_was_sent(base: Server, field: str) -> None:
    sent = httpx.post(
        base.base_url + PATH, data={"name": "a"}, files={field: ("a.wav", b"not audio")}
    )
    error = error_of(sent, 400)
    assert (error["code"], error["param"]) == ("invalid_recording", field)


def test_what_is_no_form_with_a_file_is_refused(base: Server) -> None:
    url = base.base_url + PATH
    assert httpx.post(url, json={"name": "a"}).status_code == 415
    blank = httpx.post(url, data={"name": "a"}, files={"audio_sample": ("", b"")})
    assert error_of(blank, 400)["param"] == "audio_sample"
    form = {"name": (None, "a"), "audio_sample": (None, "http://127.0.0.1/clip.wav")}
    assert "never fetched" in error_of(httpx.post(url, files=form), 400)["message"]
    broken = httpx.post(
        url, content=b"--x\r\nno", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert error_of(broken, 400)["code"] == "invalid_request"
    nothing = httpx.post(url, content=b"", headers={"Content-Type": "multipart/form-data"})
    assert error_of(nothing, 400)["code"] == "invalid_request"


def test_a_description_is_answered_by_what_is_missing(base: Server) -> None:
    form = {"name": (None, "a"), "description": (None, "A calm, deep voice.")}
    error = error_of(httpx.post(base.base_url + PATH, files=form), 422)
    assert error["code"] == "design_not_supported"
    assert "1.7B-VoiceDesign" in error["message"]


def test_recordings_have_a_limit_of_bytes_of_their_own(base: Server) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(300_000, np.float32), 24000, format="WAV", subtype="FLOAT")
    large = file.getvalue()
    assert len(large) > 1_000_000
    error = error_of(keep(base, "large", data=large), 413)
    assert "MAX_VOICE_BYTES" in error["message"]
    assert error_of(speak(base, ref_audio=data_url(large[:600_000])), 413)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/clip.wav", "HTTPS://a.example/a", "file:///etc/passwd", "data:,a"]
)
def test_urls_are_never_fetched(base: Server, url: str) -> None:
    error = error_of(speak(base, ref_audio=url), 400)
    assert error["param"] == "ref_audio"
    assert "never fetched" in error["message"]


def test_a_wrong_inline_recording_is_refused(base: Server) -> None:
    assert "base64" in error_of(speak(base, ref_audio="data:audio/wav;base64,%%%"), 400)["message"]
    error = error_of(speak(base, ref_audio=data_url(b"no audio")), 400)
    assert (error["code"], error["param"]) == ("invalid_recording", "ref_audio")
    assert error_of(speak(base, ref_text=SAID), 400)["param"] == "ref_text"
    ready, _ = socket_speech(base, ref_audio=data_url(b"no audio"))
    assert ready["error"]["code"] == "invalid_recording"


def test_voices_outlive_the_server_and_keys_can_be_for_uploads_alone(
    base: Server, anna: str, start_server: StartServer, folder: Path
) -> None:
    kept = samples(speak(base, speaker=anna))
    own = settings_in(folder) | {"API_KEY": "all", "VOICES_API_KEY": "uploads"}
    with start_server(**own) as server:
        url = f"{server.base_url}{PATH}"
        assert [voice["id"] for voice in httpx.get(url).json()["voices"]] == [anna]
        for_all = {"Authorization": "Bearer all"}
        assert alike(samples(speak(server, speaker=anna, headers=for_all)), kept)
        own_key = {"Authorization": "Bearer uploads"}
        inline = {"ref_audio": data_url(DATA), "ref_text": SAID}
        refused = error_of(speak(server, headers=for_all, **inline), 401)
        assert (refused["param"], "VOICES_API_KEY" in refused["message"]) == ("ref_audio", True)
        assert alike(samples(speak(server, headers=own_key, **inline)), kept)
        assert socket_speech(server, api_key="uploads", **inline)[0]["type"] == "session.ready"
        for headers in ({}, for_all):
            assert error_of(httpx.delete(f"{url}/{anna}", headers=headers), 401)
            assert error_of(httpx.post(url, headers=headers), 401)
        assert httpx.delete(f"{url}/{anna}", headers=own_key).status_code == 200
    assert httpx.get(base.base_url + PATH).json() == {"voices": []}


def test_cloning_is_off_unless_switched_on(server: Server) -> None:
    for response in (
        keep(server, "anna"),
        httpx.delete(f"{server.base_url}{PATH}/anna"),
        speak(server, ref_audio=data_url(DATA)),
    ):
        error = error_of(response, 400)
        assert error["code"] == "cloning_off"
        assert "VOICE_CLONING=1" in error["message"]


def test_a_model_that_cannot_clone_names_those_that_can(
    start_server: StartServer, tmp_path: Path
) -> None:
    own = {"MODEL_NAME": "espeak-ng", "VOICE_CLONING": "1", "VOICES_PATH": str(tmp_path / "v")}
    with start_server(**own) as server:
        for response in (keep(server, "anna"), speak(server, ref_audio=data_url(DATA))):
            error = error_of(response, 422)
            assert error["code"] == "cloning_not_supported"
            assert "Qwen3-TTS-12Hz-0.6B-Base" in error["message"]
