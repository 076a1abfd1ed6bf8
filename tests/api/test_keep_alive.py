"""A server that nobody speaks to gives its memory back, and has it again for the next request."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.api.asking import speak
from tests.api.test_waiting import metric, wait_for
from tests.api.test_websocket import Client
from tests.checkpoints import write_quick_checkpoint
from tests.conftest import Server, StartServer

FEED_FORWARD = 65_000
WEIGHT_BYTES = 2 * 2 * 3 * 64 * FEED_FORWARD
"""Two layers of three matrices, 64 wide, in half precision: 50 MB."""


@pytest.fixture(scope="module")
def heavy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick checkpoint whose talker has heavy MLPs."""
    directory = tmp_path_factory.mktemp("models") / "heavy"
    write_quick_checkpoint(directory)
    config = json.loads((directory / "config.json").read_text())
    config["talker_config"]["intermediate_size"] = FEED_FORWARD
    (directory / "config.json").write_text(json.dumps(config))
    file = directory / "model.safetensors"
    tensors = load_file(file)
    generator = torch.Generator().manual_seed(0)
    for name in tensors:
        if name.startswith("talker.model.layers.") and ".mlp." in name:
            shape = (64, FEED_FORWARD) if "down_proj" in name else (FEED_FORWARD, 64)
            tensors[name] = (torch.randn(shape, generator=generator) / 1000).bfloat16()
    save_file(tensors, file)
    return directory


@pytest.fixture(scope="module")
def sleepy(start_server: StartServer, heavy_checkpoint: Path) -> Iterator[Server]:
    model = {"MODEL_NAME": "heavy", "MODEL_PATH": str(heavy_checkpoint.parent), "DEVICE": "cpu"}
    # Otherwise chunks follow the time that steps take, and a sample may differ by one.
    with start_server(**model, KEEP_ALIVE_S="0.5", DETERMINISTIC="1") as server:
        yield server


def status(server: Server) -> Any:
    return httpx.get(f"{server.base_url}/health").json()["status"]


def sleep(server: Server) -> None:
    wait_for(lambda: status(server) == "unloaded", 30)


def resident_bytes(server: Server) -> int:
    return int(psutil.Process(server.pid).memory_info().rss)


def test_memory_is_given_back_and_the_next_request_speaks_as_before(sleepy: Server) -> None:
    loaded = speak(sleepy)
    loaded_bytes = resident_bytes(sleepy)
    sleep(sleepy)
    wait_for(lambda: resident_bytes(sleepy) < loaded_bytes - 0.8 * WEIGHT_BYTES)
    health = httpx.get(f"{sleepy.base_url}/health")
    assert (health.status_code, health.json()["ready"]) == (200, True)
    assert httpx.get(f"{sleepy.base_url}/readyz").status_code == 200
    assert (metric(sleepy, "tts_ready"), metric(sleepy, "tts_loaded")) == (1, 0)
    again = speak(sleepy)
    assert (again.status_code, again.content) == (loaded.status_code, loaded.content)
    assert len(again.content) > 0
    assert metric(sleepy, "tts_loaded") == 1


def test_many_that_come_at_once_load_it_once(sleepy: Server) -> None:
    sleep(sleepy)
    before = sleepy.log.read_text().count("loading: reading the configuration")
    with ThreadPoolExecutor(6) as pool:
        routes = ["/tts", "/stream-tts"] * 3
        answers = list(pool.map(lambda route: speak(sleepy, route), routes))
    assert {answer.status_code for answer in answers} == {200}
    assert sleepy.log.read_text().count("loading: reading the configuration") == before + 1


def test_a_socket_that_outlives_the_voice_speaks_again(sleepy: Server) -> None:
    with Client(sleepy) as client:
        client.configure(seed=5, max_length=8)
        for _ in range(2):
            sleep(sleepy)
            client.write("hello ")
            client.send("input.done")
            events, audio = client.until("session.done")
            assert audio, events


def test_it_ends_cleanly_while_unloaded(start_server: StartServer) -> None:
    with start_server(KEEP_ALIVE_S="0.1") as server:
        sleep(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log.read_text()
