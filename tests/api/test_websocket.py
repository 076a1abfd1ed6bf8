"""WebSocket sessions over real servers and sockets: text in as it is written, audio out."""

import io
import json
import re
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import av
import httpx
import numpy as np
import pytest
from tests.api.test_waiting import is_idle, metric, wait_for
from tests.conftest import KEY, Server, StartServer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PATH = "/v1/audio/speech/stream"
MARKER = "Zauberwort"
WAIT_S = 60


class Client:
    """A session: sends messages, collects what comes."""

    def __init__(self, server: Any, **how: Any) -> None:
        url = server.base_url.replace("http", "ws", 1) + how.pop("path", PATH)
        self._connection = connect(url, proxy=None, **how)

    def __enter__(self) -> Self:
        self.socket = self._connection.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.__exit__(*error)

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def receive(self) -> Any:
        message = self.socket.recv(WAIT_S)
        return json.loads(message) if isinstance(message, str) else message

    def expect(self, kind: str) -> dict[str, Any]:
        event = self.receive()
        assert isinstance(event, dict), f"{len(event)} bytes of audio came"
        assert event["type"] == kind, event
        return event

    def configure(self, **fields: Any) -> dict[str, Any]:
        self.send("session.config", **fields)
        return self.expect("session.ready")

    def write(self, text: str, size: int | None = None) -> None:
        size = size or max(1, len(text))
        for at in range(0, len(text), size):
            self.send("input.text", text=text[at : at + size])

    def until(self, kind: str) -> tuple[list[dict[str, Any]], bytes]:
        """Everything up to an event of this kind: events, and the audio between them."""
        events: list[dict[str, Any]] = []
        audio = b""
        while not events or events[-1]["type"] != kind:
            message = self.receive()
            if isinstance(message, bytes):
                audio += message
            else:
                events.append(message)
        return events, audio

    def say(self, text: str, size: int | None = None) -> tuple[list[dict[str, Any]], bytes]:
        self.write(text, size)
        self.send("input.done")
        return self.until("session.done")

    def error(self) -> dict[str, Any]:
        event = self.expect("error")
        assert event["message"] == event["error"]["message"]
        assert set(event["error"]) == {"code", "message", "type", "param"}
        return event["error"]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


@pytest.fixture(scope="module")
def narrow(start_server: StartServer) -> Iterator[Server]:
    """A server that takes short texts and small messages only."""
    with start_server(MAX_TEXT_CHARS="60", MAX_BODY_BYTES="2000") as server:
        yield server


# Sentences ---------------------------------------------------------------------------


def test_sentences_are_spoken_as_they_are_completed(server: Server) -> None:
    with Client(server) as client:
        ready = client.configure(language="english", seed=5)
        assert ready["model"] == "espeak-ng"
        assert (ready["split"], ready["format"], ready["sample_rate"]) == ("sentence", "pcm", 24000)
        assert (ready["seed"], ready["channels"], ready["normalize"]) == (5, 1, "auto")
        client.write("This is the first. This is")
        events, first = client.until("audio.done")
        assert kinds(events) == ["audio.start", "audio.done"]
        assert events[0]["sentence_text"] == "This is the first. "
        assert (events[0]["utterance_index"], events[0]["sentence_index"]) == (0, 0)
        assert events[0]["voice"] == ready["voice"]
        assert events[1]["total_bytes"] == len(first)
        assert events[1]["audio_seconds"] == pytest.approx(len(first) / 48000, abs=1e-3)
        client.write(" the second.")
        client.send("input.done")
        events, second = client.until("session.done")
        assert kinds(events) == ["audio.start", "audio.done", "session.done"]
        assert events[0]["sentence_text"] == "This is the second."
        assert events[2] == {
            "type": "session.done",
            "utterance_index": 0,
            "total_sentences": 2,
            "finish_reason": "stop",
            "audio_seconds": pytest.approx(len(first + second) / 48000, abs=1e-3),
        }


