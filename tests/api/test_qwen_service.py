"""The Qwen voice behind the routes: a tiny checkpoint in the official layout, over real HTTP."""

import asyncio
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from tests.api import asking
from tests.api.asking import TEXT, samples
from tests.checkpoints import write_quick_checkpoint
from tests.conftest import Server, StartServer

FRAME_BYTES = 2 * 1920
WAIT_S = 20
"""The longest silence of a request: a broken engine fails its test by then."""
speak = partial(asking.speak, max_length=30, timeout_s=WAIT_S)


@pytest.fixture(scope="module")
def small(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The small model, which never ends by itself, with little room and the least cap."""
    directory = tmp_path_factory.mktemp("models") / "small"
    write_quick_checkpoint(directory, "tiny_0b6", never_ends=True)
    name = "Qwen3-TTS-12Hz-0.6B-CustomVoice"  # MODEL_PATH is the checkpoint itself
    limits = {"MAX_POSITIONS": "300", "RUNAWAY_FACTOR": "1"}
    with start_server(MODEL_NAME=name, MODEL_PATH=str(directory), **limits) as server:
        yield server


@pytest.fixture(scope="module")
def exact(start_server: StartServer, quick_checkpoint: Path) -> Iterator[Server]:
    """The deterministic mode with int8 weights, four slots and hardly a cap on speech."""
    model = {"MODEL_NAME": "quick", "MODEL_PATH": str(quick_checkpoint.parent)}
    exact = {"DETERMINISTIC": "1", "CPU_THREADS": "1", "CPU_WEIGHTS": "int8"}
    limits = {"MAX_CONCURRENT_REQUESTS": "4", "RUNAWAY_FACTOR": "100"}
    with start_server(**model, **exact, **limits) as server:
        yield server


def check_same(one: Any, other: Any) -> None:
    """The same speech: chunks follow the clock, and a float32 codec rounds by its chunks."""
    assert len(one) == len(other)
    assert np.abs(one - other).max() <= 1


def test_it_speaks_with_the_mapped_voice_and_reports_it(qwen: Server) -> None:
    response = speak(qwen, voice_attributes={"gender": "male", "age": 60, "emotion": "sad"})
    assert len(samples(response)) % 1920 == 0
    assert response.headers["x-model"] == "quick"
    assert response.headers["x-voice"] == "uncle_fu"
    assert response.headers["x-language"] == "english"
    assert response.headers["x-voice-applied"] == "gender, age, emotion"
    assert response.headers["x-finish-reason"] in ("stop", "length")


def test_an_emotion_changes_the_speech(qwen: Server) -> None:
    plain = samples(speak(qwen, speaker="vivian"))
    happy = samples(speak(qwen, speaker="vivian", voice_attributes={"emotion": "happy"}))
    assert len(plain) != len(happy) or not np.array_equal(plain, happy)


def test_the_small_model_reports_instructions_as_not_applied(small: Server) -> None:
    fields = {"voice_attributes": {"emotion": "happy"}, "instruct": "Whisper.", "speaker": "vivian"}
    response = speak(small, **fields)
    assert "emotion: " in response.headers["x-voice-not-applied"]
    assert "instruct: " in response.headers["x-voice-not-applied"]
    check_same(samples(response), samples(speak(small, speaker="vivian")))


@pytest.mark.parametrize("fields", [{}, {"temperature": 0}, {"temperature": 1.5, "top_p": 0.7}])
def test_the_stream_has_the_samples_of_the_file(qwen: Server, fields: dict[str, Any]) -> None:
    check_same(samples(speak(qwen, **fields)), samples(speak(qwen, "/stream-tts", **fields)))


def test_the_same_seed_gives_the_same_audio_whatever_else_is_spoken(qwen: Server) -> None:
    alone = samples(speak(qwen, seed=11))
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(speak, qwen, seed=seed) for seed in (1, 2, 11, 3, 4, 11, 5, 11)]
        crowd = [samples(done.result()) for done in asked]
    for index in (2, 5, 7):
        check_same(crowd[index], alone)
    assert len(crowd[0]) != len(alone) or not np.array_equal(crowd[0], alone)


def test_greedy_speech_does_not_depend_on_the_seed(qwen: Server) -> None:
    first, second = (samples(speak(qwen, temperature=0, seed=seed)) for seed in (1, 2))
    check_same(first, second)


def test_the_first_audio_leaves_after_one_frame(qwen: Server) -> None:
    body = {"text": TEXT, "format": "pcm", "seed": 5, "max_length": 30}
    url = qwen.base_url + "/stream-tts"
    with httpx.stream("POST", url, json=body, timeout=WAIT_S) as response:
        parts = response.iter_raw()
        first = next(parts)
        rest = b"".join(parts)
    assert len(first) <= 2 * FRAME_BYTES
    assert len(rest) > FRAME_BYTES


def test_max_length_counts_frames(qwen: Server) -> None:
    response = speak(qwen, max_length=7, text=TEXT * 4)
    assert len(samples(response)) == 7 * 1920
    assert response.headers["x-finish-reason"] == "length"
    assert "max_length" in response.headers["x-warning"]


@pytest.mark.parametrize("text", [TEXT, TEXT * 4, f"{TEXT} [pause:0.1s] {TEXT}"])
def test_speech_begins_and_ends_near_zero_even_where_it_is_cut(qwen: Server, text: str) -> None:
    heard = samples(speak(qwen, text=text, max_length=7))
    assert len(heard) <= 7 * 1920
    assert max(abs(heard[[0, -1]])) <= 33  # 60 dB below full scale
    assert abs(heard).max() > 330


def test_lead_in_and_tail_are_silence_around_the_same_speech(qwen: Server) -> None:
    bare = samples(speak(qwen))
    for route in ("/tts", "/stream-tts"):
        padded = samples(speak(qwen, route, lead_in_ms=250, tail_ms=100))
        check_same(padded[6000:-2400], bare)
        assert not padded[:6000].any()
        assert not padded[-2400:].any()


def test_tokens_of_a_text_give_the_audio_of_the_text(qwen: Server, quick_checkpoint: Path) -> None:
    from qwen_tts_service.model.config import load_config
    from qwen_tts_service.model.tokenizer import Tokenizer

    ids = Tokenizer(quick_checkpoint, load_config(quick_checkpoint)).encode(TEXT)[3:-5]
    by_tokens = speak(qwen, text=None, tokens=ids, language="english", speaker="ryan")
    by_text = speak(qwen, language="english", speaker="ryan")
    check_same(samples(by_tokens), samples(by_text))


@pytest.mark.parametrize("token", [274, 277, 511, 10**6])
def test_a_control_token_is_refused(qwen: Server, token: int) -> None:
    response = speak(qwen, text=None, tokens=[5, token])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tokens"


def test_control_strings_in_a_text_are_only_text(qwen: Server) -> None:
    assert len(samples(speak(qwen, text="a<|im_end|>b"))) > 0


def test_an_unknown_speaker_names_the_known_ones(qwen: Server) -> None:
    response = speak(qwen, speaker="nobody")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "speaker"
    assert "uncle_fu" in error["message"]


def test_a_text_that_cannot_fit_a_slot_is_refused(small: Server) -> None:
    response = speak(small, text="word " * 100, max_length=4000)
    assert response.status_code == 400
    assert "MAX_POSITIONS" in response.json()["error"]["message"]
    assert len(samples(speak(small, max_length=20))) > 0


def test_a_runaway_file_is_a_422_and_a_runaway_stream_breaks(small: Server) -> None:
    body = {"text": "hi", "seed": 4, "max_length": 4000, "top_k": 10}
    whole = httpx.post(f"{small.base_url}/tts", json=body, timeout=WAIT_S)
    assert whole.status_code == 422
    assert whole.json()["error"]["code"] == "runaway"
    with (
        httpx.stream("POST", f"{small.base_url}/stream-tts", json=body, timeout=WAIT_S) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        response.read()


async def test_a_client_that_leaves_frees_the_engines_slot(exact: Server) -> None:
    async def leave(url: str) -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            body = {"text": TEXT * 20, "max_length": 4000}
            async with client.stream("POST", f"{url}/stream-tts", json=body) as response:
                await anext(response.aiter_raw())

    for _ in range(5):  # one more than there are slots
        await leave(exact.base_url)
    assert len(samples(speak(exact, max_length=5, seed=11))) == 5 * 1920


def test_compressed_streams_are_whole(qwen: Server) -> None:
    body = {"text": TEXT, "seed": 5, "max_length": 30}
    expected = len(samples(speak(qwen))) / 24000
    for format in ("mp3", "ogg", "flac"):
        answer = httpx.post(f"{qwen.base_url}/stream-tts", json={**body, "format": format})
        with av.open(io.BytesIO(answer.content)) as container:
            heard = sum(f.samples / f.sample_rate for f in container.decode(audio=0))
        assert heard == pytest.approx(expected, abs=0.15)


def test_the_deterministic_mode_repeats_to_the_bit_whatever_else_is_spoken(exact: Server) -> None:
    alone = samples(speak(exact, seed=11))
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(speak, exact, "/stream-tts", seed=s) for s in (1, 11, 2, 11)]
        crowd = [samples(done.result()) for done in asked]
    assert np.array_equal(crowd[1], alone)
    assert np.array_equal(crowd[3], alone)


@pytest.mark.parametrize("speed", [0.5, 1.5])
def test_a_stretched_stream_has_the_samples_of_the_file(exact: Server, speed: float) -> None:
    usual = samples(speak(exact, max_length=60))
    whole = samples(speak(exact, speed=speed))
    assert np.array_equal(whole, samples(speak(exact, "/stream-tts", speed=speed)))
    assert len(whole) == min(round(len(usual) / speed), 30 * 1920)


def test_the_loudness_of_a_speaker_is_kept_beside_the_weights(quick_checkpoint: Path) -> None:
    from qwen_tts_service.build import build
    from qwen_tts_service.settings import load_settings
    from qwen_tts_service.types import SpeechRequest

    model = {"MODEL_NAME": "quick", "MODEL_PATH": str(quick_checkpoint.parent)}
    settings = load_settings({**model, "CPU_THREADS": "1", "LOUDNESS_LUFS": "-30"})
    synthesizer = build(settings, lambda _step, _fraction: None, 0)
    request = SpeechRequest(request_id="t", seed=5, text=TEXT, speaker="ryan", max_frames=12)
    with closing(synthesizer):
        asyncio.run(synthesizer.speak_whole(request, "pcm"))
    ((key, lufs),) = json.loads((quick_checkpoint / "loudness.json").read_text()).items()
    assert key.startswith("quick/ryan/")
    assert -70 < lufs < 0


def test_more_positions_than_the_model_has_are_refused(quick_checkpoint: Path) -> None:
    from qwen_tts_service.build import build
    from qwen_tts_service.errors import StartupError
    from qwen_tts_service.settings import load_settings

    model = {"MODEL_NAME": "quick", "MODEL_PATH": str(quick_checkpoint.parent)}
    settings = load_settings({**model, "MAX_POSITIONS": "32769"})
    with pytest.raises(StartupError, match=r"MAX_POSITIONS=32769 .* 32768 at most"):
        build(settings, lambda _step, _fraction: None, 0)
