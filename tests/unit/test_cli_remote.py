"""A server as the synthesizer of a book's parts: busy, lost, refusing, and not one of ours."""

import asyncio

import httpx
import pytest

from qwen_tts_service.cli import remote
from qwen_tts_service.cli.arguments import CommandError
from qwen_tts_service.cli.remote import MOST_LOST, RemoteSynthesizer, health_of, open_client
from qwen_tts_service.errors import CannotSpeak, InvalidRequest
from qwen_tts_service.settings import Settings
from qwen_tts_service.speech.cloning import CloningOrder

Answer = httpx.Response | Exception
DONE = httpx.Response(200, content=b"fLaC", headers={"X-Voice": "anna", "X-Finish-Reason": "stop"})
HEALTHY = {"ready": True, "slots": {"total": 4}, "model": "m", "sampling_rate": 24000}


def refused(status: int, code: str = "x", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": "why"}}, headers=headers)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it waits, without waiting."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def wait(duration_s: float) -> None:
        waits.append(duration_s)
        await sleep(0)

    monkeypatch.setattr(remote.asyncio, "sleep", wait)
    return waits


def client(*answers: Answer, requests: list[httpx.Request] | None = None) -> httpx.AsyncClient:
    """A client of a server that gives these answers, one after the other."""
    left = list(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        if requests is not None:
            requests.append(request)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.AsyncClient(base_url="http://server/x/", transport=httpx.MockTransport(handle))


async def test_a_busy_server_is_waited_for_as_it_asks(waits: list[float]) -> None:
    busy = refused(429, "busy", **{"Retry-After": "7"})
    answers = [busy] * 9 + [refused(503), DONE]
    part = await RemoteSynthesizer(client(*answers), {}).speak("text", 5)
    assert waits == [7.0] * 9 + [1.0]
    assert (part.audio, part.speaker, part.seed, part.is_cut) == (b"fLaC", "anna", 5, False)


async def test_a_lost_connection_is_tried_again_and_then_given_up(waits: list[float]) -> None:
    lost = httpx.ReadError("")
    again = RemoteSynthesizer(client(*[lost] * (MOST_LOST - 1), DONE), {})
    assert (await again.speak("text", 5)).audio == b"fLaC"
    assert waits == [1.0, 2.0, 4.0]
    with pytest.raises(CommandError, match=r"http://server/x/ does not answer: ReadError"):
        await RemoteSynthesizer(client(*[lost] * MOST_LOST), {}).speak("text", 5)


async def test_a_request_has_the_fields_the_text_and_the_seed() -> None:
    requests: list[httpx.Request] = []
    fields = {"speaker": "anna", "timestamps": "sentence"}
    body = {"audio": "ZkxhQw==", "timestamps": [
        {"text": "a", "start_s": 0.0, "end_s": 1.0, "start_char": 0, "end_char": 1}
    ]}  # fmt: skip
    answer = httpx.Response(200, json=body, headers={"X-Finish-Reason": "length"})
    part = await RemoteSynthesizer(client(answer, requests=requests), fields).speak("text", 5)
    assert (part.audio, part.is_cut, part.timestamps[0].end_s) == (b"fLaC", True, 1.0)
    [request] = requests
    assert str(request.url) == "http://server/x/tts"
    assert request.headers["Accept"] == "application/json"
    assert httpx.Response(200, content=request.content).json() == {
        **fields, "text": "text", "seed": 5, "format": "flac"
    }  # fmt: skip


@pytest.mark.parametrize(("transcript", "sent"), [("Hi.", "Hi."), (None, None)])
async def test_a_recording_goes_along(transcript: str | None, sent: str | None) -> None:
    requests: list[httpx.Request] = []
    order = CloningOrder(data=b"fLaC", transcript=transcript)
    await RemoteSynthesizer(client(DONE, requests=requests), {}, order).speak("text", 5)
    body = httpx.Response(200, content=requests[0].content).json()
    assert (body["ref_audio"], body.get("ref_text")) == ("ZkxhQw==", sent)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refused(422, "runaway"), CannotSpeak, "why"),
        (refused(400, "runaway"), InvalidRequest, "why"),
        (refused(413), CommandError, "the server answers 413: why"),
        (refused(401), CommandError, "the server answers 401: why; set API_KEY"),
        (httpx.Response(500, text="oops"), CommandError, "500: Internal Server Error"),
    ],
)
async def test_a_refusal_is_passed_on(answer: Answer, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as refusal:
        await RemoteSynthesizer(client(answer), {}).speak("text", 5)
    assert getattr(refusal.value, "code", "runaway") == "runaway"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(200, text="<html>"), "no server of this kind"),
        (httpx.Response(200, json=[]), "no server of this kind"),
        (httpx.Response(200, json={"ready": True}), "no server of this kind"),
        (httpx.Response(503, json={**HEALTHY, "ready": False, "status": "loading"}), "loading"),
        (httpx.ConnectError("no route"), "does not answer: no route"),
    ],
)
async def test_a_server_that_cannot_speak_is_told_at_once(answer: Answer, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        await health_of(client(answer))


async def test_a_server_that_can_speak_says_what_it_is() -> None:
    assert await health_of(client(httpx.Response(200, json=HEALTHY))) == HEALTHY


@pytest.mark.parametrize(("key", "header"), [("", None), ("k", "Bearer k")])
async def test_the_key_is_sent_if_there_is_one(key: str, header: str | None) -> None:
    async with open_client("http://server", Settings(api_key=key)) as opened:
        assert opened.headers.get("Authorization") == header


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(CommandError, match="--url: "):
        open_client("http://server:x", Settings())
