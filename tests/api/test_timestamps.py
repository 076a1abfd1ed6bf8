"""When sentences and words are heard, on every route: the same times and places on all of them."""

import base64
import json
from typing import Any

import httpx
import pytest
from tests.conftest import Server
from websockets.sync.client import connect

JSON, EVENTS = "application/json", "text/event-stream"
TEXT = "**Раз** &amp; два. [pause:0.5s] Стоит 5 %."
SENTENCES = ["**Раз** &amp; два.", "Стоит 5 %."]
WORDS = ["Раз", "&amp;", "два", "Стоит", "5 %"]
Stamp = dict[str, Any]


def ask(server: Server, route: str, accept: str | None, **fields: Any) -> httpx.Response:
    name = "input" if route.startswith("/v1") else "text"
    body = {name: TEXT, "seed": 1, "language": "ru", **fields}
    headers = {} if accept is None else {"Accept": accept}
    return httpx.post(server.base_url + route, json=body, headers=headers, timeout=60)


def of_file(server: Server, route: str, **fields: Any) -> list[Stamp]:
    answer = ask(server, route, JSON, **fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"audio", "format", "sample_rate", "timestamps"}
    assert (body["format"], body["sample_rate"]) == ("wav", 24000)
    assert base64.b64decode(body["audio"])[:4] == b"RIFF"
    assert body["timestamps"][-1]["end_s"] <= float(answer.headers["x-audio-seconds"])
    return list(body["timestamps"])


def of_events(server: Server, route: str, accept: str = EVENTS, **fields: Any) -> list[Stamp]:
    answer = ask(server, route, accept, **fields)
    assert answer.headers["content-type"].startswith(EVENTS), answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
    kinds = [event["type"] for event in events]
    assert (kinds[-1], set(kinds[:-1]) - {"speech.timestamp", "speech.sentence"}) == (
        "speech.audio.done",
        {"speech.audio.delta"},
    )
    return [event for event in events if event.pop("type") == "speech.timestamp"]


def of_socket(server: Server, text: str, **fields: Any) -> list[dict[str, Any]]:
    """The events about one utterance, sent letter by letter."""
    config = {"type": "session.config", "language": "ru", **fields}
    text_events = [{"type": "input.text", "text": letter} for letter in text]
    events: list[dict[str, Any]] = [{}]
    with connect(f"ws://127.0.0.1:{server.port}/v1/audio/speech/stream") as socket:
        for event in (config, *text_events, {"type": "input.done"}):
            socket.send(json.dumps(event))
        while events[-1].get("type") not in ("session.done", "error"):
            if isinstance(message := socket.recv(timeout=30), str):
                events.append(json.loads(message))
    return events[1:]


@pytest.mark.parametrize(("unit", "expected"), [("sentence", SENTENCES), ("word", WORDS)])
def test_every_route_tells_the_same_times(server: Server, unit: str, expected: list[str]) -> None:
    stamps = of_file(server, "/tts", timestamps=unit)
    assert [stamp["text"] for stamp in stamps] == expected
    assert [TEXT[s["start_char"] : s["end_char"]] for s in stamps] == expected
    assert all(set(s) == {"text", "start_s", "end_s", "start_char", "end_char"} for s in stamps)
    openai = {"response_format": "wav", "timestamps": unit}
    assert of_file(server, "/v1/audio/speech", **openai) == stamps
    assert of_events(server, "/stream-tts", timestamps=unit) == stamps
    assert of_events(server, "/v1/audio/speech", **openai) == stamps
    assert of_events(server, "/v1/audio/speech", JSON, stream_format="sse", **openai) == stamps


def test_the_audio_beside_times_is_that_of_the_file(server: Server) -> None:
    whole = ask(server, "/tts", None, format="pcm").content
    json_body = ask(server, "/tts", JSON, format="pcm", timestamps="word").json()
    assert base64.b64decode(json_body["audio"]) == whole
    events = ask(server, "/stream-tts", EVENTS, format="pcm", timestamps="sentence").text
    deltas = [json.loads(line[6:]).get("audio", "") for line in events.splitlines() if line]
    assert b"".join(map(base64.b64decode, deltas)) == whole


