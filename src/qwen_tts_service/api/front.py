"""ASGI middleware around every route: request ids, the gate, CORS, error bodies, log lines.

It turns failures into responses itself and never raises before a response has started: the server
would otherwise keep the client waiting until its own time limit.
"""

import json
import logging
import re
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen_tts_service.errors import (
    BodyTooLarge,
    InvalidRequest,
    SynthesisFailed,
    TTSError,
    UnsupportedMediaType,
)

from .batch import PATH as BATCH_PATH
from .call import SCOPE_KEY, Call
from .connections import UnfinishedBodies
from .errors import plain_body, response_of
from .gate import Gate
from .runtime import Runtime
from .tickets import RUNTIME_KEY
from .voices import FORM_BYTES
from .voices import PATH as VOICES_PATH

logger = logging.getLogger(__name__)

SPEAKING_PATHS = frozenset({"/tts", "/stream-tts", "/v1/audio/speech", BATCH_PATH})
"""Routes by which refused requests are counted; all unknown paths count as one more."""
_PAGE_POLICY = "default-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'none'"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Front:
    """ASGI middleware; `runtime` holds the settings by the time requests arrive."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        self._with_cors: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._with_cors is None:  # settings are read by now
            self._bodies = UnfinishedBodies(4 * self._runtime.settings.max_speech_bytes)
            self._gate = Gate(self._runtime.settings, self._runtime.keys)
            self._with_cors = self._add_cors()
        await self._with_cors(scope, receive, send)

    def _add_cors(self) -> ASGIApp:
        origins = self._runtime.settings.cors_origins
        if not origins:
            return self._handle
        return CORSMiddleware(
            self._handle,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
        )

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(_request_id(Headers(scope=scope).get("x-request-id", "")))
        scope[SCOPE_KEY] = call
        scope[RUNTIME_KEY] = self._runtime
        response = _Response(scope, call, send)
        try:
            error = await self._refusal(scope, call)
            if error is None:
                if scope["type"] == "http":
                    receive = self._bodies.bounded(receive, call)
                await self._app(scope, receive, response.send)
            else:
                call.route = scope["path"] if scope["path"] in SPEAKING_PATHS else "other"
                call.outcome = error.code
                await response_of(error)(scope, receive, response.send)
        except Exception:
            logger.exception("id=%s failed outside its route", call.request_id)
            if response.has_started:
                raise
            call.outcome = SynthesisFailed.code
            failure = SynthesisFailed("the service failed; its log has the details")
            await response_of(failure)(scope, receive, response.send)
        finally:
            call.end()

    async def _refusal(self, scope: Scope, call: Call) -> TTSError | None:
        try:
            await self._gate.check(scope, call)
        except TTSError as error:
            return error
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        return _unreadable_body(headers) or self._too_large(scope["path"], length)

    def _too_large(self, path: str, length: str) -> BodyTooLarge | None:
        """Refuse a body by its header, before any of it is received."""
        settings = self._runtime.settings
        most, name = settings.max_speech_bytes, settings.sets_max_speech_bytes
        if path.startswith(VOICES_PATH):
            most, name = settings.max_voice_bytes + FORM_BYTES, "MAX_VOICE_BYTES"
        if length.isdigit() and int(length) > most:
            return BodyTooLarge(f"the body is larger than {most} bytes ({name})")
        return None


def _unreadable_body(headers: Headers) -> TTSError | None:
    """The error for a body whose length is told in two ways, or that is compressed.

    A proxy that believes the other length would take what follows for another client's request.
    """
    if "transfer-encoding" in headers and "content-length" in headers:
        return InvalidRequest("send Content-Length or Transfer-Encoding, not both")
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return None
    return UnsupportedMediaType("send the body as it is, without a Content-Encoding such as gzip")


def _request_id(given: str) -> str:
    return given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex


class _Response:
    """Sends one response: adds our headers, and gives bare errors our body.

    A WebSocket that is rejected gets an HTTP response like any other request.
    """

    def __init__(self, scope: Scope, call: Call, send: Send) -> None:
        self._call = call
        self._send = send
        self._is_page = scope["path"] == "/"
        self._body: bytes | None = None
        self.has_started = False

    async def send(self, message: Message) -> None:
        kind = message["type"].removeprefix("websocket.")
        if kind == "http.response.start":
            self.has_started = True
            await self._send(self._start(message))
        elif kind == "http.response.body" and self._body is not None:
            await self._send_own_body(message)
        elif kind == "close" and not self.has_started:
            await self._refuse_socket()
        else:
            await self._send(self._accept(message) if kind == "accept" else message)

    async def _refuse_socket(self) -> None:
        prefix = "websocket.http.response"
        await self.send({"type": f"{prefix}.start", "status": 404, "headers": []})
        await self.send({"type": f"{prefix}.body", "body": b""})

    def _accept(self, message: Message) -> Message:
        self.has_started = True
        own = (b"x-request-id", self._call.request_id.encode())
        return {**message, "headers": [*message.get("headers", []), own]}

    def _start(self, message: Message) -> Message:
        self._call.status = message["status"]
        headers = MutableHeaders(raw=list(message["headers"]))
        headers["X-Request-Id"] = self._call.request_id
        headers["X-Content-Type-Options"] = "nosniff"
        if self._is_page:
            headers["Content-Security-Policy"] = _PAGE_POLICY
        if message["status"] >= 400 and "x-error-code" not in headers:
            self._body = json.dumps(plain_body(message["status"])).encode()
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(self._body))
        return {**message, "headers": headers.raw}

    async def _send_own_body(self, message: Message) -> None:
        if message.get("more_body", False):
            return
        own: dict[str, Any] = {"type": message["type"], "body": self._body}
        self._body = None
        await self._send(own)
