"""POST /v1/audio/speech/batch on a server: what an item says is what it would say by itself."""

import base64
from typing import Any

import httpx
import pytest
from tests.conftest import Server

PATH = "/v1/audio/speech/batch"


def post(server: Server, body: Any) -> httpx.Response:
    return httpx.post(server.base_url + PATH, json=body, timeout=60)


def test_items_say_what_requests_of_their_own_would_and_win_over_the_defaults(
    server: Server,
) -> None:
    defaults = {"voice": "alloy", "seed": 3, "language": "en"}
    items = [{"input": "One."}, {"input": "Two.", "voice": "onyx", "response_format": "flac"}]
    body = post(server, {**defaults, "items": items, "timestamps": "word"}).json()
    assert (body["total"], body["succeeded"], body["failed"]) == (2, 2, 0)
    for result, item in zip(body["results"], items, strict=True):
        alone = httpx.post(
            f"{server.base_url}/v1/audio/speech",
            json={"response_format": "wav", "timestamps": "word", **defaults, **item},
            headers={"Accept": "application/json"},
            timeout=60,
        )
        assert result["audio_data"] == alone.json()["audio"]
        assert result["timestamps"] == alone.json()["timestamps"]
        assert (result["voice"], str(result["seed"])) == (alone.headers["x-voice"], "3")
    assert [result["media_type"] for result in body["results"]] == ["audio/wav", "audio/flac"]


def test_an_item_may_fail_by_itself(server: Server) -> None:
    items = [{"input": "One."}, {"voice": "alloy"}, {"input": "a", "voice": "nobody"}]
    answer = post(server, {"items": items})
    assert answer.headers["x-ai-generated"] == "true"
    body = answer.json()
    assert [result["status"] for result in body["results"]] == ["success", "error", "error"]
    assert base64.b64decode(body["results"][0]["audio_data"])[:4] == b"RIFF"
    errors = [result["error"] for result in body["results"][1:]]
    assert [error["param"] for error in errors] == ["input", "voice"]
    assert all(set(error) == {"code", "message", "type", "param"} for error in errors)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param({}, "items: is missing", id="none"),
        pytest.param({"items": []}, "at least 1", id="empty"),
        pytest.param({"items": [{}] * 33}, "at most 32", id="too many"),
        pytest.param({"items": ["One."]}, "items: must be an object; got a string", id="texts"),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(server: Server, body: Any, says: str) -> None:
    answer = post(server, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "items"
    assert says in answer.json()["error"]["message"]


def test_a_batch_is_no_longer_than_any_body(server: Server) -> None:
    answer = post(server, {"items": [{"input": "a" * 40_000}] * 32})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
