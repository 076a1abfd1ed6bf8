"""Invalid requests: status and error body of every rule, and no request text in them.

Each bad request carries a marker that may never be in the log, and in the answer only where it
stood for a name or a listed value.
"""

import json
import socket
from typing import Any

import httpx
import pytest
from tests.conftest import Server

from qwen_tts_service.settings import Settings

MARKER = "Zwetschge"
SPEAKING = ("/tts", "/stream-tts")


def body(**fields: Any) -> bytes:
    return json.dumps({"text": MARKER, **fields}).encode()


BROKEN = [
    pytest.param(body(text=None), "text", id="no-text"),
    pytest.param(body(text=""), "text", id="empty-text"),
    pytest.param(body(text=" \n\t\u3000"), "text", id="blank-text"),
    pytest.param(body(tokens=[1, 2]), "text", id="text-and-tokens"),
    pytest.param(body(text=MARKER * 1000), "text", id="text-too-long"),
    pytest.param(body(text=[MARKER]), "text", id="text-is-a-list"),
    pytest.param(b'{"text": "\\ud800 %s"}' % MARKER.encode(), None, id="half-a-surrogate"),
    pytest.param(body(text=None, tokens=[]), "tokens", id="no-tokens"),
    pytest.param(body(text=None, tokens=[1, -1]), "tokens", id="negative-token"),
    pytest.param(body(text=None, tokens=[MARKER]), "tokens", id="token-is-a-word"),
    pytest.param(body(text=None, tokens=[1] * 5000), "tokens", id="too-many-tokens"),
    pytest.param(body(temperature="0.7"), "temperature", id="temperature-is-a-string"),
    pytest.param(body(temperature=-0.1), "temperature", id="temperature-below-0"),
    pytest.param(body(temperature=2.1), "temperature", id="temperature-above-2"),
    pytest.param(b'{"text": "%s", "temperature": NaN}' % MARKER.encode(), "temperature", id="nan"),
    pytest.param(
        b'{"text": "%s", "temperature": 1e999}' % MARKER.encode(), "temperature", id="infinite"
    ),
    pytest.param(body(max_length=0), "max_length", id="max-length-0"),
    pytest.param(body(max_length=4097), "max_length", id="max-length-4097"),
    pytest.param(body(max_length=1.5), "max_length", id="max-length-is-a-fraction"),
    pytest.param(body(max_length=True), "max_length", id="max-length-is-a-bool"),
    pytest.param(body(format=None), "format", id="format-null"),
    pytest.param(body(seed=-1), "seed", id="seed-below-0"),
    pytest.param(body(seed=2**32), "seed", id="seed-too-large"),
    pytest.param(body(top_p=0), "top_p", id="top-p-0"),
    pytest.param(body(top_k=-1), "top_k", id="top-k-below-0"),
    pytest.param(body(instruct=MARKER * 100), "instruct", id="instruct-too-long"),
    pytest.param(body(voice_attributes={"age": 0}), "voice_attributes.age", id="age-0"),
    pytest.param(body(voice_attributes={"age": 121}), "voice_attributes.age", id="age-121"),
    pytest.param(
        body(voice_attributes={"age": MARKER}), "voice_attributes.age", id="age-is-a-word"
    ),
    pytest.param(
        body(voice_attributes={"emotion": 5}), "voice_attributes.emotion", id="emotion-is-a-number"
    ),
    pytest.param(body(voice_attributes=MARKER), "voice_attributes", id="attributes-is-a-word"),
    pytest.param(
        body(voice_attributes={"sex": MARKER}), "voice_attributes.sex", id="unknown-attribute"
    ),
    pytest.param(
        body(voice_attributes={"emotions": MARKER}),
        "voice_attributes.emotions",
        id="misspelt-attribute",
    ),
    pytest.param(body(temprature=MARKER), "temprature", id="misspelt-field"),
    pytest.param(b"%s {" % MARKER.encode(), None, id="not-json"),
    pytest.param(b'"%s"' % MARKER.encode(), None, id="json-but-no-object"),
    pytest.param(b'{"text": "%s"' % MARKER.encode(), None, id="cut-json"),
    pytest.param(b"[" * 100_000 + MARKER.encode(), None, id="deep-json"),
    pytest.param(b"", None, id="no-body"),
    pytest.param(b'{"text": "%s\xff"}' % MARKER.encode(), None, id="not-utf8"),
]


NAMED = [
    ({"format": MARKER}, "format"),
    ({"normalize": MARKER}, "normalize"),
    ({"language": MARKER}, "language"),
    ({"speaker": MARKER}, "speaker"),
    ({"voice_attributes": {"gender": MARKER}}, "voice_attributes.gender"),
    ({MARKER: 1}, MARKER),
    ({"voice_attributes": {MARKER: 1}}, f"voice_attributes.{MARKER}"),
]
"""A name or a listed value that there is not, and the field that is named."""


