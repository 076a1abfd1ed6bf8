"""Queueing, disconnects, 429, timeouts and shutdown, with a slow voice."""

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.conftest import SLOW, StartServer

from qwen_tts_service.api import wire

ROUTES = ("/tts", "/stream-tts")


@pytest.fixture(scope="module")
def slow(start_server: StartServer) -> Iterator[Any]:
    settings = {"MAX_CONCURRENT_REQUESTS": "2", "MAX_QUEUE": "1", "REQUEST_TIMEOUT_S": "4"}
    with start_server(SLOW, **settings) as server:
        yield server


@pytest.fixture(scope="module")
def roomy(start_server: StartServer) -> Iterator[Any]:
    with start_server(SLOW, MAX_CONCURRENT_REQUESTS="16") as server:
        yield server


def metric(server: Any, name: str) -> float:
    """The sum over a metric's series."""
    text = httpx.get(server.base_url + "/metrics").text
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.MULTILINE)
    return sum(float(value) for value in found)


def wait_for(condition: Any, timeout_s: float = 10) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.02)


def is_idle(server: Any) -> bool:
    return metric(server, "tts_active_requests") == metric(server, "tts_queued_requests") == 0


def test_a_short_file_behind_a_long_one_takes_its_own_time(roomy: Any) -> None:
    took_s: dict[str, float] = {}

    def ask(text: str) -> None:
        began_s = time.monotonic()
        response = httpx.post(roomy.base_url + "/tts", json={"text": text}, timeout=60)
        assert response.status_code == 200
        took_s[text] = time.monotonic() - began_s

    long = threading.Thread(target=ask, args=("60",))
    long.start()
    wait_for(lambda: metric(roomy, "tts_active_requests") == 1)
    ask("2")
    ask("3")
    assert long.is_alive(), "the long request ended before the short ones: nothing was shown"
    long.join()
    assert took_s["2"] < took_s["60"] / 2


def test_no_file_waits_for_as_long_as_those_before_it() -> None:
    optimizer = wire.Optimizer(max_latency=60)
    for _ in range(10):
        optimizer.log_outbound(n=1, wait=5.0, duration=0.001)
    optimizer.trigger_refresh()
    assert optimizer.wait == 0


def test_a_batch_of_files_is_spoken_side_by_side_with_a_status_each(roomy: Any) -> None:
    texts = ["4", "fail", "6", "runaway", "8"] * 3
    with ThreadPoolExecutor(16) as pool:
        url = roomy.base_url + "/tts"
        answers = list(
            pool.map(lambda t: httpx.post(url, json={"text": t, "seed": 1}, timeout=60), texts)
        )
    expected = {"4": 200, "fail": 500, "6": 200, "runaway": 422, "8": 200}
    assert [a.status_code for a in answers] == [expected[t] for t in texts]
    sizes = {t: len(a.content) for t, a in zip(texts, answers, strict=True)}
    assert sizes["4"] == 44 + 4 * 3840
    assert sizes["8"] == 44 + 8 * 3840


def test_the_first_audio_comes_before_the_speech_has_ended(roomy: Any) -> None:
    with httpx.stream("POST", roomy.base_url + "/stream-tts", json={"text": "40"}) as response:
        parts = response.iter_raw()
        first = next(parts)
        assert len(first) < 5 * 3840
        assert metric(roomy, "tts_active_requests") == 1
        rest = sum(len(part) for part in parts)
    assert len(first) + rest == 44 + 40 * 3840


@pytest.mark.parametrize("route", ROUTES)
def test_a_client_that_leaves_frees_its_slot(roomy: Any, route: str) -> None:
    wait_for(lambda: is_idle(roomy))
    before = metric(roomy, "tts_cancellations_total")
    with socket.create_connection(("127.0.0.1", roomy.port)) as client:
        data = b'{"text": "2000"}'
        head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        wait_for(lambda: metric(roomy, "tts_active_requests") == 1)
    wait_for(lambda: is_idle(roomy), 2)
    assert metric(roomy, "tts_cancellations_total") == before + 1


@pytest.mark.parametrize("route", [*ROUTES, "/v1/audio/speech"])
def test_a_client_that_leaves_within_its_body_is_no_failure(roomy: Any, route: str) -> None:
    before = metric(roomy, "tts_cancellations_total")
    with socket.create_connection(("127.0.0.1", roomy.port)) as client:
        head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(head.encode() + b'Content-Length: 99\r\n\r\n{"text": "Zwet')
    wait_for(lambda: metric(roomy, "tts_cancellations_total") == before + 1)
    log = roomy.log.read_text()
    assert "ClientDisconnect" not in log
    assert f"{route} id=" in log
    assert not re.search(r"status=(5\d\d|None) outcome=ok", log)


