"""The server as processes: its workers, its own files, how it stops. Each needs the true start."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from tests.api.test_waiting import metric, wait_for
from tests.conftest import SLOW, Server, StartServer

GRACE_S = 2


@dataclass(frozen=True)
class Pair:
    """A server of two workers; one that starts anew does not load before the file `loads` exists.

    home, temporary: BentoML's directory and that of temporary files, which other servers share
    """

    server: Server
    loads: Path
    home: Path
    temporary: Path

    @property
    def scratch(self) -> Path:
        """The directory of this server; there is no other."""
        (scratch,) = self.temporary.iterdir()
        return scratch


@pytest.fixture(scope="module")
def pair(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    here = tmp_path_factory.mktemp("pair")
    loads, home, temporary = (here / name for name in ("loads", "home", "temporary"))
    home.mkdir()
    temporary.mkdir()
    loads.touch()
    settings = {"LOADS_UNTIL_FILE": str(loads), "GRACE_S": str(GRACE_S), "FRAME_EVERY_S": "0.01"}
    shared = {"BENTOML_HOME": str(home), "TMPDIR": str(temporary)}
    with start_server(SLOW, is_whole=True, WORKERS="2", **settings, **shared) as server:
        wait_for(lambda: metric(server, "tts_ready") == 2, 30)
        yield Pair(server, loads, home, temporary)


def test_workers_are_numbered_and_their_metrics_added_up(pair: Pair) -> None:
    assert metric(pair.server, "tts_slots") == 20
    log = pair.server.log.read_text()
    assert "worker 0 loads" in log
    assert "worker 1 loads" in log


def test_shared_metrics_have_their_place_on_the_disk_before_it_is_full(pair: Pair) -> None:
    files = list((pair.scratch / "metrics").iterdir())
    assert len(files) == 2 * 4
    for file in files:
        assert file.stat().st_blocks * 512 >= file.stat().st_size, file


def test_a_server_beside_it_has_metrics_of_its_own_and_a_killed_one_takes_its_worker_along(
    pair: Pair, start_server: StartServer
) -> None:
    spoken = 'tts_requests_total{outcome="ok",route="/tts"}'
    assert httpx.post(pair.server.base_url + "/tts", json={"text": "1"}).status_code == 200
    before = metric(pair.server, spoken)
    shared = {"BENTOML_HOME": str(pair.home), "TMPDIR": str(pair.temporary)}
    ours = pair.scratch
    with start_server(SLOW, is_whole=True, **shared) as other:
        assert metric(other, spoken) == 0
        assert metric(pair.server, spoken) == before
        assert metric(pair.server, "tts_slots") == 20
        children = psutil.Process(other.pid).children(recursive=True)
        assert children
        os.kill(other.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, 5)
        assert gone
        assert not alive
    (left,) = set(pair.temporary.iterdir()) - {ours}
    names = {path.name.rpartition("-")[0] for path in left.iterdir()}
    assert names >= {"bentoml-client", "bentoml-uds"}
    next_start = "from qwen_tts_service.api.scratch import open_scratch; open_scratch()"
    environment = {**os.environ, "TMPDIR": str(pair.temporary)}
    subprocess.run([sys.executable, "-c", next_start], env=environment, check=True)
    assert pair.scratch == ours


def test_a_loading_worker_gets_no_connection_and_a_death_is_logged_and_counted(pair: Pair) -> None:
    url = pair.server.base_url
    pair.loads.unlink()
    killed = psutil.Process(pair.server.pid).children()[0]
    killed.kill()
    log = pair.server.log
    wait_for(lambda: "died: signal 9 (Killed)" in log.read_text())
    wait_for(lambda: log.read_text().count(" loads") == 3, 30)
    with socket.create_connection(("127.0.0.1", pair.server.port)):
        for _ in range(60):  # each a connection
            assert httpx.get(url + "/readyz").status_code == 200
    pair.loads.touch()
    wait_for(lambda: metric(pair.server, "tts_ready") == 2, 30)
    assert metric(pair.server, "tts_worker_deaths") == 1
    assert metric(pair.server, "tts_active_requests") == 0


def test_a_reader_that_never_ends_does_not_keep_a_server_that_stops(pair: Pair) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", pair.server.port))
        body = b'{"text": "3000", "format": "pcm"}'
        head = b"POST /stream-tts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert client.recv(1000)
        pair.server.process.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        wait_for(lambda: not is_listening(pair.server.port), 1)
        assert pair.server.process.wait(GRACE_S + 5) == 0
        assert time.monotonic() - began_s >= GRACE_S  # what runs may end
        client.settimeout(5)
        assert not ends_well(client)
    assert not list(pair.temporary.iterdir())


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def ends_well(client: socket.socket) -> bool:
    """Read all that there is; returns whether its last chunk is the empty one that ends a body."""
    last = b""
    try:
        while part := client.recv(65536):
            last = (last + part)[-5:]
    except ConnectionResetError:
        return False
    return last == b"0\r\n\r\n"
