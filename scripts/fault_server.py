"""A server that scripts/test_faults.py may break, and the clients that break it.

The server is the whole of `bentoml serve` on a free loopback port, with its own directories.
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from qwen_tts_service.settings import Settings

ROOT = Path(__file__).parent.parent
SLOTS, QUEUE = 10, 20
STALL_S = 20.0
READY_S = 180.0
TIMEOUT_S = 120.0
LONG = "The quick brown fox jumps over the lazy dog, and then it rests in the shade. " * 100
"""Nine minutes of speech, 25 MB: more than all buffers between the voice and a client hold."""
SHORT = "One, two, three."
SETTINGS = {
    "MAX_CONCURRENT_REQUESTS": str(SLOTS),
    "MAX_QUEUE": str(QUEUE),
    "MAX_TEXT_CHARS": str(len(LONG)),
    "STALL_TIMEOUT_S": str(STALL_S),
    "LOG_LEVEL": "warning",
    "OMP_NUM_THREADS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
}


class Failed(Exception):
    """The server did what it must not do."""


def require(condition: bool, what: str) -> None:
    """Fail with `what` unless the condition holds."""
    if not condition:
        raise Failed(what)


@dataclass(frozen=True, slots=True)
class FaultServer:
    """A running server and the process that was started for it."""

    port: int
    process: psutil.Process
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self) -> list[psutil.Process]:
        """Supervisor first, then its workers and what they started."""
        return [self.process, *self.process.children(recursive=True)]

    def metrics(self) -> dict[str, float]:
        """Every series with its value."""
        lines = self.client.get("/metrics").text.splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    def total(self, name: str) -> float:
        """Sum a metric over its series."""
        same = re.compile(rf"{name}(_total)?(\{{.*)?$")
        return sum(value for series, value in self.metrics().items() if same.match(series))

    def is_idle(self) -> bool:
        return self.total("tts_active_requests") == self.total("tts_queued_requests") == 0

    def is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return self.client.get("/readyz").status_code == 200
        return False

    def speak(self) -> bytes:
        """Ask for the same speech as every time."""
        body = {"text": SHORT, "format": "pcm", "seed": 1, "max_length": 60}
        answer = self.client.post("/tts", json=body)
        require(answer.status_code == 200, f"a plain request got {answer.status_code}")
        return answer.content


@contextmanager
def serve(home: Path, checkpoint: Path | None) -> Iterator[FaultServer]:
    """Start a server, wait until it is ready, and stop it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    home.mkdir(parents=True)
    voice = {"MODEL_NAME": "espeak-ng"}
    if checkpoint:
        voice = {"MODEL_NAME": checkpoint.name, "MODEL_PATH": str(checkpoint.parent)}
    ours = {name.upper() for name in Settings.model_fields} | {"HOST", "PORT"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    environment = {**kept, **SETTINGS, **voice, "BENTOML_HOME": str(home)}
    command = [sys.executable, "-m", "bentoml", "serve", "service:QwenTTS"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = home / "server.log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    url, alone = f"http://127.0.0.1:{port}", httpx.Limits(max_keepalive_connections=0)
    client = httpx.Client(base_url=url, timeout=TIMEOUT_S, limits=alone)
    server = FaultServer(port, psutil.Process(started.pid), client)
    try:
        wait_for(lambda: started.poll() is not None or server.is_ready(), READY_S, "ready")
        require(started.poll() is None, f"no server: {log.read_text()[-1000:]}")
        yield server
    finally:
        client.close()
        started.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(started.pid, 9)  # what outlived it, too
        started.wait()


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Wait until the condition holds; returns how long that took, or fails."""
    began_s = time.monotonic()
    while not condition():
        require(time.monotonic() - began_s < timeout_s, f"not {what} within {timeout_s:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began_s


async def until(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Wait as `wait_for` does, while the clients of this event loop go on."""
    return await asyncio.to_thread(wait_for, condition, timeout_s, what)


def post(route: str, body: Mapping[str, object]) -> bytes:
    """A request, as it goes over the wire."""
    data = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


class RawClient:
    """A connection that takes as little as it likes, and leaves when it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    @classmethod
    async def ask(cls, server: FaultServer, sent: bytes) -> "RawClient":
        """Connect with small buffers, and send."""
        plug = socket.socket()
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plug.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plug, ("127.0.0.1", server.port))
        client = cls(*await asyncio.open_connection(sock=plug, limit=4096))
        client._writer.write(sent)
        await client._writer.drain()
        return client

    async def read(self, most: int) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.read(most)

    async def answer(self) -> bytes:
        """All that comes until the server closes."""
        whole = b""
        with suppress(ConnectionError):
            while part := await self.read(65536):
                whole += part
        return whole

    def leave(self) -> None:
        """Drop the connection at once, with whatever is under way."""
        self._writer.transport.abort()


async def hold(server: FaultServer, count: int) -> list[RawClient]:
    """Take `count` slots with streams that are not read; returns when they have them."""
    sent = post("/stream-tts", {"text": LONG, "format": "pcm"})
    holders = [await RawClient.ask(server, sent) for _ in range(count)]
    await until(lambda: server.total("tts_active_requests") == count, TIMEOUT_S, "holding")
    return holders


@asynccontextmanager
async def held(server: FaultServer) -> AsyncIterator[list[RawClient]]:
    """All slots are taken inside the `async with`, and free after it."""
    holders = await hold(server, SLOTS)
    try:
        yield holders
    finally:
        for holder in holders:
            holder.leave()
        await until(server.is_idle, TIMEOUT_S, "idle")


async def together(clients: list[Awaitable[str]]) -> dict[str, int]:
    """Run all clients at once and count how they ended."""
    ends = await asyncio.gather(*clients)
    return {end: ends.count(end) for end in sorted(set(ends))}