def test_a_client_that_leaves_while_it_waits_frees_its_position_in_the_queue(slow: Any) -> None:
    wait_for(lambda: is_idle(slow))
    url = slow.base_url + "/stream-tts"
    with (
        httpx.stream("POST", url, json={"text": "60"}),
        httpx.stream("POST", url, json={"text": "60"}),
    ):
        with socket.create_connection(("127.0.0.1", slow.port)) as client:
            data = b'{"text": "2"}'
            head = b"POST /tts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            wait_for(lambda: metric(slow, "tts_queued_requests") == 1)
        wait_for(lambda: metric(slow, "tts_queued_requests") == 0, 2)
        assert metric(slow, "tts_active_requests") == 2
    wait_for(lambda: is_idle(slow))


@pytest.mark.parametrize("route", ROUTES)
def test_beyond_slots_and_queue_it_is_429_with_retry_after(slow: Any, route: str) -> None:
    wait_for(lambda: is_idle(slow))
    url = slow.base_url + "/stream-tts"
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", url, json={"text": "100"}),
        httpx.stream("POST", url, json={"text": "100"}),
    ):
        waiting = pool.submit(httpx.post, slow.base_url + "/tts", json={"text": "1"}, timeout=30)
        wait_for(lambda: metric(slow, "tts_queued_requests") == 1)
        refused = httpx.post(slow.base_url + route, json={"text": "1"})
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "busy"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert httpx.get(slow.base_url + "/health").json()["slots"]["queued"] == 1
    assert waiting.result().status_code == 200


@pytest.mark.parametrize("route", ROUTES)
def test_what_takes_too_long_before_its_first_byte_is_a_504(slow: Any, route: str) -> None:
    wait_for(lambda: is_idle(slow))
    url = slow.base_url + "/stream-tts"
    with (
        httpx.stream("POST", url, json={"text": "400"}, timeout=30),
        httpx.stream("POST", url, json={"text": "400"}, timeout=30),
    ):
        late = httpx.post(slow.base_url + route, json={"text": "1"}, timeout=30)
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "timeout"
    wait_for(lambda: is_idle(slow))


def test_a_failure_before_the_first_audio_has_its_status(roomy: Any) -> None:
    response = httpx.post(roomy.base_url + "/stream-tts", json={"text": "fail"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"


@pytest.mark.parametrize("text", ["5 fail", "5 runaway"])
def test_a_failure_on_the_way_breaks_the_stream(roomy: Any, text: str) -> None:
    with httpx.stream("POST", roomy.base_url + "/stream-tts", json={"text": text}) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    wait_for(lambda: is_idle(roomy))


def test_a_slow_reader_pauses_only_itself(start_server: StartServer) -> None:
    # 12 MB, more than the sockets between them hold; unread, it may not be made to its end.
    with start_server(SLOW, FRAME_EVERY_S="0") as server:
        url = server.base_url + "/stream-tts"
        with httpx.stream("POST", url, json={"text": "3000"}, timeout=60) as slow:
            parts = slow.iter_raw()
            size = len(next(parts))
            for _ in range(2):
                quick = httpx.post(url, json={"text": "1500"}, timeout=60)
                assert len(quick.content) == 44 + 1500 * 3840
            assert metric(server, "tts_active_requests") == 1
            size += sum(len(part) for part in parts)
        assert size == 44 + 3000 * 3840


def test_little_is_made_for_a_client_that_never_reads_and_it_is_cut_off(
    start_server: StartServer,
) -> None:
    with start_server(SLOW, FRAME_EVERY_S="0", STALL_TIMEOUT_S="2") as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            data = b'{"text": "3000", "format": "pcm"}'
            head = b"POST /stream-tts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            wait_for(lambda: metric(server, "tts_active_requests") == 1)
            wait_for(lambda: is_idle(server), 30)
        wait_for(lambda: "outcome=cancelled" in server.log.read_text())
        made_s = float(re.findall(r"audio_s=([0-9.]+)", server.log.read_text())[-1])
        assert made_s < 20


def test_a_running_stream_is_finished_after_sigterm(start_server: StartServer) -> None:
    with (
        start_server(SLOW, is_whole=True) as server,
        httpx.stream("POST", server.base_url + "/stream-tts", json={"text": "50"}) as response,
    ):
        parts = response.iter_raw()
        size = len(next(parts))
        server.process.send_signal(signal.SIGTERM)
        size += sum(len(part) for part in parts)
        assert size == 44 + 50 * 3840
        assert server.process.wait(20) is not None
