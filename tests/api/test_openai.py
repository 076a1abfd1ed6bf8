"""The OpenAI routes, called by OpenAI's own client."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import openai
import pytest
import soundfile
from tests.api.test_formats import CONTENT_TYPES, decode
from tests.api.test_waiting import is_idle, metric, wait_for
from tests.conftest import KEY, Server

from qwen_tts_service.api.openai import MODEL_ALIASES
from qwen_tts_service.types import AudioFormat
from qwen_tts_service.voice.catalogue import OPENAI_VOICES, SPEAKERS

MARKER = "Zwetschge"
TEXT = "Сегодня хорошая погода. Мы идём гулять в парк."
FRAME_BYTES = 2 * 1920


def client_of(server: Any, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def create(client: openai.OpenAI, **fields: Any) -> Any:
    given = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": TEXT, **fields}
    return client.audio.speech.create(**given)


def post(server: Any, **fields: Any) -> httpx.Response:
    body = {"model": "tts-1", "voice": "alloy", "input": TEXT, **fields}
    return httpx.post(f"{server.base_url}/v1/audio/speech", json=body, timeout=60)


def events_of(lines: Any) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def until_it_breaks(answer: httpx.Response) -> bytes:
    """What came before the connection broke."""
    got = bytearray()

    def read() -> None:
        for part in answer.iter_raw():
            got.extend(part)

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    return bytes(got)


def audio_of(events: list[dict[str, Any]]) -> bytes:
    deltas = (e["audio"] for e in events if e["type"] == "speech.audio.delta")
    return b"".join(map(base64.b64decode, deltas))


# Speech ------------------------------------------------------------------------------


def test_the_client_gets_mp3_unless_it_asks_for_something_else(client: openai.OpenAI) -> None:
    answer = create(client)
    assert answer.response.headers["content-type"] == "audio/mpeg"
    samples = decode(answer.content, "mp3")
    assert 1 < len(samples) / 24000 < 10
    assert np.abs(samples).max() > 1000


@pytest.mark.parametrize("format", CONTENT_TYPES)
def test_every_format_is_the_same_speech_as_the_stream_route(
    server: Server, client: openai.OpenAI, format: AudioFormat
) -> None:
    own = {"text": TEXT, "format": format, "seed": 3, "speaker": "f2", "max_length": 4096}
    stream = httpx.post(f"{server.base_url}/stream-tts", json=own)
    answer = create(client, response_format=format, extra_body={"seed": 3}, voice="f2")
    assert answer.response.headers["content-type"] == stream.headers["content-type"]
    assert np.array_equal(decode(answer.content, format), decode(stream.content, format))


def test_audio_streams_to_the_client_while_it_is_made(slow: Server) -> None:
    wait_for(lambda: is_idle(slow))
    with (
        client_of(slow) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input="40", response_format="pcm"
        ) as answer,
    ):
        parts = answer.iter_bytes()
        first = next(parts)
        assert len(first) < 5 * FRAME_BYTES
        assert metric(slow, "tts_active_requests") == 1
        assert len(first) + sum(map(len, parts)) == 40 * FRAME_BYTES


async def test_the_async_client_writes_a_file(server: Server, tmp_path: Path) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="any") as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="nova", input=TEXT, response_format="flac"
        ) as answer,
    ):
        await answer.stream_to_file(tmp_path / "speech.flac")
    samples, rate_hz = soundfile.read(tmp_path / "speech.flac")  # needs the length in its header
    seconds = float(answer.headers["x-audio-seconds"])
    assert len(samples) / rate_hz == pytest.approx(seconds, abs=1e-3)
    assert seconds > 1


@pytest.mark.parametrize("name", OPENAI_VOICES)
def test_every_voice_of_openai_speaks_with_its_gender(server: Server, name: str) -> None:
    answer = post(server, voice=name, input="да")
    wanted = {"male": "m6", "female": "f2"}[SPEAKERS[OPENAI_VOICES[name]].gender]
    assert (answer.status_code, answer.headers["x-voice"]) == (200, wanted)


def test_a_voice_may_be_an_object_with_an_id(server: Server) -> None:
    assert post(server, voice={"id": "m3"}).headers["x-voice"] == "m3"


def test_our_own_fields_work_beside_theirs(client: openai.OpenAI) -> None:
    fields = {"voice_attributes": {"gender": "female", "age": 70}, "seed": 7, "language": "ru"}
    fields |= {"max_length": 10, "temperature": 0.2, "normalize": "light"}
    answer = create(client, voice="auto", response_format="pcm", extra_body=fields)
    headers = answer.response.headers
    assert headers["x-voice-applied"] == "gender, age"
    assert (headers["x-seed"], headers["x-language"]) == ("7", "russian")
    assert len(answer.content) / 2 / 24000 == pytest.approx(0.8, abs=0.01)


def test_the_embedded_voice_reports_instructions_as_not_applied(server: Server) -> None:
    answer = post(server, instructions="Whisper. " * 400)
    assert answer.status_code == 200
    assert answer.headers["x-voice-not-applied"].startswith("instruct: ")


def test_null_is_absent_and_unknown_fields_are_ignored(server: Server) -> None:
    optional = (
        "instructions",
        "response_format",
        "speed",
        "stream_format",
        "seed",
        "voice_attributes",
    )
    answer = post(
        server, stream=True, user=MARKER, **dict.fromkeys((*optional, "temperature", "model"))
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/mpeg"


def test_ignored_fields_are_named_with_what_may_be_meant(server: Server) -> None:
    fields = {"emotion": MARKER, "lang": MARKER, "Ж" * 50: MARKER, "user": 1, "text": MARKER}
    answer = post(server, **fields)
    assert answer.status_code == 200
    warning = unquote(answer.headers["x-warning"])
    assert 'unknown field "emotion" is ignored. Did you mean voice_attributes.emotion?' in warning
    assert 'unknown field "lang" is ignored. Did you mean language?' in warning
    assert f'"{"Ж" * 39}…" is ignored. So are 2 more.' in warning
    assert MARKER not in warning
    assert "x-warning" not in post(server).headers


def test_speed_is_bounded_to_half_and_double_with_a_warning(server: Server) -> None:
    usual, double, bounded = (post(server, speed=each) for each in (1, 2.0, 4))
    assert double.content == bounded.content
    assert len(double.content) < 0.6 * len(usual.content)
    assert bounded.headers["x-warning"] == "speed is 2, its bound"
    assert "x-warning" not in double.headers


def test_bare_minimum_is_the_input(server: Server) -> None:
    answer = httpx.post(f"{server.base_url}/v1/audio/speech", json={"input": TEXT})
    assert answer.headers["content-type"] == "audio/mpeg"


# Events ------------------------------------------------------------------------------


def test_events_carry_the_audio_and_then_what_it_was(server: Server, client: openai.OpenAI) -> None:
    fields = {"response_format": "pcm", "stream_format": "sse", "extra_body": {"seed": 3}}
    answer = create(client, **fields)
    assert answer.response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-disposition" not in answer.response.headers
    events = events_of(answer.iter_lines())
    plain = post(server, response_format="pcm", seed=3).content
    assert audio_of(events) == plain
    assert [e["type"] for e in events[:-1]] == ["speech.audio.delta"] * (len(events) - 1)
    last = events[-1]
    audio_s = len(plain) / 48000
    usage = last.pop("usage")
    assert last == {
        "type": "speech.audio.done",
        "finish_reason": "stop",
        "seed": 3,
        "audio_seconds": pytest.approx(audio_s, abs=1e-3),
    }
    assert usage["input_tokens"] == len(TEXT)
    assert usage["output_tokens"] == int(np.ceil(audio_s / 0.08))
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_events_come_while_speech_is_made(slow: Server) -> None:
    wait_for(lambda: is_idle(slow))
    body = {"input": "30", "response_format": "pcm", "stream_format": "sse"}
    with httpx.stream("POST", f"{slow.base_url}/v1/audio/speech", json=body) as answer:
        lines = answer.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        assert len(base64.b64decode(first["audio"])) < 5 * FRAME_BYTES
        assert metric(slow, "tts_active_requests") == 1
        events = [first, *events_of(lines)]
    assert len(audio_of(events)) == 30 * FRAME_BYTES
    assert events[-1]["usage"]["output_tokens"] == 30


def test_events_report_that_max_length_ended_the_speech(client: openai.OpenAI) -> None:
    answer = create(client, stream_format="sse", extra_body={"max_length": 5})
    assert events_of(answer.iter_lines())[-1]["finish_reason"] == "length"


@pytest.mark.parametrize(("word", "code"), [("fail", "internal_error"), ("runaway", "runaway")])
def test_a_late_failure_is_an_error_event_and_no_clean_end(
    slow: Server, word: str, code: str
) -> None:
    body = {"input": f"5 {word}", "response_format": "pcm", "stream_format": "sse"}
    with httpx.stream("POST", f"{slow.base_url}/v1/audio/speech", json=body) as answer:
        raw = until_it_breaks(answer)
    events = events_of(raw.decode().splitlines())
    held_bytes = 240 if word == "fail" else 0  # 5 ms, which would be faded out at the end
    assert len(audio_of(events)) == 5 * FRAME_BYTES - held_bytes
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["code"] == code


def test_the_clients_stream_raises_on_the_error_event(slow: Server) -> None:
    with client_of(slow) as client:
        events = client.post(
            "/audio/speech",
            body={"input": "5 fail", "response_format": "pcm", "stream_format": "sse"},
            cast_to=object,
            stream=True,
            stream_cls=openai.Stream[object],
        )
        got = []
        with pytest.raises(openai.APIError, match="this text fails") as caught:
            got.extend(events)
    assert caught.value.code == "internal_error"


def test_a_failure_before_the_first_audio_has_its_status(slow: Server) -> None:
    for stream_format in ("audio", "sse"):
        answer = post(slow, input="fail", stream_format=stream_format)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"


def test_a_late_failure_breaks_the_audio(slow: Server) -> None:
    with (
        client_of(slow) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input="5 fail", response_format="pcm"
        ) as answer,
        pytest.raises(Exception, match="peer closed connection"),
    ):
        list(answer.iter_bytes())


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_a_client_that_leaves_frees_its_slot(slow: Server, stream_format: Any) -> None:
    wait_for(lambda: is_idle(slow))
    before = metric(slow, "tts_cancellations_total")
    body = {"input": "2000", "response_format": "pcm", "stream_format": stream_format}
    with httpx.stream("POST", f"{slow.base_url}/v1/audio/speech", json=body) as answer:
        parts = answer.iter_raw()
        next(parts)
        assert metric(slow, "tts_active_requests") == 1
    wait_for(lambda: is_idle(slow), 2)
    assert metric(slow, "tts_cancellations_total") == before + 1


def test_a_busy_server_is_a_rate_limit_error_with_retry_after(slow: Server) -> None:
    wait_for(lambda: is_idle(slow))
    body = {"input": "200", "response_format": "pcm"}
    url = f"{slow.base_url}/v1/audio/speech"
    with (
        httpx.stream("POST", url, json=body),
        httpx.stream("POST", url, json=body),
        client_of(slow) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        create(client, input="1")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.code == "busy"


# Refusals ----------------------------------------------------------------------------


REFUSED = [
    pytest.param({"input": ""}, "input", id="empty"),
    pytest.param({"input": " \n"}, "input", id="blank"),
    pytest.param({"input": None}, "input", id="no-input"),
    pytest.param({"input": MARKER * 1000}, "input", id="too-long"),
    pytest.param({"input": [MARKER]}, "input", id="input-is-a-list"),
    pytest.param({"voice": MARKER}, "voice", id="unknown-voice"),
    pytest.param({"voice": {"id": MARKER}}, "voice", id="unknown-voice-id"),
    pytest.param({"voice": {"name": MARKER}}, "voice", id="voice-object-without-id"),
    pytest.param({"voice": 5}, "voice", id="voice-is-a-number"),
    pytest.param({"voice": ""}, "voice", id="empty-voice"),
    pytest.param({"response_format": MARKER}, "response_format", id="unknown-format"),
    pytest.param({"speed": 4.1}, "speed", id="fast"),
    pytest.param({"speed": 0.2}, "speed", id="slow"),
    pytest.param({"speed": "1"}, "speed", id="speed-is-a-string"),
    pytest.param({"stream_format": MARKER}, "stream_format", id="unknown-stream-format"),
    pytest.param({"instructions": MARKER * 500}, "instructions", id="long-instructions"),
    pytest.param({"temperature": 3}, "temperature", id="temperature"),
    pytest.param({"language": MARKER}, "language", id="unknown-language"),
    pytest.param({"seed": -1}, "seed", id="seed-below-0"),
    pytest.param({"voice_attributes": {"age": 0}}, "voice_attributes.age", id="age-0"),
    pytest.param({"model": 5}, "model", id="model-is-a-number"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_a_refusal_names_the_field_as_this_api_calls_it(
    server: Server, client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    given = {"model": "tts-1", "voice": "alloy", "input": MARKER, **fields}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/audio/speech", body=given, cast_to=object)
    error = caught.value
    assert error.param == param
    assert error.type == "invalid_request_error"
    assert error.code
    assert param.split(".", maxsplit=1)[0] in error.message
    is_named = fields.get(param) in (MARKER, {"id": MARKER}) and param != "input"
    assert (f'"{MARKER}"' in error.message) == is_named
    assert (MARKER in error.response.text) == is_named
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        pytest.param(b'{"input": "%s"' % MARKER.encode(), "invalid_json", None, id="cut"),
        pytest.param(b'["%s"]' % MARKER.encode(), "invalid_request", None, id="list"),
        pytest.param(b"[" * 100_000, "invalid_json", None, id="deep"),
        pytest.param(b'{"input": "\xff"}', "invalid_json", None, id="not-utf8"),
        pytest.param(b"", "invalid_json", None, id="nothing"),
        pytest.param(b'{"input": "a", "speed": NaN}', "invalid_request", "speed", id="nan"),
        pytest.param(
            b'{"input": "a", "voice_attributes": {"%s": 1}}' % MARKER.encode(),
            "unknown_field",
            f"voice_attributes.{MARKER}",
            id="unknown-attribute",
        ),
        pytest.param(b'{"text": "%s"}' % MARKER.encode(), "unknown_field", "text", id="our-text"),
        pytest.param(b'{"prompt": "a"}', "unknown_field", "prompt", id="prompt"),
        pytest.param(
            b'{"input": "a", "speaker": "ryan"}', "unknown_field", "speaker", id="our-speaker"
        ),
        pytest.param('{"input": "Привет"}'.encode("utf-16"), "invalid_json", None, id="utf-16"),
    ],
)
def test_a_broken_body_is_a_400(
    server: Server, content: bytes, code: str, param: str | None
) -> None:
    headers = {"Content-Type": "application/json"}
    url = f"{server.base_url}/v1/audio/speech"
    answer = httpx.post(url, content=content, headers=headers)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert (MARKER in answer.text) == (MARKER in str(param))
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize(
    ("fields", "content_type"),
    [
        ({"response_format": "WAV"}, "audio/wav"),
        ({"response_format": " Flac "}, "audio/flac"),
        ({"response_format": "pcm", "stream_format": "SSE"}, "text/event-stream; charset=utf-8"),
    ],
)
def test_listed_values_are_taken_in_any_case(
    server: Server, fields: dict[str, str], content_type: str
) -> None:
    answer = post(server, input="One.", voice=" Alloy ", model="TTS-1", **fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)


def test_too_much_text_is_refused_in_this_apis_words(server: Server) -> None:
    error = post(server, input="a" * 4097).json()["error"]
    assert error["message"] == (
        "input has 4097 characters; at most 4096 are allowed (MAX_TEXT_CHARS)"
    )


def test_as_much_text_as_openai_takes_is_taken(server: Server) -> None:
    answer = post(server, input="а " * 2048, max_length=5, response_format="pcm")
    assert answer.status_code == 200


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        create(client, model=MARKER)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "espeak-ng" in caught.value.message
    assert f'got "{MARKER}"' in caught.value.message


@pytest.mark.parametrize("model", ["espeak-ng", *MODEL_ALIASES])
def test_the_loaded_model_answers_to_its_name_and_to_openais(server: Server, model: str) -> None:
    answer = post(server, model=model, input="да")
    assert (answer.status_code, answer.headers["x-model"]) == (200, "espeak-ng")


def test_tokens_without_a_tokenizer_are_a_422(server: Server) -> None:
    answer = post(server, input=None, tokens=[1, 2])
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "tokens")


@pytest.mark.parametrize("text", ["⁂ ⁂ ⁂", "😊", "Привет, שלום"])
def test_text_without_a_reading_is_a_422_about_the_input_if_asked(
    server: Server, text: str
) -> None:
    answer = post(server, input=text, language="russian", on_unspeakable="error")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "input")
    assert answer.json()["error"]["code"] == "no_reading"


@pytest.mark.parametrize("text", ["⁂ ⁂ ⁂", "😊", "Привет, שלום", "[pause:0s]", "```python\n"])
def test_text_without_a_reading_is_a_moment_of_silence(server: Server, text: str) -> None:
    asked = {"input": text, "language": "russian", "response_format": "pcm"}
    answer = post(server, **asked)
    assert answer.content == bytes(2 * 4800)
    assert answer.headers["x-language"] == "russian"
    assert "0.2 s of silence" in answer.headers["x-warning"]
    sse = post(server, **asked, stream_format="sse")
    events = events_of(sse.text.split("\n"))
    assert audio_of(events) == answer.content
    assert events[-1]["finish_reason"] == "stop"
    assert "0.2 s of silence" in sse.headers["x-warning"]


@pytest.mark.parametrize("content_type", [None, "text/plain"])
def test_a_body_that_is_not_called_json_is_a_415(server: Server, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    url = f"{server.base_url}/v1/audio/speech"
    answer = httpx.post(url, content=b'{"input": "a"}', headers=headers)
    assert answer.status_code == 415


# What there is -----------------------------------------------------------------------


def test_models_are_listed_and_each_can_be_asked_for(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["espeak-ng", *MODEL_ALIASES]
    assert [client.models.retrieve(name).id for name in names] == names
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(MARKER)


def test_audio_models_are_what_open_webui_reads(server: Server) -> None:
    models = httpx.get(f"{server.base_url}/v1/audio/models").json()["models"]
    assert [model["id"] for model in models] == ["espeak-ng", *MODEL_ALIASES]


def test_voices_are_the_speakers_and_openais_names(server: Server) -> None:
    url = f"{server.base_url}/v1/audio/voices"
    voices = {voice["id"]: voice for voice in httpx.get(url).json()["voices"]}
    speakers = httpx.get(f"{server.base_url}/health").json()["speakers"]
    assert list(voices) == [*speakers, *OPENAI_VOICES]
    assert all(voice["name"] for voice in voices.values())
    assert voices["nova"]["gender"] == "female"
    assert voices["nova"]["speaker"] == "f2"
    assert voices["nova"]["description"] is None
    legacy = httpx.get(url, params={"legacy": "true"}).json()["voices"]
    assert legacy == list(voices)


def test_a_checkpoint_has_a_speaker_of_the_right_gender_for_every_name(qwen: Server) -> None:
    voices = httpx.get(f"{qwen.base_url}/v1/audio/voices").json()["voices"]
    genders = {voice["id"]: voice["gender"] for voice in voices}
    fields = {"instructions": "Whisper.", "max_length": 4, "response_format": "pcm"}
    answer = post(qwen, voice="marin", **fields)
    with client_of(qwen) as client:
        assert next(iter(client.models.list())).id == "quick"
    speakers = {voice["id"] for voice in voices if voice["id"] == voice["speaker"]}
    assert set(OPENAI_VOICES.values()) <= speakers
    assert all(genders[v["id"]] == genders[v["speaker"]] for v in voices)
    assert answer.headers["x-model"] == "quick"
    assert answer.headers["x-voice"] == "serena"
    assert answer.headers["x-voice-applied"] == "speaker, instruct"
    assert len(answer.content) in {frames * FRAME_BYTES for frames in range(1, 5)}


def test_with_a_key_only_the_lists_that_webui_needs_stay_open(locked: Server) -> None:
    with client_of(locked, "wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            create(client, input="1")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    with client_of(locked, KEY) as client:
        assert create(client, input="1").content
        assert client.models.list().data
    for path in ("voices", "models"):
        assert httpx.get(f"{locked.base_url}/v1/audio/{path}").status_code == 200


def test_the_documentation_shows_a_request_that_works(server: Server) -> None:
    spec = httpx.get(f"{server.base_url}/docs.json").json()
    operation = spec["paths"]["/v1/audio/speech"]["post"]
    schema = spec["components"]["schemas"]["CreateSpeechBody"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference.endswith("/CreateSpeechBody")
    assert {"input", "voice", "instructions", "response_format", "speed"} <= set(
        schema["properties"]
    )
    assert schema["properties"]["response_format"]["default"] == "mp3"
    assert "404" in operation["responses"]
    assert {"/v1/models", "/v1/audio/models", "/v1/audio/voices"} <= set(spec["paths"])
    answer = httpx.post(f"{server.base_url}/v1/audio/speech", json=schema["example"])
    assert answer.status_code == 200
