"""Audio responses without a server: bodies, headers, clean-up, metrics and failures."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from prometheus_client import REGISTRY
from starlette.background import BackgroundTask
from starlette.requests import Request
from tests.api.socket_harness import FakeKeeper, at_once

from qwen_tts_service.api import call as call_module
from qwen_tts_service.api import responses, tickets
from qwen_tts_service.api.admission import Admission
from qwen_tts_service.api.call import SCOPE_KEY, Call
from qwen_tts_service.api.openai import CreateSpeechBody, create_speech
from qwen_tts_service.api.wire import StreamTTSBody, TTSBody
from qwen_tts_service.engine.channel import PcmChannel
from qwen_tts_service.errors import (
    BodyTooLarge,
    CannotSpeak,
    ClientLeft,
    InvalidRequest,
    NotReady,
    SynthesisFailed,
    TimedOut,
    TTSError,
    UnsupportedMediaType,
)
from qwen_tts_service.settings import load_settings
from qwen_tts_service.speech.synthesizer import Synthesizer
from qwen_tts_service.types import SpeechRequest, VoiceChoice

RATE = 24000
ROUTE = "/tests-of-speech"
CHOICE = VoiceChoice(
    speaker="зоя 100%",
    language="russian",
    applied=("gender", "age"),
    not_applied={"emotion": "too sad", "instruct": "no"},
)


@dataclass(frozen=True)
class Utterance:
    request: SpeechRequest
    choice: VoiceChoice = CHOICE
    warning: str | None = None
    expected_s: float = 0.0
    start: Callable[["Utterance"], PcmChannel] | None = None

    def speak(self) -> PcmChannel:
        assert self.start is not None
        return self.start(self)


class FakeVoice:
    """Speaks as the words of the text say: seconds of audio, `fail`, `runaway`, `wait`, `die`."""

    model_name = "fake"
    sample_rate_hz = RATE
    device = "cpu"
    speakers = ("зоя",)
    longest_part_chars = None
    facts: ClassVar[dict[str, str]] = {}
    is_healthy = True

    def __init__(self) -> None:
        self.channels: list[PcmChannel] = []
        self.seeds: list[int] = []

    def prepare(self, request: SpeechRequest) -> Utterance:
        if "die" in (request.text or ""):
            raise RuntimeError("a fault in the voice")
        warning = "mind the gap" if "warn" in str(request.text) else None
        return Utterance(request, warning=warning, start=self.speak)

    def speak(self, utterance: Utterance) -> PcmChannel:
        channel = PcmChannel(capacity_samples=10**9)
        self.channels.append(channel)
        self.seeds.append(utterance.request.seed)
        for word in (utterance.request.text or "").split():
            if word == "fail":
                channel.fail(SynthesisFailed("asked to fail"))
            elif word in ("runaway", "cancelled"):
                channel.close(word)
            elif word == "runaway-at-7":
                channel.close("runaway" if utterance.request.seed == 7 else "stop")
            elif word.replace(".", "").isdigit():
                channel.put(np.full(round(float(word) * RATE), 0.0005, np.float32))
        if "wait" not in (utterance.request.text or ""):
            channel.close()
        return channel


def answer(ticket: tickets.Ticket) -> Any:
    return responses.stream_response(ticket, responses.speak_stream(ticket))


class Client:
    """One request, its clean-up, and what it has been sent."""

    def __init__(self, text: str, *, schema: Any = StreamTTSBody, **settings: str) -> None:
        self.voice = FakeVoice()
        self.schema = schema
        synthesizer = Synthesizer(self.voice, sample_rate_hz=RATE)
        self.runtime: Any = SimpleNamespace(
            settings=load_settings({name.upper(): value for name, value in settings.items()}),
            synthesizer=synthesizer,
            keeper=FakeKeeper(synthesizer),
            admission=Admission(slots=1, queue_limit=1),
        )
        self.fields: dict[str, Any] = {"text": text, "format": "pcm", "seed": 7}
        self.call = Call("call-1")
        self.sent: list[dict[str, Any]] = []
        self.parts: list[bytes] = []
        self.content_type = "application/json"
        self.left = asyncio.Event()

    def http(self) -> Request:
        messages = [{"type": "http.request", "body": b"", "more_body": False}]
        body = json.dumps(self.fields).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}, *messages]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await self.left.wait()
            return {"type": "http.disconnect"}

        self.receive = receive
        scope = {
            "type": "http",
            "method": "POST",
            "path": ROUTE,
            "query_string": b"",
            "headers": [(b"content-type", self.content_type.encode())],
            SCOPE_KEY: self.call,
            tickets.RUNTIME_KEY: self.runtime,
            tickets.MAY_CLONE: True,
        }
        return Request(scope, receive)

    async def ticket(self) -> tickets.Ticket:
        return await tickets.read_ticket(self.http(), self.schema)

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def stream(self) -> Any:
        """Ask for a stream and read its answer to the end."""
        response = await answer(await self.ticket())
        await response({"type": "http"}, self.receive, self.send)
        return response

    async def file(self) -> Any:
        """Ask for a file and wait for it."""
        return await responses.PendingFile(await self.ticket()).response()

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent)

    @property
    def is_complete(self) -> bool:
        return self.sent[-1].get("more_body") is False


async def until(condition: Callable[[], object]) -> None:
    """Let the other tasks run until it has come true; fails after 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels or {"route": ROUTE}) or 0.0


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(responses, "monotonic", clock)
    monkeypatch.setattr(tickets, "monotonic", clock)
    monkeypatch.setattr(call_module, "monotonic", clock)
    return clock