def test_a_sentence_has_the_samples_it_has_over_http(server: Server) -> None:
    text = "Привет, мир! Это проверка."
    with Client(server) as client:
        client.configure(voice_attributes={"gender": "female", "age": 30}, normalize="none")
        _, audio = client.say(text, 1)
    parts = [
        httpx.post(
            server.base_url + "/tts",
            json={
                "text": part,
                "format": "pcm",
                "language": "russian",
                "voice_attributes": {"gender": "female", "age": 30},
            },
        ).content
        for part in ("Привет, мир! ", "Это проверка.")
    ]
    assert audio == b"".join(parts)


@pytest.mark.parametrize("format", ["wav", "mp3", "ogg", "opus", "flac"])
def test_every_sentence_is_a_file_of_its_format(server: Server, format: str) -> None:
    with Client(server) as client:
        assert client.configure(response_format=format)["format"] == format
        client.write("One. Two. ")
        client.send("input.done")
        for _ in range(2):
            events, audio = client.until("audio.done")
            with av.open(io.BytesIO(audio)) as container:
                heard = sum(f.samples / f.sample_rate for f in container.decode(audio=0))
            assert heard == pytest.approx(events[-1]["audio_seconds"], abs=0.15)
        client.expect("session.done")


def test_a_session_speaks_one_text_after_the_other(server: Server) -> None:
    with Client(server) as client:
        client.configure()
        for text in ("One.", "Two.", ""):  # all of it is sent before anything is received
            client.write(text)
            client.send("input.done")
        client.send("session.close")
        ends = [client.until("session.done")[0][-1] for _ in range(3)]
        assert [(end["utterance_index"], end["total_sentences"]) for end in ends] == [
            (0, 1),
            (1, 1),
            (2, 0),
        ]
        with pytest.raises(ConnectionClosed):
            client.receive()
        assert client.socket.close_code == 1000


def test_a_session_may_be_configured_anew_between_texts(server: Server) -> None:
    with Client(server) as client:
        client.configure(voice_attributes={"gender": "male"})
        male, _ = client.say("One.")
        client.configure(voice_attributes={"gender": "female"}, format="wav")
        female, audio = client.say("One.")
        assert male[0]["voice"] != female[0]["voice"]
        with wave.open(io.BytesIO(audio)) as file:
            assert file.getframerate() == 24000


def test_one_seed_and_one_voice_serve_a_whole_session(server: Server) -> None:
    with Client(server) as client:
        ready = client.configure()
        starts = [e for e in client.say("Да. Hello.")[0] if e["type"] == "audio.start"]
        starts += [e for e in client.say("Нет.")[0] if e["type"] == "audio.start"]
    assert {start["seed"] for start in starts} == {ready["seed"]}
    assert [start["language"] for start in starts] == ["russian", "english", "russian"]
    assert len({start["voice"] for start in starts}) == 1


def test_what_cannot_be_spoken_is_left_out(server: Server) -> None:
    with Client(server) as client:
        client.configure(language="english")
        events, _ = client.say("One. ... 😊! [pause:1s]\n\n```\n\nTwo.")
        spoken = [e["sentence_text"].strip() for e in events if e["type"] == "audio.start"]
        assert spoken[0].startswith("One.")
        assert spoken[-1].endswith("Two.")
        assert not [e for e in events if e["type"] == "error"]


def test_emoji_that_were_sent_in_halves_are_whole_again(server: Server) -> None:
    with Client(server) as client:
        client.configure(normalize="none", language="english")
        client.socket.send('{"type": "input.text", "text": "One \\ud83d"}')
        client.socket.send('{"type": "input.text", "text": "\\ude00 two."}')
        client.send("input.done")
        events, _ = client.until("session.done")
        assert events[0]["sentence_text"] == "One 😀 two."


def test_max_length_bounds_an_utterance(server: Server) -> None:
    with Client(server) as client:
        client.configure(language="english")
        events, audio = client.say("A short one. " * 4)
        ends = [event for event in events if event["type"] == "audio.done"]
        assert len(ends) == 4
        assert {end["finish_reason"] for end in ends} == {"stop"}
        # Room for two sentences and a half: the limit is that of all, not of each.
        most = round(2.5 * len(audio) / 4 / 3840)
        client.configure(language="english", max_length=most)
        events, audio = client.say("A short one. " * 4)
        ends = [event["finish_reason"] for event in events if event["type"] == "audio.done"]
        assert ends == ["stop", "stop", "length"]
        assert events[-1]["finish_reason"] == "length"
        assert (most - 2) * 3840 <= len(audio) <= most * 3840


