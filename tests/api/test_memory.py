"""No request leaves memory behind in the server."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import closing

import psutil
import pytest
from tests.conftest import Server, StartServer

WARM_UP, REQUESTS = 1500, 1000
MOST_BYTES = 1000
"""Of one request. BentoML's timer kept 4,700; allocators grow in steps of some 100 kB."""


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Iterator[Server]:
    with start_server(MODEL_NAME="espeak-ng", LOG_LEVEL="warning") as running:
        yield running


def probe(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/livez")
    assert client.getresponse().read() is not None


def refused(client: http.client.HTTPConnection) -> None:
    client.request("POST", "/tts", b'{"txt": 1}', {"Content-Type": "application/json"})
    answer = client.getresponse()
    assert answer.status == 400
    answer.read()


@pytest.mark.parametrize("request_one", [probe, refused])
def test_a_request_leaves_no_memory_behind(
    server: Server, request_one: Callable[[http.client.HTTPConnection], None]
) -> None:
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]

    def taken_bytes() -> int:
        return sum(process.memory_full_info().uss for process in processes)

    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as client:
        for _ in range(WARM_UP):
            request_one(client)
        before = taken_bytes()
        for _ in range(REQUESTS):
            request_one(client)
    assert (taken_bytes() - before) / REQUESTS < MOST_BYTES