def error_of(response: Any) -> dict[str, Any]:
    return dict(json.loads(response.body)["error"])


# Coming in ---------------------------------------------------------------------------


def reading(*messages: dict[str, Any], content_type: str = "application/json") -> Request:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "headers": headers}, receive)


def of_5_bytes() -> Any:
    return SimpleNamespace(max_speech_bytes=5, sets_max_speech_bytes="MAX_SOMETHING")


def part(body: bytes, more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", " application/json ;x"]
)
async def test_a_body_in_parts_is_read_whole_up_to_the_limit(content_type: str) -> None:
    http = reading(part(b"abc", True), part(b"de"), content_type=content_type)
    assert await tickets.read_body(http, of_5_bytes()) == b"abcde"


async def test_one_byte_more_than_the_limit_is_too_large_before_the_rest_is_read() -> None:
    http = reading(part(b"abc", True), part(b"def", True))
    with pytest.raises(BodyTooLarge, match=r"larger than 5 bytes \(MAX_SOMETHING\)"):
        await tickets.read_body(http, of_5_bytes())


@pytest.mark.parametrize(
    "content_type", ["", "text/json", "application/json5", "x;application/json"]
)
async def test_what_is_not_called_json_is_not_read(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="Content-Type: application/json"):
        await tickets.read_body(reading(content_type=content_type), of_5_bytes())


async def test_a_client_that_leaves_within_its_body_has_left() -> None:
    http = reading(part(b"abc", True), {"type": "http.disconnect"})
    with pytest.raises(ClientLeft):
        await tickets.read_body(http, of_5_bytes())


@pytest.mark.parametrize(
    ("data", "code"), [(b"{", "invalid_json"), (b"[]", "invalid_request"), (b"{}", None)]
)
def test_broken_json_has_a_code_of_its_own(data: bytes, code: str | None) -> None:
    if code is None:
        assert tickets.parse_body(data, TTSBody) == TTSBody()
        return
    with pytest.raises(InvalidRequest) as caught:
        tickets.parse_body(data, TTSBody)
    assert caught.value.code == code


async def test_a_valid_request_takes_a_slot_until_its_call_ends_and_is_noted() -> None:
    client = Client("one two")
    ticket = await client.ticket()
    assert (ticket.call, ticket.runtime, ticket.schema) == (
        client.call,
        client.runtime,
        StreamTTSBody,
    )
    assert ticket.request.request_id == "call-1"
    assert client.call.route == ROUTE
    assert client.call.facts == {"format": "pcm", "chars": 7, "seed": 7}
    assert client.runtime.admission.active == 1
    client.call.end()
    assert client.runtime.admission.active == 0


async def test_the_settings_bound_the_body_and_the_text() -> None:
    large = await Client("a" * 2000, max_body_bytes="1024").ticket()
    assert isinstance(large.error, BodyTooLarge)
    long = await Client("aaaa", max_text_chars="3").ticket()
    assert isinstance(long.error, InvalidRequest)
    with pytest.raises(InvalidRequest):
        await long.ready()


