"""Tags, SSML and dialogue through every route of a real server with the embedded voice."""

from typing import Any

import httpx
import numpy as np
import pytest
from tests.api.asking import samples
from tests.conftest import Server

from .test_websocket import Client

SSML = '<speak>Привет. <break time="1s"/> <sub alias="мир">М</sub></speak>'
PLAIN = "Привет. [pause:1s] мир"


def ask(server: Any, route: str = "/tts", **fields: Any) -> httpx.Response:
    return httpx.post(server.base_url + route, json={"format": "pcm", **fields}, timeout=60)


@pytest.mark.parametrize("route", ["/tts", "/stream-tts"])
@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (SSML, PLAIN),
        ("<b>Привет</b>. [пауза: 1 с] мир", PLAIN),
        ("<think>Hm. Ok.</think>Том &amp; Джерри<br>", "Том & Джерри"),
    ],
)
def test_markup_sounds_like_what_it_means(
    server: Server, route: str, text: str, plain: str
) -> None:
    marked, meant = (
        samples(ask(server, route, text=each, language="ru")) for each in (text, plain)
    )
    assert np.array_equal(marked, meant)


@pytest.mark.parametrize("route", ["/tts", "/stream-tts"])
def test_a_dialogue_has_its_voices_in_the_header(server: Server, route: str) -> None:
    fields = {"language": "en", "seed": 3}
    text = "One. [voice:nova] Two. [voice:ONYX] Three."
    answers = [ask(server, route, text=text, **fields) for _ in range(2)]
    voices = answers[0].headers["x-voice"].split(", ")
    assert len(voices) == 2  # onyx is the voice that speaks by default
    assert np.array_equal(*map(samples, answers))
    alone = [ask(server, text="Two.", speaker=voice, **fields) for voice in ("nova", "onyx")]
    assert [answer.headers["x-voice"] for answer in alone] == voices[::-1]
    assert not np.array_equal(*(samples(answer)[:9000] for answer in alone))


@pytest.mark.parametrize("route", ["/tts", "/stream-tts", "/v1/audio/speech"])
def test_an_unknown_voice_in_the_text_is_refused(server: Server, route: str) -> None:
    field = "input" if "v1" in route else "text"
    body = {field: "Hello. [voice: nobody\tat home] Hi."}
    answer = httpx.post(server.base_url + route, json=body, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["code"], error["param"]) == ("unknown_speaker", field)
    assert f'{field} names the voice "nobody\ufffdat home"' in error["message"]
    assert "adam" in error["message"]


def test_malformed_ssml_is_refused_where_it_was_asked_for(server: Server) -> None:
    answer = ask(server, text="<speak>Hi\n& ho</speak>", input_type="ssml")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_ssml", "text")
    assert "line 2, column " in error["message"]
    answer = ask(server, text="<speak>Hi\n& ho</speak>")
    assert samples(answer).any()
    assert "line 2, column " in answer.headers["x-warning"]


def test_what_ssml_asks_in_vain_is_a_warning(server: Server) -> None:
    text = '<speak><prosody volume="loud">Hi</prosody><привет/></speak>'
    warning = ask(server, text=text).headers["x-warning"]
    assert "volume" in warning
    assert warning.isascii()


def test_the_embedded_voice_speaks_at_the_rate_of_ssml(server: Server) -> None:
    text = '<speak><prosody rate="{}">Hello there, you</prosody></speak>'
    rates = ("slow", "medium", "x-fast")
    lengths = [len(samples(ask(server, text=text.format(rate)))) for rate in rates]
    assert lengths[0] > 1.2 * lengths[1] > 1.4 * lengths[2]


def test_the_embedded_voice_speaks_phonemes(server: Server) -> None:
    text = "<speak><phoneme alphabet='x-espeak' ph=\"{}\">other</phoneme></speak>"
    spoken = [samples(ask(server, text=text.format(ph), language="en")) for ph in ("h@l'oU", "m'i")]
    assert np.array_equal(spoken[0], samples(ask(server, text="hello", language="en")))
    assert len(spoken[0]) > len(spoken[1])


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_over_the_websocket_markup_is_that_of_the_whole_text(server: Server, size: int) -> None:
    text = "<think>Hm. Ok?</think>Tom &amp; <b>Jerry</b>.<br/>[voice:nova]Hi [pause 500ms] ho."
    with Client(server) as client:
        client.configure(language="english")
        events, _ = client.say(text, size)
        starts = [event for event in events if event["type"] == "audio.start"]
        said = [" ".join(start["sentence_text"].split()) for start in starts]
        assert said == ["Tom & Jerry.", "Hi ho."]
        assert len({start["voice"] for start in starts}) == 2


@pytest.mark.parametrize("size", [1, 1000])
def test_over_the_websocket_ssml_is_spoken_once_it_is_complete(server: Server, size: int) -> None:
    with Client(server) as client:
        client.configure(language="ru", input_type="ssml")
        events, audio = client.say(SSML, size)
        assert sum(event["type"] == "audio.start" for event in events) == 1
    whole = samples(ask(server, text=PLAIN, language="ru"))
    assert np.array_equal(np.frombuffer(audio, "<i2"), whole)


def test_over_the_websocket_attributes_not_applied_are_reported(server: Server) -> None:
    with Client(server) as client:
        client.configure(language="en")
        events, _ = client.say("<speak><bad>Hi</bad></speak>")
        assert "bad" in events[0]["warning"]
        events, _ = client.say("Hi")
        assert "warning" not in events[0]


def test_over_the_websocket_a_bad_document_is_an_error_and_the_session_stays(
    server: Server,
) -> None:
    with Client(server) as client:
        client.configure(language="en", input_type="ssml")
        client.write("<speak>Hi", 3)
        client.send("input.done")
        assert client.error()["code"] == "invalid_ssml"
        client.expect("session.done")
        assert client.say("<speak>Hi</speak>")[1]