@pytest.mark.parametrize("unit", ["sentence", "word"])
def test_the_socket_tells_the_times_of_the_whole_utterance(server: Server, unit: str) -> None:
    events = of_socket(server, TEXT, timestamps=unit)
    stamps = [event for event in events if event["type"] == "audio.timestamp"]
    for stamp, expected in zip(stamps, of_file(server, "/tts", timestamps=unit), strict=True):
        places = ("text", "start_char", "end_char")
        assert [stamp[key] for key in places] == [expected[key] for key in places]
        assert stamp["start_s"] == pytest.approx(expected["start_s"], abs=0.002)
        assert stamp["end_s"] == pytest.approx(expected["end_s"], abs=0.002)
    assert [stamp["sentence_index"] for stamp in stamps][:: len(stamps) - 1] == [0, 1]


def test_times_are_of_the_audio_with_its_silence_and_at_its_speed(server: Server) -> None:
    usual = of_file(server, "/tts", timestamps="word")
    shifted = of_file(server, "/tts", timestamps="word", lead_in_ms=400, tail_ms=300)
    rate = of_file(server, "/tts", timestamps="word", format="wav", speed=2.0)
    for stamp, later, sooner in zip(usual, shifted, rate, strict=True):
        assert later["start_s"] == pytest.approx(stamp["start_s"] + 0.4, abs=0.002)
        assert sooner["text"] == stamp["text"]
    assert rate[-1]["end_s"] < 0.7 * usual[-1]["end_s"]


def test_a_sentence_is_told_of_when_it_begins_too(server: Server) -> None:
    answer = ask(server, "/stream-tts", EVENTS, timestamps="sentence", format="pcm")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
    told = [e for e in events if e["type"] in ("speech.sentence", "speech.timestamp")]
    assert [(e["type"], e["text"]) for e in told] == [
        (kind, text) for text in SENTENCES for kind in ("speech.sentence", "speech.timestamp")
    ]
    begun, ended = told[:2]
    assert "end_s" not in begun
    assert begun["start_s"] == ended["start_s"]
    first_audio = [e["type"] for e in events].index("speech.audio.delta")
    assert events.index(begun) < first_audio


def test_events_need_no_times_and_json_without_times_is_audio_as_ever(server: Server) -> None:
    assert of_events(server, "/stream-tts") == []
    for accept in (JSON, f"{JSON}, text/plain, */*"):  # what many clients send to every route
        assert ask(server, "/tts", accept).headers["content-type"] == "audio/wav"


def test_qwen_times_sentences_in_file_and_stream_and_refuses_words(qwen: Server) -> None:
    cut = {"timestamps": "sentence", "max_length": 30}
    (stamp,) = of_file(qwen, "/tts", **cut)
    assert stamp["text"] == SENTENCES[0]
    assert 1 < stamp["end_s"] <= 30 * 0.08
    assert of_events(qwen, "/stream-tts", **cut) == [stamp]
    for route, accept in (("/tts", JSON), ("/stream-tts", EVENTS)):
        answer = ask(qwen, route, accept, timestamps="word")
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "word_times_not_supported"


@pytest.mark.parametrize(
    ("route", "accept", "fields", "says"),
    [
        pytest.param("/tts", None, {}, "Accept: application/json", id="no room in a file"),
        pytest.param("/tts", EVENTS, {}, "Accept: application/json", id="no events of a file"),
        pytest.param(
            "/stream-tts", JSON, {}, "Accept: text/event-stream", id="no JSON of a stream"
        ),
        pytest.param("/v1/audio/speech", "audio/mpeg", {}, "or `Accept", id="OpenAI has both"),
        pytest.param("/tts", JSON, {"timestamps": "letter"}, "sentence or word", id="unknown"),
        pytest.param("/tts", JSON, {"text": None, "tokens": [1]}, "need text", id="tokens"),
        pytest.param("/tts", JSON, {"split": "never"}, "one by one", id="uncut"),
    ],
)
def test_times_that_cannot_be_given_are_refused(
    server: Server, route: str, accept: str | None, fields: dict[str, Any], says: str
) -> None:
    answer = ask(server, route, accept, **{"timestamps": "sentence", **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == ("split" if "split" in fields else "timestamps")
    assert says in error["message"]


def test_the_socket_refuses_times_of_words_as_they_come(server: Server) -> None:
    events = of_socket(server, "a", timestamps="sentence", split="token")
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["param"] == "timestamps"
