"""Error responses: status, type, headers and message of each."""

import json
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from qwen_tts_service import errors as e
from qwen_tts_service.api.errors import in_words_of, plain_body, response_of, status_of

CLIENT, SERVER = "invalid_request_error", "server_error"
BUSY = e.Busy("m", retry_after_s=17)


class Outer(BaseModel):
    text: str = Field("", alias="input")
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "more_headers"),
    [
        (e.InvalidRequest("m"), 400, CLIENT, "invalid_request", {}),
        (e.UnknownModel("m"), 404, CLIENT, "model_not_found", {}),
        (e.Unauthorized("m"), 401, CLIENT, "unauthorized", {"www-authenticate": "Bearer"}),
        (e.BodyTooLarge("m"), 413, CLIENT, "body_too_large", {}),
        (e.UnsupportedMediaType("m"), 415, CLIENT, "unsupported_media_type", {}),
        (e.CannotSpeak("m"), 422, CLIENT, "cannot_speak", {}),
        (BUSY, 429, CLIENT, "busy", {"retry-after": "17"}),
        (e.ClientLeft("m"), 499, CLIENT, "cancelled", {}),
        (e.SynthesisFailed("m"), 500, SERVER, "internal_error", {}),
        (e.NotReady("m"), 503, SERVER, "not_ready", {"retry-after": "5"}),
        (e.TimedOut("m"), 504, SERVER, "timeout", {}),
        (e.TTSError("m"), 500, SERVER, "internal_error", {}),
    ],
)
def test_each_error_has_its_status_type_code_and_headers(
    error: e.TTSError, status: int, kind: str, code: str, more_headers: dict[str, str]
) -> None:
    response = response_of(error)
    assert response.status_code == status
    assert json.loads(response.body) == {
        "error": {"code": code, "message": "m", "type": kind, "param": None}
    }
    own = {"x-error-code": code, "content-type": "application/json", **more_headers}
    assert {k: v for k, v in response.headers.items() if k != "content-length"} == own


def test_a_code_and_a_field_of_its_own_are_sent() -> None:
    response = response_of(e.CannotSpeak("m", param="text", code="runaway"))
    error = json.loads(response.body)["error"]
    assert (error["code"], error["param"]) == ("runaway", "text")
    assert response.headers["x-error-code"] == "runaway"
    assert e.CannotSpeak("m").code == "cannot_speak"


def test_an_error_that_is_not_in_the_table_has_the_status_of_its_nearest_kind() -> None:
    class Odd(e.UnknownModel): ...

    assert status_of(Odd("m")) == 404


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", CLIENT),
        (404, "not_found", CLIENT),
        (405, "method_not_allowed", CLIENT),
        (413, "body_too_large", CLIENT),
        (415, "unsupported_media_type", CLIENT),
        (418, "invalid_request", CLIENT),
        (499, "invalid_request", CLIENT),
        (500, "internal_error", SERVER),
        (501, "internal_error", SERVER),
        (503, "not_ready", SERVER),
        (504, "timeout", SERVER),
    ],
)
def test_a_bare_status_gets_a_code_a_type_and_words(status: int, code: str, kind: str) -> None:
    error = plain_body(status)["error"]
    assert (error["code"], error["type"], error["param"]) == (code, kind, None)
    assert error["message"]


@pytest.mark.parametrize(
    ("param", "message", "param_after", "message_after"),
    [
        ("text", "text is empty, send less text", "input", "input is empty, send less text"),
        ("kind", "kind: text", "kind", "kind: text"),
        ("nothing", "nothing", "nothing", "nothing"),
        (None, "text", None, "text"),
    ],
)
def test_a_field_is_named_as_the_clients_schema_names_it(
    param: str | None, message: str, param_after: str | None, message_after: str
) -> None:
    error = in_words_of(Outer, e.InvalidRequest(message, param=param))
    assert (error.param, error.message) == (param_after, message_after)


def test_an_unknown_field_is_named_as_it_was_sent() -> None:
    error = e.InvalidRequest('unknown field "text"', param="text", code="unknown_field")
    error = in_words_of(Outer, error)
    assert (error.param, error.message) == ("text", 'unknown field "text"')