def test_long_audio_comes_in_frames_that_clients_accept(server: Server) -> None:
    with Client(server) as client:  # refuses frames above 1 MiB
        client.configure(language="english", normalize="none")
        _, audio = client.say("word " * 75 + "end.")
        assert len(audio) > 1024 * 1024


# Tokens ------------------------------------------------------------------------------

WORDS = "hello the world, one two three. hello the world!"


def test_words_are_spoken_while_the_text_is_still_written(qwen: Server) -> None:
    with Client(qwen) as client:
        ready = client.configure(language="english", seed=3, max_length=40)
        assert (ready["model"], ready["split"]) == ("quick", "token")
        client.write("hello the ")
        start = client.expect("audio.start")
        assert start["format"] == "pcm"
        assert start["language"] == "english"
        assert "sentence_text" not in start
        first = client.receive()  # a frame of 80 ms, and no input.done so far
        assert len(first) == 3840 - 2 * 240  # its end is held back: 5 ms by each fader
        client.write("world.")
        client.send("input.done")
        events, audio = client.until("session.done")
        assert kinds(events) == ["audio.done", "session.done"]
        assert (len(first) + len(audio)) % 3840 == 0
        assert events[0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "top_k": 0, "language": "english"}])
def test_the_pieces_change_no_sample(qwen: Server, fields: dict[str, Any]) -> None:
    def heard(size: int | None) -> bytes:
        with Client(qwen) as client:
            client.configure(seed=3, max_length=60, voice="ryan", **fields)
            return client.say(WORDS, size)[1]

    with ThreadPoolExecutor(4) as pool:
        whole, *others = pool.map(heard, (None, 1, 2, 7))
    assert len(whole) > 10 * 3840
    assert all(are_same(other, whole) for other in others)


def samples(audio: bytes) -> Any:
    return np.frombuffer(audio, "<i2").astype(int)


def are_same(one: bytes, other: bytes) -> bool:
    """Within one step of int16: a float32 codec rounds by its chunking, which follows the clock."""
    return len(one) == len(other) and np.abs(samples(one) - samples(other)).max() <= 1


def test_another_seed_gives_other_audio(qwen: Server) -> None:
    with Client(qwen) as client:
        heard = []
        for seed in (1, 2, 1):
            client.configure(seed=seed, max_length=20, language="english", temperature=1.0)
            heard.append(client.say(WORDS)[1])
    assert are_same(heard[0], heard[2])
    assert not are_same(heard[0], heard[1])


def test_a_model_that_takes_words_takes_sentences_too(qwen: Server) -> None:
    with Client(qwen) as client:
        assert client.configure(split="sentence", max_length=30)["split"] == "sentence"
        events, _ = client.say("hello the world. one two three.")
        assert kinds(events)[:2] == ["audio.start", "audio.done"]
        assert events[-1]["total_sentences"] in (1, 2)


def test_compressed_audio_of_words_is_one_file(qwen: Server) -> None:
    with Client(qwen) as client:
        client.configure(format="mp3", seed=3, max_length=30, language="english")
        events, audio = client.say(WORDS, 3)
        with av.open(io.BytesIO(audio)) as container:
            heard = sum(f.samples / f.sample_rate for f in container.decode(audio=0))
        assert heard == pytest.approx(events[-1]["audio_seconds"], abs=0.15)


