"""The campaigns of scripts/test_faults.py: what they do to a server, and what must not happen.

Each returns what it counted, or fails. Counts, ratios and the limits of time that the service
promises decide.
"""

import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from websockets.asyncio.client import connect

from fault_server import (
    LONG,
    QUEUE,
    ROOT,
    SHORT,
    SLOTS,
    STALL_S,
    TIMEOUT_S,
    FaultServer,
    RawClient,
    held,
    hold,
    post,
    require,
    together,
    until,
    wait_for,
)

ROUTES = ("/tts", "/stream-tts", "/v1/audio/speech")
WEBSOCKET = "/v1/audio/speech/stream"
PROBES = ("/livez", "/readyz", "/health", "/metrics")
FORMATS = ("wav", "mp3", "pcm", "flac", "opus")
REFUSED = ("400", "408", "411", "413", "415", "422", "431", "501", "closed")
FREE_S = 1.0
NOISE_S = 0.05
"""First audio comes after some ms, where twice as much is nothing."""
MOST_MB = 1.0
JUDGED_FROM = 2000
"""Of a soak with fewer requests, what allocators take in steps hides what requests leave."""
TESTS = (
    *(f"tests/api/test_{name}.py" for name in ("supervisor", "connections", "memory", "waiting")),
    *(f"tests/api/test_{name}.py" for name in ("gate", "broken_checkpoints", "bad_requests")),
    *("tests/api/test_websocket_sessions.py", "tests/unit"),
)
KILLED_S = 5.0
HEAD = b"POST /tts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FRAMING = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no method": b" /tts HTTP/1.1\r\nHost: x\r\n\r\n",
    "huge header": b"GET /livez HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunked": HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "length of 10^20": HEAD + b"Content-Length: 100000000000000000000\r\n\r\n{",
    "chunk of no size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "compressed": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
}
BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"text": "\xff\xfe"}',
    "half a surrogate": b'{"text": "\\ud800"}',
    "a list": b"[]",
    "nested 100,000 deep": b"[" * 100_000,
    "number of 10,000 digits": b'{"text": "a", "seed": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"text": "a", "speed": NaN}',
    "token too large": b'{"tokens": [4294967296]}',
    "unknown field": b'{"text": "a", "txt": "b"}',
    "too long": json.dumps({"text": LONG * 2}).encode(),
    "an entity": b'{"input_type": "ssml", "text": '
    b'"<!DOCTYPE s [<!ENTITY a \\"b\\">]><speak>&a;</speak>"}',
}


class Skipped(Exception):
    """A part that cannot run here, and why."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done: of clients at once, of disconnects in all, of requests in the soak."""

    clients: int
    disconnects: int
    readers: int
    soak: int
    examples: int


FULL = Size(clients=200, disconnects=300, readers=10, soak=2000, examples=500)
QUICK = Size(clients=60, disconnects=40, readers=5, soak=300, examples=0)


# Overload -------------------------------------------------------------------------------


async def _ask(client: httpx.AsyncClient, route: str) -> str:
    words = {"input": SHORT} if route.startswith("/v1") else {"text": SHORT}
    answer = await client.post(route, json=words)
    require(answer.status_code != 429 or "retry-after" in answer.headers, "429, no Retry-After")
    return str(answer.status_code)


async def _ask_socket(server: FaultServer) -> str:
    """Speak over a WebSocket; a full server answers with the error `busy`, which counts as 429."""
    async with connect(f"ws://127.0.0.1:{server.port}{WEBSOCKET}", open_timeout=60) as plug:
        await plug.send(json.dumps({"type": "session.config", "language": "english"}))
        await plug.send(json.dumps({"type": "input.text", "text": SHORT}))
        await plug.send(json.dumps({"type": "input.done"}))
        async with asyncio.timeout(TIMEOUT_S):
            async for message in plug:
                event = json.loads(message) if isinstance(message, str) else {"type": "audio"}
                if event["type"] == "error":
                    code = event["error"]["code"]
                    return "429" if code == "busy" else str(code)
                if event["type"] in ("session.done", "audio.done"):
                    return "200"
    return "closed"


