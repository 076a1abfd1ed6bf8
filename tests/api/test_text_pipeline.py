"""Pauses, normalisation and parts through both routes of a real server."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.api.asking import samples
from tests.conftest import Server, StartServer

from qwen_tts_service.build import build
from qwen_tts_service.settings import load_settings
from qwen_tts_service.speech.parts import split_request
from qwen_tts_service.text.segments import Pause
from qwen_tts_service.types import SpeechRequest

from .test_waiting import is_idle, metric, wait_for

ROUTES = ("/tts", "/stream-tts")
FRAME_BYTES = 2 * 1920


def ask(server: Any, route: str = "/tts", **fields: Any) -> httpx.Response:
    body = {"seed": 3, "format": "pcm", **fields}
    return httpx.post(server.base_url + route, json=body, timeout=60)


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "Раз [pause:0.7s] два. [pause:300ms]"},
        {"text": "[pause:1s] **Раз**, два 😀, _три_."},
        {"text": "Сегодня 23 ноября, 5 яблок.", "normalize": "full"},
        {"text": "Раз [pause:0.4s] два три четыре", "max_length": 12},
    ],
)
def test_the_stream_has_the_samples_of_the_file(server: Server, fields: dict[str, Any]) -> None:
    whole, stream = (samples(ask(server, route, **fields)) for route in ROUTES)
    assert np.array_equal(whole, stream)


def test_a_pause_lasts_as_long_as_written(server: Server) -> None:
    alone = [samples(ask(server, text=text)) for text in ("Раз.", "Два.")]
    both = samples(ask(server, text="Раз. [pause:1.5s] Два."))
    # Resampling from 22,050 Hz rounds once for each answer.
    assert len(both) == pytest.approx(sum(map(len, alone)) + 36000, abs=3)
    assert not both[len(alone[0]) + 100 : len(alone[0]) + 35900].any()


def test_pauses_count_against_max_length(server: Server) -> None:
    response = ask(server, text="Да[pause:10s]" * 50 + "нет", max_length=100)
    assert len(samples(response)) == 100 * 1920
    assert response.headers["x-finish-reason"] == "length"
    assert "max_length" in response.headers["x-warning"]


def test_marks_and_pictures_are_not_spoken_unless_asked_for(server: Server) -> None:
    plain = samples(ask(server, text="Раз, два."))
    assert np.array_equal(samples(ask(server, text="**Раз**, `два` 😀.")), plain)
    raw = samples(ask(server, text="**Раз**, `два` 😀.", normalize="none"))
    assert len(raw) != len(plain)


def test_full_reads_russian_numbers_out(server: Server) -> None:
    words = samples(ask(server, text="Пришло двадцать одно яблоко."))
    full = ask(server, text="Пришло 21 яблоко.", normalize="full")
    assert np.array_equal(samples(full), words)
    assert "x-warning" not in full.headers


def test_full_warns_when_a_language_has_no_full_rules(server: Server) -> None:
    response = ask(server, "/stream-tts", text="It is 5 past 3.", normalize="full")
    assert "english" in response.headers["x-warning"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("text", ["😀", "[pause:2s]", "… [pause:1s] !"])
def test_a_text_with_nothing_to_speak_is_a_422(server: Server, route: str, text: str) -> None:
    response = ask(server, route, text=text)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "no_reading"
    assert response.json()["error"]["param"] == "text"
    silent = ask(server, route, text=text, language="russian", on_unspeakable="silence")
    assert not samples(silent).any()
    assert len(samples(silent)) == 4800 + 24000 * text.count("1s") + 48000 * text.count("2s")
    assert silent.headers["x-language"] == "russian"
    assert "0.2 s of silence" in silent.headers["x-warning"]


def test_an_unknown_level_is_a_400(server: Server) -> None:
    response = ask(server, text="Раз.", normalize="heavy")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "normalize"


@pytest.mark.parametrize("route", ROUTES)
def test_a_text_whose_last_part_is_refused_sends_no_audio(server: Server, route: str) -> None:
    response = ask(server, route, text="Привет. [pause:1s] שלום", language="russian")
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "text"


def test_a_failure_in_a_later_part_breaks_the_stream(slow: Server) -> None:
    body = {"text": "3 [pause:0.4s] 2 fail", "format": "pcm"}
    with httpx.stream("POST", slow.base_url + "/stream-tts", json=body) as response:
        assert response.status_code == 200
        heard: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            heard.extend(response.iter_raw())
    held_bytes = 2 * 240  # 5 ms of the part and of the whole, which are faded out at their ends
    assert sum(map(len, heard)) == (3 + 5 + 2) * FRAME_BYTES - held_bytes
    assert ask(slow, text="3 [pause:0.4s] fail").status_code == 500


def test_a_runaway_in_a_later_part_is_the_runaway_of_the_whole(slow: Server) -> None:
    response = ask(slow, text="3 [pause:0.4s] 2 runaway")
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "runaway"


def test_a_first_part_that_fails_behind_a_pause_has_its_status(slow: Server) -> None:
    assert ask(slow, "/stream-tts", text="[pause:5s] fail").status_code == 500


def test_a_client_that_leaves_in_a_later_part_frees_its_slot(slow: Server) -> None:
    wait_for(lambda: is_idle(slow))
    with socket.create_connection(("127.0.0.1", slow.port)) as client:
        data = b'{"text": "1 [pause:1s] 2000", "format": "pcm"}'
        head = b"POST /stream-tts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        heard = 0
        while heard < 24000 * 2 + 4 * FRAME_BYTES:  # into the second part
            heard += len(client.recv(65536))
        assert metric(slow, "tts_active_requests") == 1
    wait_for(lambda: is_idle(slow), 2)


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Any]:
    data = Path(__file__).parents[1] / "data"
    settings = load_settings({"MODEL_NAME": "tiny_1b7", "MODEL_PATH": str(data), "DEVICE": "cpu"})
    synthesizer = build(settings, lambda _step, _fraction: None, worker=0)
    yield synthesizer
    synthesizer.close()


async def test_a_checkpoint_speaks_a_part_after_a_pause_as_it_speaks_it_alone(
    checkpoint: Any,
) -> None:
    async def hear(text: str, max_frames: int) -> Any:
        request = SpeechRequest(request_id="r", seed=5, text=text, max_frames=max_frames)
        data, _ = await checkpoint.speak_whole(request, "pcm")
        return np.frombuffer(data, "<i2").astype(int)

    alone = await hear("hello the world", 15)
    behind = await hear("[pause:0.4s] hello the world", 20)
    assert len(behind) == 20 * 1920
    assert not behind[: 5 * 1920].any()
    # A codec in float32 is exact to a rounding whatever the chunking: one int16 step.
    assert np.abs(behind[5 * 1920 :] - alone).max() <= 1


def test_a_text_too_long_for_one_part_is_parts_to_a_checkpoint(checkpoint: Any) -> None:
    text = "hello the world. " * 60
    request = SpeechRequest(request_id="r", seed=5, text=text, language="english")
    text_parts = split_request(request, checkpoint.voice.longest_part_chars)
    assert [type(part) for part in text_parts.parts] == [SpeechRequest, Pause, SpeechRequest]
    first, _, second = text_parts.parts
    jobs = [checkpoint.voice.prepare(part).job for part in (first, second)]
    assert jobs[0].speaker == jobs[1].speaker
    assert jobs[0].seed == jobs[1].seed == 5


# Pronunciations ----------------------------------------------------------------------

WORDS = {"GPU": "джи пи ю", "нижний новгород": "Нижний"}
TEXT = "Моя **GPU**, нижний\nНовгород и gpu."
READ = "Моя **джи пи ю**, Нижний и gpu."


@pytest.mark.parametrize("route", ROUTES)
def test_the_pronunciations_of_the_request_are_used(server: Server, route: str) -> None:
    response = ask(server, route, text=TEXT, language="ru", pronunciations=WORDS)
    expected = samples(ask(server, text=READ, language="ru"))
    assert np.array_equal(samples(response), expected)
    assert not np.array_equal(samples(ask(server, text=TEXT, language="ru")), expected)


def test_openais_route_takes_pronunciations(server: Server) -> None:
    asked = {"language": "ru", "response_format": "pcm", "pronunciations": WORDS}
    body = {"model": "tts-1", "voice": "alloy", "input": TEXT, **asked}
    answer = httpx.post(server.base_url + "/v1/audio/speech", json=body, timeout=60)
    expected = ask(server, text=READ, language="ru", speaker="alloy")
    assert np.array_equal(samples(answer), samples(expected))


def test_a_wrong_pronunciation_is_a_400(server: Server) -> None:
    response = ask(server, text="Раз.", pronunciations={"": "x"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "pronunciations"
    assert "the word is empty" in response.json()["error"]["message"]


def test_the_servers_words_are_read_again_when_their_file_changes(
    start_server: StartServer, tmp_path: Path
) -> None:
    lexicon = tmp_path / "lexicon.tsv"
    lexicon.write_text("GPU\tджи пи ю\n[en]\nGPU\tgraphics card\n", "utf-8")
    with start_server(LEXICON=str(lexicon)) as server:

        def is_read_as(text: str, reading: str, **fields: Any) -> bool:
            said = [samples(ask(server, text=word, **fields)) for word in (text, reading)]
            return np.array_equal(*said)

        assert is_read_as("Моя GPU.", "Моя джи пи ю.", language="ru")
        assert is_read_as("My GPU.", "My graphics card.", language="en")
        own = ask(server, text="Моя GPU.", language="ru", pronunciations={"GPU": "карта"})
        assert np.array_equal(samples(own), samples(ask(server, text="Моя карта.", language="ru")))
        lexicon.write_text("GPU\tвидеокарта\n", "utf-8")
        assert is_read_as("Моя GPU.", "Моя видеокарта.", language="ru")
        lexicon.write_text("broken", "utf-8")
        assert is_read_as("Моя GPU.", "Моя видеокарта.", language="ru")
        assert server.log.read_text().count("line 1: a word, a tab") == 1
