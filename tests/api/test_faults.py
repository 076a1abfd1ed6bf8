"""Exceptions in model, codec, tokenizer and encoder, on every route, early and late.

Early is before the first audio: the error has its status. Late is behind it: the stream breaks.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.test_waiting import is_idle, wait_for
from tests.api.test_websocket import Client
from tests.conftest import Server, StartServer

SERVICE = "tests.api.faulty_service:QwenTTS"
PLACES = ("prefill", "step", "codec", "encoder", "tokenizer")
SHORT = {"seed": 3, "language": "english", "max_length": 10}
PARTS = " [pause 0.1s] ".join(["one two three four five"] * 20)
LONG = {**SHORT, "max_length": 300}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def fault_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fault") / "fault"


@pytest.fixture(scope="module")
def faulty(start_server: StartServer, quick_checkpoint: Path, fault_file: Path) -> Iterator[Server]:
    path = str(quick_checkpoint.parent)
    settings = {"MODEL_NAME": "quick", "MODEL_PATH": path, "DEVICE": "cpu", "DETERMINISTIC": "1"}
    with start_server(SERVICE, FAULT=str(fault_file), **settings) as server:
        yield server


@pytest.fixture
def fail(fault_file: Path) -> Iterator[Callable[..., None]]:
    """Have the next calls of a place fail."""

    def fail(place: str, times: int = 1) -> None:
        new = fault_file.with_suffix(".new")
        new.write_text(f"{place} {times} {next(_numbers)}")
        new.rename(fault_file)

    yield fail
    fault_file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def expected(faulty: Server) -> bytes:
    return whole(faulty)


def whole(server: Server) -> bytes:
    """A seeded request, spoken to its end."""
    answer = httpx.post(f"{server.base_url}/tts", json={"text": "one two", **SHORT}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.content


ROUTES = {
    "/tts": {"text": "one two"},
    "/stream-tts": {"text": "one two"},
    "/v1/audio/speech": {"input": "one two", "response_format": "wav"},
    "/v1/audio/speech?sse": {"input": "one two", "response_format": "wav", "stream_format": "sse"},
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("place", PLACES)
def test_a_failure_before_the_first_audio_is_a_500_and_the_next_request_works(
    faulty: Server, expected: bytes, fail: Callable[..., None], route: str, place: str
) -> None:
    fail(place)
    answer = httpx.post(faulty.base_url + route, json={**SHORT, **ROUTES[route]}, timeout=60)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "injected" not in answer.text
    assert whole(faulty) == expected
    assert is_idle(faulty)


@pytest.mark.parametrize("place", PLACES)
def test_a_failure_in_a_batch_is_an_error_of_its_item(
    faulty: Server, expected: bytes, fail: Callable[..., None], place: str
) -> None:
    fail(place)
    item = {"input": "one two", "response_format": "wav"}
    body = {"voice": "alloy", **SHORT, "items": [item]}
    answer = httpx.post(f"{faulty.base_url}/v1/audio/speech/batch", json=body, timeout=60)
    (result,) = answer.json()["results"]
    assert (result["status"], result["error"]["code"]) == ("error", "internal_error")
    assert whole(faulty) == expected


@pytest.mark.parametrize("place", [place for place in PLACES if place != "tokenizer"])
@pytest.mark.parametrize("route", ["/stream-tts", "/v1/audio/speech", "/v1/audio/speech?sse"])
def test_a_failure_behind_the_first_audio_breaks_the_stream_or_is_an_event(
    faulty: Server, expected: bytes, fail: Callable[..., None], route: str, place: str
) -> None:
    field = "text" if route == "/stream-tts" else "input"
    body = {**LONG, **ROUTES[route], field: PARTS}
    got = b""
    with httpx.stream("POST", faulty.base_url + route, json=body, timeout=60) as answer:
        parts = answer.iter_raw()
        got += next(parts)
        fail(place)
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - what came before it counts
            for part in parts:
                got += part
    if route.endswith("sse"):
        last = json.loads(got.decode().strip().rpartition("data: ")[2])
        assert (last["type"], last["error"]["code"]) == ("error", "internal_error")
    assert whole(faulty) == expected
    wait_for(lambda: is_idle(faulty))


@pytest.mark.parametrize(
    ("place", "split", "is_late"),
    [
        (place, split, is_late)
        for place in PLACES
        for split in ("token", "sentence")
        for is_late in (False, True)
        if (place, split, is_late) != ("prefill", "token", True)  # one prompt for all its words
    ],
)
def test_a_failure_over_the_websocket_is_an_error_and_the_session_stays(
    faulty: Server, fail: Callable[..., None], place: str, split: str, is_late: bool
) -> None:
    with Client(faulty) as client:
        # A prompt without a prefix that is in the cache, or it needs no prefill.
        new = f"Like {next(_numbers)}."
        client.configure(**LONG, split=split, format="wav", instructions=new)
        if is_late:
            client.write("one two three four. One ")
            client.expect("audio.start")
        fail(place)
        client.write("two three. One two three.")
        client.send("input.done")
        events, _ = client.until("session.done")
        errors = [event for event in events if event["type"] == "error"]
        assert [error["error"]["code"] for error in errors] == ["internal_error"]
        assert events[-1]["finish_reason"] == "error"
        client.configure(**SHORT, split=split, format="wav")
        assert client.say("one two.")[0][-1]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("place", ["prefill", "encoder", "tokenizer"])
def test_a_neighbour_with_a_seed_is_not_changed(
    faulty: Server, fail: Callable[..., None], place: str
) -> None:
    body: dict[str, Any] = {**LONG, "text": "one two " * 30, "format": "flac", "max_length": 60}

    def speak() -> bytes:
        answer = httpx.post(f"{faulty.base_url}/stream-tts", json=body, timeout=60)
        assert answer.status_code == 200
        return answer.content

    alone = speak()
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", f"{faulty.base_url}/stream-tts", json=body, timeout=60) as answer,
    ):
        parts = answer.iter_raw()
        got = next(parts)
        fail(place)
        failing = pool.submit(
            httpx.post, f"{faulty.base_url}/tts", json={**SHORT, "text": "three"}, timeout=60
        )
        got += b"".join(parts)
        assert failing.result().status_code == 500
    assert got == alone


def test_three_failed_steps_in_a_row_turn_readiness_off_and_are_said(
    start_server: StartServer, quick_checkpoint: Path, tmp_path: Path
) -> None:
    fault = tmp_path / "fault"
    path = str(quick_checkpoint.parent)
    settings = {"MODEL_NAME": "quick", "MODEL_PATH": path, "DEVICE": "cpu"}
    with start_server(SERVICE, FAULT=str(fault), **settings) as server:
        fault.write_text("step 3 0")
        for _ in range(3):
            assert httpx.get(f"{server.base_url}/readyz").status_code == 200
            answer = httpx.post(f"{server.base_url}/tts", json={"text": "one", **SHORT}, timeout=60)
            assert answer.status_code == 500
        wait_for(lambda: httpx.get(f"{server.base_url}/readyz").status_code == 503)
        assert httpx.get(f"{server.base_url}/livez").status_code == 503
        answer = httpx.post(f"{server.base_url}/tts", json={"text": "one"}, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