def overload(server: FaultServer, size: Size) -> str:
    """All slots are held; of `clients` at once QUEUE wait and are answered, the rest get 429."""
    expected = {"200": QUEUE, "429": size.clients - QUEUE}
    for route in (*ROUTES, WEBSOCKET):
        ends = asyncio.run(_overload(server, route, size.clients))
        require(ends == expected, f"{route}: {ends}")
    order = asyncio.run(_order(server))
    require(order == sorted(order), f"answered in the order {order}")
    return f"on {len(ROUTES) + 1} routes {expected}, probes answered, first come first served"


async def _overload(server: FaultServer, route: str, clients: int) -> dict[str, int]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S, limits=limits) as client:
        async with held(server):
            asked = [
                asyncio.create_task(
                    _ask_socket(server) if route == WEBSOCKET else _ask(client, route)
                )
                for _ in range(clients)
            ]
            everybody = asyncio.create_task(together(asked))
            await until(
                lambda: sum(one.done() for one in asked) >= clients - QUEUE, TIMEOUT_S, "refusing"
            )
            for path in PROBES:
                require((await client.get(path)).status_code == 200, f"{path} in overload")
        return await everybody


async def _order(server: FaultServer) -> list[int]:
    """Fill the queue one by one, free one slot, and see in which order answers come."""
    order: list[int] = []

    async def ask(client: httpx.AsyncClient, place: int) -> None:
        require(await _ask(client, "/tts") == "200", "a queued request was not answered")
        order.append(place)

    async with (
        httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client,
        held(server) as holders,
        asyncio.TaskGroup() as tasks,
    ):
        for place in range(5):
            tasks.create_task(ask(client, place))
            await _until_waiting(server, place + 1)
        holders[0].leave()
    return order


# Disconnects and stuck readers ------------------------------------------------------------


def disconnects(server: FaultServer, size: Size) -> str:
    """Clients leave in the queue, before the first byte, at it, and later: all free and counted."""
    usual, each = server.speak(), size.disconnects // 4
    moments: dict[str, Callable[[], Coroutine[Any, Any, int]]] = {
        "queued": lambda: _leave_queue(server, each),
        "before": lambda: _leave_speech(server, each, "/tts", 0),
        "first": lambda: _leave_speech(server, each, "/stream-tts", 1),
        "mid": lambda: _leave_speech(server, each, "/stream-tts", 100_000),
    }
    for moment, leave in moments.items():
        before = server.total("tts_cancellations")
        left = asyncio.run(leave())
        counted = server.total("tts_cancellations") - before
        require(counted == left, f"{moment}: {counted:.0f} of {left} counted")
        require(server.speak() == usual, f"{moment}: speech after it is not what it was")
    return f"{each} each of {', '.join(moments)}: free within {FREE_S:.0f} s, all counted"


async def _leave_queue(server: FaultServer, count: int) -> int:
    """Leave the queue, as many at a time as fit; returns how many left, holders of slots too."""
    async with held(server):
        for begin in range(0, count, QUEUE):
            group = min(QUEUE, count - begin)
            sent = post("/tts", {"text": SHORT})
            clients = [await RawClient.ask(server, sent) for _ in range(group)]
            await _until_waiting(server, group)
            for client in clients:
                client.leave()
            await until(lambda: server.total("tts_queued_requests") == 0, FREE_S, "free")
    return count + SLOTS


async def _until_waiting(server: FaultServer, count: int) -> None:
    await until(lambda: server.total("tts_queued_requests") == count, TIMEOUT_S, "queued")


