"""The HTTP server of a worker: uvicorn's, which listens when that is useful and ends in time.

`bentoml serve` makes a `uvicorn.Server` and offers no setting for what is decided here.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial

import uvicorn
from uvicorn.config import Config

from qwen_tts_service.settings import load_settings

from .connections import BoundedProtocol, ConnectionLimits
from .roster import Roster
from .runtime import Runtime

POLL_S = 0.1
BEAT_S = 1.0


class WorkerServer(uvicorn.Server):
    """uvicorn's server with our time limits.

    roster: where this worker says that it is ready, under its number; None without a supervisor
    """

    def __init__(
        self, config: Config, *, runtime: Runtime, roster: Roster | None = None, worker: int = 1
    ) -> None:
        settings = load_settings()
        config.timeout_graceful_shutdown = settings.grace_s  # type: ignore[assignment]
        config.http = partial(BoundedProtocol, limits=ConnectionLimits.of(settings))  # type: ignore[assignment]
        super().__init__(config)
        self._runtime = runtime
        self._roster = roster
        self._worker = worker
        self._background: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        roster = self._roster
        if roster is None or not sockets:
            await super().startup(sockets)
            return
        listener = _duplicate(sockets[0])
        await super().startup([] if roster.has_ready else sockets)
        self._background = asyncio.create_task(self._take_part(roster, listener))

    async def _take_part(self, roster: Roster, listener: socket.socket) -> None:
        """Until this worker is ready, leave connections to those who are; then say so."""
        with listener:
            while not self._runtime.stage.takes_requests:
                await self._listen(None if roster.has_ready else listener)
                await asyncio.sleep(POLL_S)
            roster.note_ready(self._worker)
            await self._listen(listener)
        await self._beat(roster)

    async def _beat(self, roster: Roster) -> None:
        """Show the supervisor that the event loop runs and the voice can speak."""
        while True:
            if self._runtime.stage.status != "failed":
                roster.beat(self._worker)
            await asyncio.sleep(BEAT_S)

    async def _listen(self, listener: socket.socket | None) -> None:
        """Listen, or with None stop it; connections that are open stay."""
        if listener is None:
            while self.servers:
                self.servers.pop().close()
        elif not self.servers:
            protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
            make = partial(
                protocol,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            server = await asyncio.get_running_loop().create_server(
                make, sock=_duplicate(listener), ssl=self.config.ssl, backlog=self.config.backlog
            )
            self.servers.append(server)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._background is not None:
            self._background.cancel()
        await super().shutdown(sockets)


def _duplicate(listener: socket.socket) -> socket.socket:
    """The same listening socket once more.

    `socket.dup` makes it blocking, for all workers at once: their event loops would stand in
    `accept` whenever another worker was faster.
    """
    return socket.socket(fileno=os.dup(listener.fileno()))
