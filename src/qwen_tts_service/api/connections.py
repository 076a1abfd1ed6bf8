"""Bounds of what clients can hold open without asking for anything: connections, headers, bodies.

uvicorn has neither a time limit for a request to arrive nor one for connections that say nothing.
What a request costs once it has arrived is bounded elsewhere, by slots and the queue.
"""

import asyncio
import json
import resource
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import h11
import psutil
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwen_tts_service.errors import Busy
from qwen_tts_service.settings import Settings
from qwen_tts_service.telemetry.metrics import DROPPED_CONNECTIONS

from .call import Call
from .errors import plain_body

PROBES = frozenset({"/health", "/healthz", "/livez", "/readyz", "/metrics"})
KEPT_FOR_PROBES = 8
"""Connections beyond the limit, in which nothing else is answered."""
DESCRIPTORS_FOR_FILES = 32
"""What the work itself opens: processes, recordings, checkpoints."""
FREE_BODY_BYTES = 64 * 1024
"""Of each body; more is what bodies share: a large one that is unfinished stops no small one."""
SHARED_BODY_BYTES = 32 * 1024 * 1024
"""At least, of all unfinished bodies together."""

Awaited = Literal["headers", "body"]
_AWAITED: dict[Any, Awaited] = {h11.IDLE: "headers", h11.SEND_BODY: "body"}


@dataclass(slots=True)
class ConnectionLimits:
    """How many connections a worker has at most, and how long it waits for a request in one.

    waiting: connections from which more of a request is to come, that of the longest wait first
    """

    most: int
    timeout_s: dict[Awaited, float]
    waiting: dict["BoundedProtocol", None] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        """The limits by the settings, and by how many descriptors this process may still open."""
        soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        others = psutil.Process().num_fds() + DESCRIPTORS_FOR_FILES + KEPT_FOR_PROBES
        most = max(1, min(settings.max_connections, soft_limit - others))
        timeout_s: dict[Awaited, float] = {
            "headers": settings.header_timeout_s,
            "body": settings.body_timeout_s,
        }
        return cls(most, timeout_s)


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with time limits for headers and body, and a place for each connection.

    A connection too many takes the place of the one that has kept us waiting longest. Where all
    are at work, it is answered only if it asks how the server is.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._awaited: Awaited | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_extra = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self._limits
        if len(self.connections) > limits.most:
            oldest = next(iter(limits.waiting), None)
            if oldest is not None:
                oldest.drop("full")
            elif len(self.connections) <= limits.most + KEPT_FOR_PROBES:
                self._is_extra = True
                self.app = _only_probes(self.app)
            else:
                self.drop("full")
                return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self.cycle.body.clear()  # up to 256 KiB that came too late, of a request that was refused
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._await(None)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        if self._is_extra:
            self._answer(503)
        else:
            super().handle_websocket_upgrade(event)

    def drop(self, reason: str) -> None:
        """Close the connection at once."""
        DROPPED_CONNECTIONS.labels(reason).inc()
        self._await(None)
        self.transport.abort()

    def _watch(self) -> None:
        """Note what is to come next from the client, if it is the client's turn."""
        self._await(None if self.transport.is_closing() else _AWAITED.get(self.conn.their_state))

    def _await(self, awaited: Awaited | None) -> None:
        if awaited == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._limits.waiting.pop(self, None)
        self._awaited = awaited
        if awaited is not None:
            self._limits.waiting[self] = None
            wait_s = self._limits.timeout_s[awaited]
            self._timer = self.loop.call_later(wait_s, self._end_waiting, awaited)

    def _end_waiting(self, awaited: Awaited) -> None:
        DROPPED_CONNECTIONS.labels(awaited).inc()
        self._answer(408)

    def _answer(self, status: int) -> None:
        """Send an error, unless an answer has begun, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(plain_body(status)).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            headers.append(("Connection", "close"))
            reason = HTTPStatus(status).phrase
            response = h11.Response(status_code=status, headers=headers, reason=reason)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def _only_probes(app: Any) -> ASGIApp:
    """The app for a connection too many."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await app(scope, receive, send)
            return
        body = json.dumps(plain_body(503)).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers.append((b"retry-after", b"5"))
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


class UnfinishedBodies:
    """Bounds the bytes of all bodies together of which more is to come."""

    def __init__(self, most_bytes: int) -> None:
        self._free_bytes = max(SHARED_BODY_BYTES, most_bytes)

    def bounded(self, receive: Receive, call: Call) -> Receive:
        """Receive a body; raises Busy where there is no room for it beside the others."""
        read_bytes = held_bytes = 0

        def release() -> None:
            nonlocal held_bytes
            self._free_bytes += held_bytes
            held_bytes = 0

        async def receive_bounded() -> Message:
            nonlocal read_bytes, held_bytes
            message = await receive()
            if not message.get("more_body", False):
                release()
                return message
            read_bytes += len(message["body"])
            more = max(0, read_bytes - FREE_BODY_BYTES) - held_bytes
            if more > self._free_bytes:
                raise Busy("too many large bodies are being sent at the same time", retry_after_s=5)
            held_bytes += more
            self._free_bytes -= more
            return message

        call.at_end(release)
        return receive_bounded