async def _leave_speech(server: FaultServer, count: int, route: str, after_bytes: int) -> int:
    """Leave requests that are spoken, after so many bytes; returns how many left."""
    sent = post(route, {"text": LONG, "format": "pcm"})
    for begin in range(0, count, SLOTS):
        group = min(SLOTS, count - begin)
        clients = [await RawClient.ask(server, sent) for _ in range(group)]
        await until(lambda group=group: _active(server) == group, TIMEOUT_S, "speaking")  # type: ignore[misc]
        for client in clients:
            taken = 0
            while taken < after_bytes:
                taken += len(await client.read(after_bytes))
        for client in clients:
            client.leave()
        await until(server.is_idle, FREE_S, "free")
    return count


def _active(server: FaultServer) -> float:
    return server.total("tts_active_requests")


def stuck_readers(server: FaultServer, size: Size) -> str:
    """Clients that never read slow nobody, and are cut off visibly when their time is over."""
    return asyncio.run(_stuck(server, min(size.readers, SLOTS - 1)))


async def _stuck(server: FaultServer, count: int) -> str:
    alone_s = await _first_audio_s(server)
    stuck = await hold(server, count)
    beside_s = await _first_audio_s(server)
    require(
        beside_s < 2 * alone_s + NOISE_S, f"first audio: {beside_s / alone_s:.1f} times as late"
    )
    await until(lambda: _active(server) == count, STALL_S, "left to the stuck")
    before = server.total("tts_cancellations")
    await until(server.is_idle, 3 * STALL_S, "cut off")
    for client in stuck:
        require(not (await client.answer()).endswith(b"0\r\n\r\n"), "a cut stream ends well")
    cut = server.total("tts_cancellations") - before
    require(cut == count, f"{cut:.0f} of {count} counted")
    return f"{count} cut off; first audio of others {beside_s / alone_s:.1f} of what it was"


async def _first_audio_s(server: FaultServer) -> float:
    """The median of five streams, one after the other."""
    taken_s = []
    for _ in range(5):
        began_s = time.monotonic()
        client = await RawClient.ask(server, post("/stream-tts", {"text": SHORT, "format": "pcm"}))
        while b"\r\n\r\n" not in await client.read(4096):
            pass
        await client.read(1)
        taken_s.append(time.monotonic() - began_s)
        client.leave()
    return statistics.median(taken_s)


# Processes ------------------------------------------------------------------------------


def killed_worker(server: FaultServer, _size: Size) -> str:
    """A worker killed within a stream breaks it visibly; its successor speaks as it did."""
    usual = server.speak()
    answers = asyncio.run(_kill_worker(server))
    require(not any(a.endswith(b"0\r\n\r\n") for a in answers), "a killed stream ends well")
    wait_for(server.is_ready, TIMEOUT_S, "ready again")
    require(server.speak() == usual, "the new worker speaks otherwise")
    deaths = server.total("tts_worker_deaths")
    require(deaths == 1, f"{deaths:.0f} deaths counted")
    return f"{len(answers)} streams broken visibly, ready again, same speech, 1 death counted"


async def _kill_worker(server: FaultServer) -> list[bytes]:
    streams = await hold(server, 3)
    server.process.children()[0].kill()
    return [await stream.answer() for stream in streams]


def killed_server(server: FaultServer, _size: Size) -> str:
    """A supervisor killed takes its workers along, and its port is free."""
    workers = server.process.children(recursive=True)
    require(bool(workers), "there is no worker")
    server.process.kill()
    _, alive = psutil.wait_procs(workers, KILLED_S)
    require(not alive, f"{len(alive)} of {len(workers)} processes outlive it")
    with socket.socket() as client:
        require(client.connect_ex(("127.0.0.1", server.port)) != 0, "the port still answers")
    return f"{len(workers)} processes gone within {KILLED_S:.0f} s"


# Hostile requests -----------------------------------------------------------------------


def hostile(server: FaultServer, _size: Size) -> str:
    """Broken framing and bodies are refused with 4xx, or the connection ends; nothing is 5xx."""
    lengths = {
        name: HEAD + b"Content-Length: %d\r\n\r\n" % len(b) + b for name, b in BODIES.items()
    }
    statuses = asyncio.run(_send_hostile(server, {**FRAMING, **lengths}))
    wrong = {name: status for name, status in statuses.items() if status not in REFUSED}
    require(not wrong, f"not refused: {wrong}")
    server.speak()
    counts = {status: [*statuses.values()].count(status) for status in sorted({*statuses.values()})}
    return f"{len(statuses)} requests: {counts}"