def test_sessions_do_not_disturb_each_other(qwen: Server) -> None:
    def heard(seed: int) -> bytes:
        with Client(qwen) as client:
            client.configure(seed=seed, max_length=25, language="english")
            return client.say(WORDS, 4)[1]

    alone = [heard(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(heard, (1, 2, 3, 1, 2, 4)))
    for index, seed in enumerate((1, 2)):
        for other in (together[index], together[index + 3]):
            assert are_same(other, alone[seed - 1])


def test_an_unfinished_text_waits_and_delays_no_other_request(qwen: Server) -> None:
    with Client(qwen) as waiting, Client(qwen) as other:
        for client in (waiting, other):
            client.configure(seed=3, max_length=20, language="english")
        waiting.write("hello the ")
        waiting.expect("audio.start")
        events, audio = other.say(WORDS)
        assert kinds(events) == ["audio.start", "audio.done", "session.done"]
        assert len(audio) > 0
        waiting.write("world")
        waiting.send("input.done")
        assert waiting.until("session.done")[0][-1]["utterance_index"] == 0


# Barge-in, leaving, waiting ----------------------------------------------------------


def test_barge_in_stops_and_the_session_goes_on(slow: Server) -> None:
    before = metric(slow, "tts_cancellations_total")
    with Client(slow) as client:
        client.configure(language="english")
        client.write("2000")
        client.send("input.done")
        client.write("2000")  # waits for its turn, and is forgotten
        client.expect("audio.start")
        assert len(client.receive()) > 0
        client.send("input.cancel")
        events, audio = client.until("audio.cancelled")
        assert kinds(events) == ["audio.cancelled"]
        assert len(audio) <= 20 * 3840
        assert events[0]["utterance_index"] == 0
        assert 0 < events[0]["audio_seconds"] < 2
        wait_for(lambda: is_idle(slow), 2)
        events, audio = client.say("3")
        assert kinds(events) == ["audio.start", "audio.done", "session.done"]
        assert len(audio) == 3 * 3840
    assert metric(slow, "tts_cancellations_total") == before + 1
    assert "outcome=interrupted" in slow.log.read_text()


def test_barge_in_into_a_text_that_is_being_written_frees_the_slot(qwen: Server) -> None:
    with Client(qwen) as client:
        client.configure(language="english", seed=3)
        client.write("hello the ")
        client.expect("audio.start")
        client.send("input.cancel")
        client.until("audio.cancelled")
        wait_for(lambda: is_idle(qwen), 2)
        client.send("input.cancel")
        assert client.expect("audio.cancelled")["utterance_index"] is None


def test_a_client_that_leaves_frees_its_slot(slow: Server, qwen: Server) -> None:
    for server, text in ((slow, "2000"), (qwen, "hello the ")):
        wait_for(lambda: is_idle(server))  # noqa: B023 - called at once
        before = metric(server, "tts_cancellations_total")
        with Client(server) as client:
            client.configure(language="english")
            client.write(text)
            if server is slow:
                client.send("input.done")
            client.expect("audio.start")
            assert metric(server, "tts_active_requests") == 1
            client.socket.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: is_idle(server), 2)  # noqa: B023 - called at once
        assert metric(server, "tts_cancellations_total") == before + 1


def test_a_slot_is_held_while_speaking_only_and_beyond_them_it_is_busy(slow: Server) -> None:
    wait_for(lambda: is_idle(slow))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(slow)) for _ in range(3)]
        for client in clients:
            client.configure(language="english")
        assert is_idle(slow)
        for client in clients[:2]:
            client.write("100")
            client.send("input.done")
            client.expect("audio.start")
        clients[2].write("1")
        clients[2].send("input.done")
        assert clients[2].error()["code"] == "busy"
        assert clients[2].expect("session.done")["finish_reason"] == "error"
        clients[0].send("input.cancel")
        clients[0].until("audio.cancelled")
        events, _ = clients[2].say("1")
        assert kinds(events) == ["audio.start", "audio.done", "session.done"]
    wait_for(lambda: is_idle(slow), 2)


def test_a_slow_reader_pauses_only_itself(slow: Server) -> None:
    wait_for(lambda: is_idle(slow))
    with Client(slow, max_queue=1) as lazy, Client(slow) as quick:
        lazy.configure(language="english")
        quick.configure(language="english")
        lazy.write("30")
        lazy.send("input.done")
        lazy.expect("audio.start")
        events, _ = quick.say("5")
        assert kinds(events) == ["audio.start", "audio.done", "session.done"]
        assert len(lazy.until("session.done")[1]) == 30 * 3840