def check_error(response: httpx.Response, status: int, *, is_named: bool = False) -> dict[str, Any]:
    """The answer has the one error shape, the right status, and the caller's word if `is_named`."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"code", "message", "type", "param"}
    assert error["code"]
    assert error["message"]
    assert (MARKER in error["message"]) == is_named
    assert MARKER not in str(response.headers)
    return dict(error)


@pytest.mark.parametrize("route", SPEAKING)
@pytest.mark.parametrize(("fields", "param"), NAMED)
def test_a_name_that_there_is_not_is_quoted_to_its_sender_and_not_in_the_log(
    server: Server, route: str, fields: dict[str, Any], param: str
) -> None:
    response = httpx.post(server.base_url + route, json={"text": "x", **fields})
    assert check_error(response, 400, is_named=True)["param"] == param
    assert MARKER not in server.log.read_text()
    assert MARKER not in httpx.get(server.base_url + "/metrics").text


@pytest.mark.parametrize("route", SPEAKING)
@pytest.mark.parametrize(("content", "param"), BROKEN)
def test_a_broken_rule_is_a_400_that_names_the_field(
    server: Server, route: str, content: bytes, param: str | None
) -> None:
    headers = {"Content-Type": "application/json"}
    response = httpx.post(server.base_url + route, content=content, headers=headers)
    error = check_error(response, 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize("route", SPEAKING)
@pytest.mark.parametrize(
    "media_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None]
)
def test_a_body_that_is_not_called_json_is_a_415_that_shows_the_header(
    server: Server, route: str, media_type: str | None
) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    response = httpx.post(server.base_url + route, content=body(), headers=headers)
    error = check_error(response, 415)
    assert "Content-Type: application/json" in error["message"]
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize("route", SPEAKING)
def test_pickle_is_refused_like_any_other_type(server: Server, route: str) -> None:
    headers = {"Content-Type": "application/vnd.bentoml+pickle"}
    response = httpx.post(server.base_url + route, content=b"\x80\x04.", headers=headers)
    assert check_error(response, 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize("route", SPEAKING)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["with-length", "chunked"])
def test_a_body_that_is_too_large_is_a_413(server: Server, route: str, is_chunked: bool) -> None:
    large = body(text=MARKER + "a" * Settings.model_fields["max_body_bytes"].default)
    content: Any = iter([large]) if is_chunked else large
    headers = {"Content-Type": "application/json"}
    response = httpx.post(server.base_url + route, content=content, headers=headers)
    assert check_error(response, 413)["code"] == "body_too_large"
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize("path", [f"/{MARKER}", f"/tts/{MARKER}", "/v9/audio"])
def test_an_unknown_route_is_a_404(server: Server, path: str) -> None:
    check_error(httpx.post(server.base_url + path, json={"text": MARKER}), 404)
    assert MARKER not in server.log.read_text()
    assert MARKER not in httpx.get(server.base_url + "/metrics").text


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/tts"), ("PUT", "/stream-tts"), ("POST", "/health")]
)
def test_a_wrong_method_is_a_405_that_names_the_right_one(
    server: Server, method: str, path: str
) -> None:
    response = httpx.request(method, server.base_url + path, params={"q": MARKER})
    check_error(response, 405)
    assert response.headers["allow"]
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize("route", SPEAKING)
def test_a_token_that_no_vocabulary_has_is_a_400(server: Server, route: str) -> None:
    response = httpx.post(server.base_url + route, json={"tokens": [2**32]})
    assert check_error(response, 400)["param"] == "tokens"


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/audio/voices", "GET, HEAD, POST"), ("/v1/audio/voices/x", "DELETE, GET, HEAD")],
)
def test_a_wrong_method_names_all_of_a_path_of_several(
    server: Server, path: str, methods: str
) -> None:
    allowed = httpx.put(server.base_url + path).headers["allow"]
    assert ", ".join(sorted(allowed.split(", "))) == methods


@pytest.mark.parametrize("route", SPEAKING)
def test_tokens_for_a_voice_without_a_tokenizer_are_a_422(server: Server, route: str) -> None:
    response = httpx.post(server.base_url + route, json={"tokens": [1, 2, 3]})
    error = check_error(response, 422)
    assert (error["code"], error["param"]) == ("tokens_not_supported", "tokens")


@pytest.mark.parametrize("route", SPEAKING)
def test_text_without_a_reading_is_a_422(server: Server, route: str) -> None:
    response = httpx.post(server.base_url + route, json={"text": "⁂ ⁂ ⁂", "language": "russian"})
    assert check_error(response, 422)["param"] == "text"


def test_a_clients_request_id_is_returned_and_a_malformed_one_is_not(server: Server) -> None:
    url = server.base_url + "/tts"
    own = httpx.post(url, json={}, headers={"X-Request-Id": "call-7"})
    strange = httpx.post(url, json={}, headers={"X-Request-Id": f"{MARKER} <script>"})
    assert own.headers["x-request-id"] == "call-7"
    check_error(strange, 400)
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize(
    "route", [*SPEAKING, "/v1/audio/speech", "/v1/audio/speech/batch", "/v1/audio/voices"]
)
def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(
    server: Server, route: str
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {2**30}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