async def _send_hostile(server: FaultServer, requests: dict[str, bytes]) -> dict[str, str]:
    statuses = {}
    for name, sent in requests.items():
        first = b""
        with suppress(ConnectionError):
            client = await RawClient.ask(server, sent)
            first = await client.read(4096)
            client.leave()
        statuses[name] = first[9:12].decode() if first.startswith(b"HTTP/1.1 ") else "closed"
    return statuses


def schemathesis(server: FaultServer, size: Size) -> str:
    """Requests made from the OpenAPI document, valid and not: no 5xx."""
    program = shutil.which(
        "schemathesis", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if not size.examples:
        raise Skipped("not in the quick form")
    if not program:
        raise Skipped("schemathesis is not installed")
    command = [program, "run", f"{server.url}/docs.json", "--checks", "not_a_server_error"]
    command += ["--max-examples", str(size.examples), "--generation-database", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    require(done.returncode == 0, done.stdout[-600:])
    return f"{size.examples} examples of each operation, no 5xx"


# Soak -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """What the processes of a server hold."""

    memory_bytes: int
    threads: int
    descriptors: int
    series: int

    @classmethod
    def by(cls, server: FaultServer) -> "Held":
        found = server.processes()
        return cls(
            sum(process.memory_full_info().uss for process in found),
            sum(process.num_threads() for process in found),
            sum(process.num_fds() for process in found),
            len(server.metrics()),
        )


def soak(server: FaultServer, size: Size) -> str:
    """Mixed requests: the second half adds nothing, and a fixed request stays bit-equal."""
    usual = server.speak()
    _mix(server, size.soak // 2)
    half = Held.by(server)
    _mix(server, size.soak - size.soak // 2)
    end = Held.by(server)
    require(server.speak() == usual, "the fixed request has changed")
    more = [
        getattr(end, name) - getattr(half, name) for name in ("threads", "descriptors", "series")
    ]
    require(max(more) <= 0, f"threads, descriptors, series: {more} more")
    mb = (end.memory_bytes - half.memory_bytes) / 1e6 / (size.soak / 2 / 1000)
    judged = size.soak >= JUDGED_FROM
    require(mb < MOST_MB or not judged, f"{mb:.1f} MB per 1,000 requests")
    note = "" if judged else " (too few to judge)"
    return f"second half of {size.soak}: {more} more, {mb:.1f} MB per 1,000{note}, bit-equal"


def _mix(server: FaultServer, count: int) -> None:
    """Ask for files, streams and errors, one after the other over one connection."""
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:
        for number in range(count):
            route, format = ROUTES[number % 3], FORMATS[number % len(FORMATS)]
            text = (
                {"input": SHORT} if route.startswith("/v1") else {"text": SHORT, "format": format}
            )
            body = {"tokens": []} if number % 10 == 9 else {**text, "seed": number}
            status = client.post(route, json=body).status_code
            require(status == (400 if number % 10 == 9 else 200), f"{route}: {status}")


# Existing tests -------------------------------------------------------------------------


def tests(_server: FaultServer, size: Size) -> str:
    """The repository's own tests of single faults, and of parsers with hypothesis."""
    if size is QUICK:
        raise Skipped("not in the quick form: they are run by scripts/test")
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    require(done.returncode == 0, done.stdout[-600:])
    return done.stdout.strip().splitlines()[-1]


PARTS: dict[str, Callable[[FaultServer, Size], str]] = {
    "hostile": hostile,
    "overload": overload,
    "disconnects": disconnects,
    "stuck readers": stuck_readers,
    "soak": soak,
    "schemathesis": schemathesis,
    "killed worker": killed_worker,
    "killed server": killed_server,
    "tests": tests,
}
"""In this order: the server does not survive the last but one."""