@pytest.mark.parametrize(("text", "code"), [("2 fail", "internal_error"), ("2 runaway", "runaway")])
def test_a_failed_speech_is_an_error_and_no_done(slow: Server, text: str, code: str) -> None:
    with Client(slow) as client:
        client.configure(language="english")
        events, _ = client.say(text)
        assert kinds(events) == ["audio.start", "error", "session.done"]
        assert events[1]["error"]["code"] == code
        assert events[2]["finish_reason"] == "error"
        assert kinds(client.say("1")[0]) == ["audio.start", "audio.done", "session.done"]


# What is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        (f"{MARKER}", "invalid_json", None),
        (f'["{MARKER}"]', "invalid_json", None),
        ("[" * 100_000, "invalid_json", None),
        (b"audio " + MARKER.encode(), "invalid_request", None),
        (f'{{"type": "{MARKER}"}}', "invalid_request", "type"),
        (f'{{"text": "{MARKER}"}}', "invalid_request", "type"),
        (f'{{"type": ["{MARKER}"]}}', "invalid_request", "type"),
        (f'{{"type": "input.text", "text": ["{MARKER}"]}}', "invalid_request", "text"),
        ('{"type": "input.text"}', "invalid_request", "text"),
        (f'{{"type": "session.config", "voice": "{MARKER}"}}', "unknown_speaker", "voice"),
        (f'{{"type": "session.config", "speaker": "{MARKER}"}}', "unknown_speaker", "voice"),
        (f'{{"type": "session.config", "format": "{MARKER}"}}', "invalid_request", "format"),
        (f'{{"type": "session.config", "language": "{MARKER}"}}', "invalid_request", "language"),
        (f'{{"type": "session.config", "split": "{MARKER}"}}', "invalid_request", "split"),
        ('{"type": "session.config", "split": "token"}', "invalid_request", "split"),
        ('{"type": "session.config", "speed": 5}', "invalid_request", "speed"),
        ('{"type": "session.config", "temperature": 3}', "invalid_request", "temperature"),
        (f'{{"type": "session.config", "model": "{MARKER}"}}', "model_not_found", "model"),
        (f'{{"type": "session.config", "text": "{MARKER}"}}', "invalid_request", "text"),
        (
            f'{{"type": "session.config", "voice_attributes": {{"{MARKER}": 1}}}}',
            "unknown_field",
            f"voice_attributes.{MARKER}",
        ),
    ],
)
def test_a_bad_message_is_an_error_and_the_session_stays(
    server: Server, message: str | bytes, code: str, param: str | None
) -> None:
    with Client(server) as client:
        client.configure(language="english")
        client.socket.send(message)
        error = client.error()
        assert (error["code"], error["type"]) == (code, "invalid_request_error")
        assert error["param"] == param
        named = rf'"(type|voice|speaker|format|language|split|model)": "{MARKER}"|"{MARKER}":'
        assert (MARKER in error["message"]) == bool(re.search(named, str(message)))
        assert kinds(client.say("One.")[0]) == ["audio.start", "audio.done", "session.done"]
    assert MARKER not in server.log.read_text()


def test_text_before_the_configuration_is_refused(server: Server) -> None:
    with Client(server) as client:
        client.write("One.")
        assert client.error()["message"].startswith("send session.config first")
        client.configure()


def test_the_configuration_stays_while_a_text_is_written(server: Server) -> None:
    with Client(server) as client:
        client.configure()
        client.write("One")
        client.send("session.config", format="wav")
        assert client.error()["param"] == "type"
        client.send("input.done")
        assert client.until("session.done")[0][0]["format"] == "pcm"


def test_unknown_fields_are_ignored_as_vllm_omnis_clients_need(server: Server) -> None:
    with Client(server) as client:
        client.configure(
            voice="alloy",
            task_type="CustomVoice",
            stream_audio=True,
            split_granularity="sentence",
            speed=1.0,
            instructions=None,
        )


