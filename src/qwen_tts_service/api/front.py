"""ASGI middleware around every route: request ids, API key, CORS, error bodies, log lines.

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
    Unauthorized,
    UnsupportedMediaType,
)

from .batch import PATH as BATCH_PATH
from .call import SCOPE_KEY, Call
from .connections import UnfinishedBodies
from .errors import plain_body, response_of
from .keys import MAY_CLONE, key_in, may_clone, may_speak
from .runtime import Runtime
from .tickets import RUNTIME_KEY
from .voices import FORM_BYTES
from .voices import PATH as VOICES_PATH
from .websocket.connection import PATH as SOCKET_PATH
from .websocket.session import KEY_IS_DEFERRED

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/", "/docs.json", "/schema.json", "/favicon.ico"})
OPEN_PATHS |= {"/health", "/healthz", "/livez", "/readyz", "/metrics"}
# Open WebUI sends no API key to these.
OPEN_PATHS |= {VOICES_PATH, "/v1/audio/models"}
CHANGING_METHODS = frozenset({"POST", "DELETE"})
OPEN_PREFIXES = ("/static_content/", "/playground")
SPEAKING_PATHS = frozenset({"/tts", "/stream-tts", "/v1/audio/speech", BATCH_PATH})
"""Routes by which refused requests are counted; all unknown paths count as one more."""
_PAGE_POLICY = "default-src 'self' 'unsafe-inline' data: blob:"
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
        headers = Headers(scope=scope)
        call = Call(_request_id(headers.get("x-request-id", "")))
        scope[SCOPE_KEY] = call
        scope[RUNTIME_KEY] = self._runtime
        response = _Response(scope, call, send)
        try:
            error = self._refusal(scope, headers)
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

    def _refusal(self, scope: Scope, headers: Headers) -> TTSError | None:
        if scope["type"] == "websocket" and not self._is_known_origin(headers):
            return Unauthorized(
                "the origin of this page is not allowed; add it to CORS_ORIGINS",
                code="origin_not_allowed",
            )
        if not self._has_key(scope, headers):
            return Unauthorized(
                "the API key is missing or wrong; send it as `Authorization: Bearer <key>`"
            )
        return _unreadable_body(headers) or self._too_large(
            scope["path"], headers.get("content-length", "")
        )

    def _too_large(self, path: str, length: str) -> BodyTooLarge | None:
        """Refuse a body by its header, before any of it is received."""
        settings = self._runtime.settings
        most, name = settings.max_speech_bytes, settings.sets_max_speech_bytes
        if path.startswith(VOICES_PATH):
            most, name = settings.max_voice_bytes + FORM_BYTES, "MAX_VOICE_BYTES"
        if length.isdigit() and int(length) > most:
            return BodyTooLarge(f"the body is larger than {most} bytes ({name})")
        return None

    def _is_known_origin(self, headers: Headers) -> bool:
        """Check the Origin of a WebSocket: browsers send no preflight request for one."""
        origin, allowed = headers.get("origin"), self._runtime.settings.cors_origins
        if origin is None or origin in allowed or "*" in allowed:
            return True
        return origin.partition("://")[2] == headers.get("host")

    def _has_key(self, scope: Scope, headers: Headers) -> bool:
        path, key, settings = scope["path"], key_in(headers), self._runtime.settings
        scope[MAY_CLONE] = may_clone(key, settings)
        if path.startswith(VOICES_PATH) and scope.get("method") in CHANGING_METHODS:
            return bool(scope[MAY_CLONE])
        is_open = path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)
        if is_open or may_speak(key, settings):
            return True
        if path == SOCKET_PATH and scope["type"] == "websocket" and "authorization" not in headers:
            scope[KEY_IS_DEFERRED] = True  # browsers cannot send it; it comes in the first message
            return True
        return False


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
