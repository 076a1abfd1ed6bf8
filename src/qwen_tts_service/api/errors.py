"""Error responses: the table from error class to HTTP status, and the one body shape.

{"error": {"code": "...", "message": "...", "type": "...", "param": "..." or null}}
"""

import re
from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

from qwen_tts_service import errors as e
from qwen_tts_service.validation import UNKNOWN_FIELD

STATUS: dict[type[e.TTSError], int] = {
    e.InvalidRequest: 400,
    e.UnknownModel: 404,
    e.UnknownVoice: 404,
    e.Unauthorized: 401,
    e.BodyTooLarge: 413,
    e.UnsupportedMediaType: 415,
    e.CannotSpeak: 422,
    e.Busy: 429,
    e.RateLimited: 429,
    e.ClientLeft: 499,
    e.SynthesisFailed: 500,
    e.NotReady: 503,
    e.TimedOut: 504,
    e.TTSError: 500,
}

PLAIN: dict[int, tuple[str, str]] = {
    400: ("invalid_request", "the request is not valid HTTP for this route"),
    404: ("not_found", "there is no such route; GET / lists the routes"),
    405: ("method_not_allowed", "this route does not support this method; see the Allow header"),
    408: ("request_timeout", "the request did not arrive in time; send it at once"),
    413: ("body_too_large", "the body is too large"),
    415: ("unsupported_media_type", "the body must be application/json"),
    500: ("internal_error", "the service failed; the log has the details under the request id"),
    503: ("not_ready", "the service is not ready; GET /health says why"),
    504: ("timeout", "the answer took too long"),
}
"""Code and message for a status that the server gave without one of our errors."""


def status_of(error: e.TTSError) -> int:
    """The HTTP status of an error: that of its nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def body_of(error: e.TTSError) -> dict[str, Any]:
    """The JSON body of an error."""
    return _body(status_of(error), error.code, error.message, error.param)


def plain_body(status: int) -> dict[str, Any]:
    """The JSON body for a bare status."""
    code, message = PLAIN.get(status, PLAIN[500 if status >= 500 else 400])
    return _body(status, code, message, None)


def _body(status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"code": code, "message": message, "type": kind, "param": param}}


def response_of(error: e.TTSError) -> JSONResponse:
    """The HTTP response for an error."""
    headers = {"X-Error-Code": error.code}
    if isinstance(error, e.Busy):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, e.NotReady):
        headers["Retry-After"] = "5"
    if isinstance(error, e.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(error), status_code=status_of(error), headers=headers)


def in_words_of(schema: type[BaseModel], error: e.TTSError) -> e.TTSError:
    """The same error for clients of `schema`, whose alias for the field may differ."""
    field = schema.model_fields.get(error.param or "")
    if error.code == UNKNOWN_FIELD:  # named as it was sent
        return error
    if field is not None and field.alias is not None:
        error.message = re.sub(rf"\b{error.param}\b", field.alias, error.message, count=1)
        error.param = field.alias
    return error