def test_a_speed_of_the_session_is_that_of_every_sentence(server: Server) -> None:
    with Client(server) as client:
        lengths = []
        for speed in (1, 2, 4):
            ready = client.configure(language="english", seed=1, speed=speed)
            lengths.append(len(client.say("One is said. Two is said.")[1]))
        assert lengths[1] == lengths[2] == pytest.approx(lengths[0] / 2, rel=0.01)
        assert ready["warning"] == "speed is 2, its bound"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_text_that_is_too_long_is_refused(narrow: Server, at_once: bool) -> None:
    with Client(narrow) as client:
        client.configure(language="english")
        text = f"{MARKER} " * 8
        client.write(text, None if at_once else 5)
        error = client.error()
        assert (error["code"], error["param"]) == ("invalid_request", "text")
        assert "60" in error["message"]
        client.send("input.done")
        assert client.expect("session.done")["finish_reason"] == "error"
        assert kinds(client.say("One.")[0]) == ["audio.start", "audio.done", "session.done"]
        assert MARKER not in narrow.log.read_text()


def test_a_message_that_is_too_large_ends_the_session(narrow: Server) -> None:
    with Client(narrow) as client:
        client.configure()
        client.write(MARKER * 300)
        assert client.error()["code"] == "body_too_large"
        with pytest.raises(ConnectionClosed):
            client.receive()
        assert client.socket.close_code == 1009
        assert MARKER not in narrow.log.read_text()


@pytest.mark.parametrize("text", ["...", "😊 **", "[pause:1s]"])
def test_a_text_with_nothing_to_speak_is_refused(server: Server, qwen: Server, text: str) -> None:
    for speaking in (server, qwen):
        with Client(speaking) as client:
            client.configure(language="english", max_length=20, on_unspeakable="error")
            events, audio = client.say(text)
            if not audio:  # the model may sound what the embedded voice has no words for
                assert kinds(events) == ["error", "session.done"]
                assert events[0]["error"]["code"] == "no_reading"


@pytest.mark.parametrize("text", ["...", "😊 **"])
def test_a_text_with_nothing_to_speak_is_a_moment_of_silence(
    server: Server, qwen: Server, text: str
) -> None:
    for speaking in (server, qwen):
        with Client(speaking) as client:
            client.configure(language="english", max_length=20)
            events, audio = client.say(text)
            assert kinds(events) == ["audio.start", "audio.done", "session.done"]
            assert "0.2 s of silence" in events[0]["warning"]
            assert audio == bytes(2 * 4800)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_pronunciations_of_the_session_are_used(
    server: Server, qwen: Server, size: int
) -> None:
    words = {"GPU": "graphics card", "New York": "the city"}
    for speaking, seed in ((server, 1), (qwen, 7)):
        with Client(speaking) as client:
            client.configure(language="english", max_length=30, seed=seed)
            expected = client.say("My graphics card is in the city. Yes.")[1]
            client.configure(language="english", max_length=30, seed=seed, pronunciations=words)
            got = client.say("My GPU is in New York. Yes.", size)[1]
            # By token the codec's chunks depend on when the words came, and so does a last bit.
            samples, same = (np.frombuffer(x, np.int16).astype(int) for x in (got, expected))
            assert len(samples) == len(same)
            assert np.abs(samples - same).max() <= 1


def test_full_normalisation_needs_sentences(qwen: Server) -> None:
    with Client(qwen) as client:
        client.send("session.config", normalize="full", split="token")
        assert client.error()["param"] == "normalize"
        client.configure(normalize="full", split="sentence")


# Who may come in ---------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer wrong"}, {"Authorization": "x"}])
def test_a_wrong_key_is_refused_before_the_socket_opens(
    locked: Server, headers: dict[str, str]
) -> None:
    with pytest.raises(InvalidStatus) as refused, Client(locked, additional_headers=headers):
        pass
    response = refused.value.response
    assert response.status_code == 401
    assert json.loads(response.body)["error"]["code"] == "unauthorized"
    assert response.headers["X-Request-Id"]