async def test_a_request_before_the_voice_is_ready_takes_no_slot() -> None:
    class Starting(FakeKeeper):
        def check_ready(self) -> None:
            raise NotReady("starting")

    client = Client("1")
    admission = client.runtime.admission
    client.runtime.keeper = Starting(client.runtime.synthesizer)
    ticket = await client.ticket()
    assert isinstance(ticket.error, NotReady)
    assert (admission.active, admission.queued) == (0, 0)
    response = await answer(ticket)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


async def test_who_waits_in_vain_for_the_voice_gives_its_slot_back() -> None:
    class Unloaded(FakeKeeper):
        async def wake(self, _at_end: Any) -> Synthesizer:
            raise NotReady("not loaded within 50 s")

    client = Client("1")
    client.runtime.keeper = Unloaded(client.runtime.synthesizer)
    ticket = await client.ticket()
    assert client.runtime.admission.active == 1
    response = await answer(ticket)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert client.call.outcome == NotReady.code
    client.call.end()
    assert client.runtime.admission.active == 0


# A whole file ------------------------------------------------------------------------


async def test_a_files_headers_have_its_length_finish_reason_and_speaker() -> None:
    client = Client("0.5 warn", schema=TTSBody)
    client.fields["format"] = "wav"
    spoken = counted("tts_audio_seconds_total")
    response = await client.file()
    assert response.status_code == 200
    assert len(response.body) == 44 + RATE
    headers = dict(response.headers)
    assert headers.pop("content-length") == str(len(response.body))
    assert headers == {
        "cache-control": "no-store",
        "x-seed": "7",
        "x-model": "fake",
        "x-ai-generated": "true",
        "x-voice": "%D0%B7%D0%BE%D1%8F 100%25",
        "x-language": "russian",
        "x-voice-applied": "gender, age",
        "x-voice-not-applied": "emotion: too sad; instruct: no",
        "x-warning": "mind the gap",
        "content-type": "audio/wav",
        "content-disposition": 'attachment; filename="speech.wav"',
        "x-audio-seconds": "0.500",
        "x-finish-reason": "stop",
    }
    facts = client.call.facts
    assert facts.items() >= {"finish_reason": "stop", "audio_s": 0.5}.items()
    assert facts.items() >= {"model": "fake", "voice": "зоя 100%", "seed": 7}.items()
    assert facts["language"] == "russian"
    assert "first_audio_ms" in facts
    assert counted("tts_audio_seconds_total") == spoken + 0.5


async def test_a_header_without_a_value_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = VoiceChoice(speaker="a", language="russian")
    monkeypatch.setattr(
        FakeVoice, "prepare", lambda voice, request: Utterance(request, bare, start=voice.speak)
    )
    headers = (await Client("1").file()).headers
    assert not {"x-voice-applied", "x-voice-not-applied", "x-warning"} & set(headers)


async def test_the_time_in_the_queue_is_noted(clock: Clock) -> None:
    client = Client("0.5")
    before = client.runtime.admission.enter()
    asked = asyncio.create_task(client.file())
    await until(lambda: client.runtime.admission.queued)
    clock.now_s += 1.2504
    assert not client.voice.channels
    before.release()
    assert (await asyncio.wait_for(asked, 5)).status_code == 200
    assert client.call.facts["queued_ms"] == 1250


async def test_a_runaway_is_spoken_again_with_a_seed_of_ours_only_if_none_was_given() -> None:
    given = Client("0.5 runaway")
    refused = await given.file()
    assert (refused.status_code, error_of(refused)["code"]) == (422, "runaway")
    assert given.voice.seeds == [7]
    drawn = Client("0.5 runaway")
    del drawn.fields["seed"]
    assert (await drawn.file()).status_code == 422
    assert len(drawn.voice.seeds) == len(set(drawn.voice.seeds)) == 2


