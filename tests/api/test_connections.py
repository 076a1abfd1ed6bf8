"""Connections that ask for nothing: bounded in number and time, and in nobody's way."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import psutil
import pytest
from tests.api.test_waiting import metric
from tests.conftest import SLOW, Server, StartServer

MOST = 20
TIMEOUT_S = 1
SILENT = b""
UNFINISHED_HEADERS = b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-More: "
POST = (
    b"POST /tts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 999999\r\n\r\n"
)
UNFINISHED_BODY = POST + b'{"text": "' + b"x" * 1000


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Iterator[Server]:
    times = {name: str(TIMEOUT_S) for name in ("HEADER_TIMEOUT_S", "BODY_TIMEOUT_S")}
    with start_server(SLOW, MAX_CONNECTIONS=str(MOST), FRAME_EVERY_S="0.01", **times) as running:
        yield running


def connect(server: Server, stack: ExitStack, sent: bytes) -> socket.socket:
    client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
    client.sendall(sent)
    return client


def answer_of(client: socket.socket) -> bytes:
    """All that comes before the server closes."""
    answer = b""
    try:
        while part := client.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


@pytest.mark.parametrize(
    "sent", [SILENT, UNFINISHED_HEADERS, UNFINISHED_BODY], ids=["silent", "headers", "body"]
)
def test_a_request_that_does_not_arrive_in_time_is_a_408(server: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        answer = answer_of(connect(server, stack, sent))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in answer


def test_a_request_after_another_in_a_connection_has_the_time_of_the_first(server: Server) -> None:
    whole = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        answer = answer_of(connect(server, stack, whole + whole + UNFINISHED_HEADERS))
    assert [answer.count(b"HTTP/1.1 %d" % status) for status in (200, 408)] == [2, 1]


@pytest.mark.parametrize(
    "sent", [SILENT, UNFINISHED_HEADERS, UNFINISHED_BODY], ids=["silent", "headers", "body"]
)
def test_connections_that_ask_for_nothing_make_room_for_those_that_ask(
    server: Server, sent: bytes
) -> None:
    dropped = 'tts_dropped_connections_total{reason="full"}'
    before = metric(server, dropped)
    process = psutil.Process(server.pid)
    descriptors = process.num_fds()
    with ExitStack() as stack:
        clients = [connect(server, stack, sent) for _ in range(4 * MOST)]
        for _ in range(5):
            assert httpx.get(server.base_url + "/readyz").status_code == 200
            assert httpx.post(server.base_url + "/tts", json={"text": "2"}).status_code == 200
        assert process.num_fds() <= descriptors + MOST + 8
        for client in clients:
            answer_of(client)  # it ends
    assert metric(server, dropped) > before


def test_where_all_connections_are_at_work_probes_are_answered_and_others_refused(
    server: Server,
) -> None:
    body = b'{"text": "400"}'
    speak = POST.replace(b"999999", b"%d" % len(body)).replace(b"/tts", b"/stream-tts") + body
    with ExitStack() as stack:
        clients = [connect(server, stack, speak) for _ in range(MOST)]
        for client in clients[:10]:  # the others wait for a slot
            assert client.recv(100)
        for path in ("/health", "/readyz", "/metrics"):
            assert httpx.get(server.base_url + path).status_code == 200
        refused = httpx.post(server.base_url + "/tts", json={"text": "1"})
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert refused.json()["error"]["code"] == "not_ready"