def test_the_key_may_come_in_a_header(locked: Server) -> None:
    with Client(locked, additional_headers={"Authorization": f"Bearer {KEY}"}) as client:
        client.configure()


def test_the_key_may_come_in_the_first_message(locked: Server) -> None:
    with Client(locked) as client:
        client.configure(api_key=KEY)
        client.configure(format="wav")
        assert kinds(client.say("One.")[0])[0] == "audio.start"
    assert KEY not in locked.log.read_text()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "session.config"},
        {"type": "session.config", "api_key": MARKER},
        {"type": "input.text", "text": MARKER},
        {"type": "input.done"},
    ],
)
def test_without_the_key_nothing_is_done(locked: Server, message: dict[str, str]) -> None:
    with Client(locked) as client:
        client.socket.send(json.dumps(message))
        assert client.error()["code"] == "unauthorized"
        with pytest.raises(ConnectionClosed):
            client.receive()
        assert client.socket.close_code == 1008
    assert MARKER not in locked.log.read_text()


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [("https://good.example", True), ("https://bad.example", False), ("own", True)],
)
def test_foreign_pages_may_not_open_a_socket(locked: Server, origin: str, is_allowed: bool) -> None:
    origin = locked.base_url if origin == "own" else origin
    if is_allowed:
        with Client(locked, origin=origin) as client:
            client.configure(api_key=KEY)
        return
    with pytest.raises(InvalidStatus) as refused, Client(locked, origin=origin):
        pass
    assert json.loads(refused.value.response.body)["error"]["code"] == "origin_not_allowed"


@pytest.mark.parametrize("path", ["/v1/nothing", "/tts", "/health"])
def test_there_is_no_socket_elsewhere(server: Server, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused, Client(server, path=path):
        pass
    response = refused.value.response
    assert response.status_code == 404
    assert json.loads(response.body)["error"]["code"] == "not_found"


# What is seen ------------------------------------------------------------------------


def test_each_utterance_has_one_line_and_counts_once(server: Server) -> None:
    before = metric(server, "tts_requests_total")
    with Client(server, additional_headers={"X-Request-Id": "talk-1"}) as client:
        assert client.socket.response.headers["X-Request-Id"] == "talk-1"
        assert client.configure(language="english", format="mp3")["request_id"] == "talk-1"
        events, _ = client.say(f"{MARKER} one. Two.")
        assert events[0]["request_id"] == "talk-1.0"
        client.say("Three.")
    lines = [x for x in server.log.read_text().splitlines() if "id=talk-1." in x]
    assert [f"id=talk-1.{n}" in line for n, line in enumerate(lines)] == [True, True]
    for fact in ("format=mp3", "chars=", "seed=", "first_audio_ms=", "outcome=ok", "audio_s="):
        assert fact in lines[0]
    assert metric(server, "tts_requests_total") == before + 2
    metrics = httpx.get(server.base_url + "/metrics").text
    assert f'tts_requests_total{{outcome="ok",route="{PATH}"}}' in metrics
    assert MARKER not in server.log.read_text()


def test_the_first_audio_does_not_wait_for_the_whole_text(qwen: Server) -> None:
    """Text at the pace of a model that writes, and what a listener has when it is done."""
    with Client(qwen) as client:
        client.configure(language="english", seed=3, max_length=40)
        heard = 0
        for word in ("hello ", "the ", "world ", "one "):
            client.write(word)
            wait_until = time.monotonic() + WAIT_S
            while heard == 0 and word != "hello ":
                assert time.monotonic() < wait_until
                message = client.receive()
                heard += isinstance(message, bytes)
        assert heard == 1
        client.send("input.done")
        client.until("session.done")


def test_the_example_of_the_guide_saves_speech(server: Server, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "websocket.md").read_text()
    code = guide.split("```python\n")[1].split("```")[0].replace("8188", str(server.port))
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "session.done" in ran.stdout
    samples = np.frombuffer((tmp_path / "speech.pcm").read_bytes(), "<i2").astype(int)
    assert len(samples) > 24000
    assert np.abs(samples).max() > 1000