async def test_the_reported_seed_is_the_one_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([7, 8])
    monkeypatch.setattr(secrets, "randbelow", lambda n: next(drawn) if n == 2**32 else 0)

    client = Client("0.5 runaway-at-7")
    del client.fields["seed"]
    ticket = await client.ticket()
    response = await responses.PendingFile(ticket).response()
    assert client.voice.seeds == [7, 8]
    assert response.headers["x-seed"] == "8"
    assert client.call.facts["seed"] == 8


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("fail", 500, "internal_error"),
        ("die", 500, "internal_error"),
        ("0.1 cancelled", 500, "internal_error"),
        ("wait", 504, "timeout"),
    ],
)
async def test_a_file_that_fails_is_an_error_with_its_status_and_its_voice_is_stopped(
    text: str, status: int, code: str, log: Any
) -> None:
    client = Client(text, request_timeout_s="0.02" if text == "wait" else "60")
    response = await asyncio.wait_for(client.file(), 5)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert client.call.outcome == code
    assert all(channel.is_cancelled for channel in client.voice.channels)
    assert len(client.voice.channels) == (text != "die")
    assert ("a fault in the voice" in log.text) == (text == "die")
    assert ("id=call-1 failed while speaking" in log.text) == (text == "die")


async def test_a_client_that_leaves_stops_its_file() -> None:
    client = Client("wait")
    asked = asyncio.create_task(client.file())
    await until(lambda: client.voice.channels)
    client.left.set()
    response = await asyncio.wait_for(asked, 5)
    assert response.status_code == 499
    assert client.call.outcome == "cancelled"
    assert client.voice.channels[0].is_cancelled


@pytest.mark.parametrize("ask", ["file", "stream"])
async def test_a_client_that_leaves_while_its_recording_is_cloned_is_not_waited_for(
    ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, cloning = Client("1", voice_cloning="1"), asyncio.Event()

    async def clone(_order: object) -> None:
        cloning.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(client.runtime.synthesizer.cloner, "clone", clone)
    client.fields["ref_audio"] = "AAAA"
    asked = asyncio.create_task(getattr(client, ask)())
    await asyncio.wait_for(cloning.wait(), 5)
    assert client.runtime.admission.active == 1
    client.left.set()
    await asyncio.wait_for(asked, 5)
    assert client.call.outcome == "cancelled"


async def test_a_recording_that_takes_too_long_to_clone_times_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client("1", voice_cloning="1", request_timeout_s="0.05")

    async def clone(_order: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(client.runtime.synthesizer.cloner, "clone", clone)
    client.fields["ref_audio"] = "AAAA"
    response = await asyncio.wait_for(client.file(), 5)
    assert (response.status_code, client.call.outcome) == (504, TimedOut.code)


async def test_an_unread_file_is_stopped_when_its_call_ends() -> None:
    client = Client("wait")
    responses.PendingFile(await client.ticket())
    await until(lambda: client.voice.channels)
    client.call.end()
    await until(lambda: client.voice.channels[0].is_cancelled)


# A stream ----------------------------------------------------------------------------


async def test_a_stream_sends_its_head_its_parts_and_an_end() -> None:
    client = Client("0.5 0.25 warn")
    before = counted("tts_audio_seconds_total")
    ran: list[int] = []
    response = await answer(await client.ticket())
    response.background = BackgroundTask(lambda: ran.append(1))
    await response({"type": "http"}, client.receive, client.send)
    start = client.sent[0]
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    headers = {k.decode(): v.decode() for k, v in start["headers"]}
    assert headers["x-accel-buffering"] == "no"
    assert headers["cache-control"] == "no-store"
    assert headers["x-seed"] == "7"
    assert headers["x-warning"] == "mind the gap"
    assert headers["content-disposition"] == 'attachment; filename="speech.pcm"'
    assert "content-length" not in headers
    assert client.is_complete
    assert [m["more_body"] for m in client.sent[1:]] == [True] * (len(client.sent) - 2) + [False]
    assert client.sent[-1]["body"] == b""
    assert len(client.body) == 2 * 0.75 * RATE
    assert len(client.sent) == 5  # the last 5 ms, which may be faded out, come by themselves
    assert client.call.facts["finish_reason"] == "stop"
    assert client.call.facts["audio_s"] == 0.75
    assert client.call.facts["underruns"] == 0
    assert "first_audio_ms" in client.call.facts
    assert counted("tts_audio_seconds_total") == before + 0.75
    assert client.call.outcome is None
    assert ran == [1]


async def test_the_first_audio_is_counted_when_it_has_been_handed_over(clock: Clock) -> None:
    client = Client("0.5 0.5")
    client.fields["format"] = "wav"
    response = await answer(await client.ticket())

    async def send(_message: Any) -> None:
        clock.now_s += 1

    await response({"type": "http"}, client.receive, send)
    assert client.call.facts["first_audio_ms"] == 2000


@pytest.mark.parametrize(
    ("text", "code", "sent_s"),
    [("0.5 fail", "internal_error", 0.495), ("0.5 runaway", "runaway", 0.5)],
)
async def test_a_failure_on_the_way_leaves_the_answer_unfinished(
    text: str, code: str, sent_s: float
) -> None:
    client = Client(text)
    await client.stream()
    assert len(client.body) == 2 * sent_s * RATE
    assert not client.is_complete
    assert client.call.outcome == code
    assert client.call.facts["audio_s"] == sent_s
    assert client.voice.channels[0].is_cancelled


@pytest.mark.parametrize(
    ("text", "status", "code", "words"),
    [
        ("fail", 500, "internal_error", "asked to fail"),
        ("die", 500, "internal_error", "the speech failed; the log has the details"),
        ("silence", 500, "internal_error", "the voice made no sound for this text"),
        ("runaway", 500, "runaway", "did not find an end"),
        ("cancelled", 500, "internal_error", "stopped before its end"),
        ("wait", 504, "timeout", "REQUEST_TIMEOUT_S"),
    ],
)
async def test_what_fails_before_the_first_audio_has_its_status_and_stops_the_voice(
    text: str, status: int, code: str, words: str
) -> None:
    client = Client(text, request_timeout_s="0.02" if text == "wait" else "60")
    response = await asyncio.wait_for(client.stream(), 5)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert words in error_of(response)["message"]
    assert client.call.outcome == code
    assert len(client.voice.channels) == (text != "die")
    assert all(channel.is_cancelled for channel in client.voice.channels)


async def test_a_stream_that_waits_too_long_for_a_slot_never_speaks() -> None:
    client = Client("0.5", request_timeout_s="0.02")
    client.runtime.admission.enter()
    response = await asyncio.wait_for(client.stream(), 5)
    assert response.status_code == 504
    assert not client.voice.channels
    client.call.end()
    assert client.runtime.admission.queued == 0


@at_once
async def test_a_stream_may_last_longer_than_its_first_audio_may_take() -> None:
    client = Client("0.5 wait", request_timeout_s="60")
    asked = asyncio.create_task(client.stream())
    await until(lambda: len(client.sent) > 1)
    await asyncio.sleep(61)  # past the limit, which has ended with the first audio
    (channel,) = client.voice.channels
    channel.close()
    await asyncio.wait_for(asked, 5)
    assert client.is_complete


@pytest.mark.parametrize("text", ["wait", "0.5 wait"])
async def test_a_client_that_leaves_stops_its_stream(text: str) -> None:
    client = Client(text)
    before = asyncio.all_tasks()
    asked = asyncio.create_task(client.stream())
    await until(lambda: client.voice.channels and (text == "wait" or len(client.sent) > 1))
    client.left.set()
    await asyncio.wait_for(asked, 5)
    assert client.call.outcome == "cancelled"
    assert client.voice.channels[0].is_cancelled
    assert text == "wait" or not client.is_complete
    assert asyncio.all_tasks() == before


async def test_a_client_that_leaves_without_having_read_stops_its_stream() -> None:
    client = Client("0.5 0.5 wait")
    response = await answer(await client.ticket())

    async def send(message: Any) -> None:
        await client.send(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    answering = asyncio.create_task(response({"type": "http"}, client.receive, send))
    await until(lambda: len(client.sent) > 1)
    client.left.set()
    await asyncio.wait_for(answering, 5)
    assert client.voice.channels[0].is_cancelled
    assert client.call.outcome == "cancelled"
    assert client.call.facts["audio_s"] == 0.495


@pytest.mark.parametrize(
    ("arrivals_s", "underruns"),
    [
        pytest.param([0.0, 0.0, 0.0], 0, id="at once"),
        pytest.param([1.0, 2.0, 3.0], 0, id="just when the audio before has been played"),
        pytest.param([1.1, 2.0, 3.0], 1, id="the first too late"),
        pytest.param([0.5, 2.1, 3.0], 1, id="the second too late"),
        pytest.param([0.5, 2.0, 3.1], 1, id="the last too late"),
        pytest.param([2.1, 3.2, 4.3], 3, id="each too late"),
    ],
)
async def test_a_part_that_comes_after_all_before_it_was_played_is_an_underrun(
    clock: Clock, arrivals_s: list[float], underruns: int
) -> None:
    began_s = clock.now_s
    speech: Any = SimpleNamespace(audio_s=1.0)

    async def parts() -> AsyncIterator[bytes]:
        for arrival_s in arrivals_s:
            clock.now_s = began_s + arrival_s
            speech.audio_s += 1.0
            yield b"x"

    for route in (ROUTE, None):
        clock.now_s, speech.audio_s = began_s, 1.0
        call = Call("call-1")
        call.route = route
        before = counted("tts_underruns_total")
        heard = [p async for p in responses._counting_underruns(call, speech, parts())]
        assert heard == [b"x"] * 3
        assert call.facts == {"underruns": underruns}
        assert counted("tts_underruns_total") == before + (underruns if route else 0)


# What goes wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "param"),
    [
        (TimeoutError(), "timeout", None),
        (ValueError("secret"), "internal_error", None),
        (CannotSpeak("text: no", param="text"), "cannot_speak", "input"),
    ],
)
def test_a_failure_is_named_for_client_and_log(error: Exception, code: str, param: str) -> None:
    call = Call("call-1")
    ticket: Any = SimpleNamespace(call=call, schema=CreateSpeechBody)
    failure = tickets.Ticket.fail(ticket, error)
    assert (failure.code, failure.param, call.outcome) == (code, param, code)
    assert isinstance(failure, TimedOut) == isinstance(error, TimeoutError)
    assert "secret" not in failure.message


async def test_only_a_disconnect_means_that_the_client_has_left() -> None:
    messages = [part(b""), part(b""), {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    forever = asyncio.create_task(asyncio.Event().wait())
    with pytest.raises(ClientLeft):
        await responses.unless_client_leaves(forever, receive)
    assert forever.cancelled()
    assert not messages


# OpenAI's events ---------------------------------------------------------------------


def events(client: Client) -> list[dict[str, Any]]:
    lines = client.body.decode().split("\n\n")
    assert lines.pop() == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def ask_for_events(client: Client) -> Any:
    client.fields["input"] = client.fields.pop("text")
    client.fields["response_format"] = client.fields.pop("format")
    client.fields["stream_format"] = "sse"
    response = await create_speech(client.http())
    await response({"type": "http"}, client.receive, client.send)
    return response


async def test_the_last_event_counts_characters_frames_and_seconds() -> None:
    client = Client("0.8 0.001 zoé", schema=CreateSpeechBody)
    response = await ask_for_events(client)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-disposition" not in response.headers
    heard = events(client)
    assert [e["type"] for e in heard] == ["speech.audio.delta"] * 3 + ["speech.audio.done"]
    assert heard[-1] == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 13, "output_tokens": 11, "total_tokens": 24},
        "finish_reason": "stop",
        "seed": 7,
        "audio_seconds": 0.801,
    }
    assert client.is_complete


async def test_whole_frames_are_counted_without_one_more() -> None:
    client = Client("0.24 0.08 0.24", schema=CreateSpeechBody)
    await ask_for_events(client)
    assert events(client)[-1]["usage"]["output_tokens"] == 7


async def test_a_late_failure_is_an_event_and_no_end() -> None:
    client = Client("0.5 runaway", schema=CreateSpeechBody)
    await ask_for_events(client)
    heard = events(client)
    assert [e["type"] for e in heard] == ["speech.audio.delta"] * 2 + ["error"]
    assert heard[-1]["error"]["code"] == "runaway"
    assert not client.is_complete
    assert client.call.outcome == "runaway"


async def test_a_refused_ticket_raises_why() -> None:
    error = TTSError("m")
    ticket = tickets.Ticket(reading(), Call("x"), SimpleNamespace(), TTSBody, error)
    with pytest.raises(TTSError) as caught:
        await ticket.ready()
    assert caught.value is error
