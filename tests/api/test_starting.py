"""Starting, and failing to start: one message, code 1, at once."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.api.test_waiting import metric
from tests.conftest import (
    KEY,
    READY_S,
    ROOT,
    SLOW,
    Server,
    StartServer,
    clean_environment,
    free_port,
    stop,
    wait_until_ready,
)


def serve(home: Path, *, service: str = "service:QwenTTS", **settings: str) -> Any:
    command = [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1"]
    return subprocess.run(
        [*command, "--port", str(free_port())],
        cwd=ROOT,
        env=clean_environment(home, **settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_cannot_be_served_ends_at_once_with_one_message(tmp_path: Path) -> None:
    ended = serve(tmp_path, HF_HUB_OFFLINE="1", MODEL_PATH="/nowhere")
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for word in ("/nowhere", "scripts/download_model.py", "MODEL_NAME=espeak-ng"):
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_voice_that_fails_to_load_later_ends_the_process_too(tmp_path: Path) -> None:
    ended = serve(tmp_path, service=SLOW, LOAD_FAILS="1")
    assert ended.returncode == 1
    assert "LOAD_FAILS is set" in ended.stderr + ended.stdout


def health_with_step(client: httpx.Client, url: str, step: str) -> httpx.Response:
    """The first answer of /health that names this step of the start."""
    deadline_s = time.monotonic() + READY_S
    while True:
        assert time.monotonic() < deadline_s, f"{step!r} was never reached"
        try:
            health = client.get(f"{url}/health")
        except httpx.TransportError:  # it does not listen yet
            time.sleep(0.05)
            continue
        if health.json().get("step") == step:
            return health


def test_health_answers_503_with_the_step_while_the_voice_loads(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    loaded, log = tmp_path / "loaded", tmp_path / "log"
    command = [sys.executable, "-m", "bentoml", "serve", SLOW]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env=clean_environment(tmp_path, LOADS_UNTIL_FILE=str(loaded)),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        with httpx.Client() as client:
            health = health_with_step(client, url, "pretending to load")
            assert health.status_code == 503
            assert (health.json()["status"], health.json()["ready"]) == ("starting", False)
            assert health.json()["progress"] == 0.5
            assert client.get(f"{url}/readyz").json()["error"]["code"] == "not_ready"
            assert client.get(f"{url}/livez").status_code == 200
            early = client.post(f"{url}/tts", json={"text": "1"})
            assert (early.status_code, early.json()["error"]["code"]) == (503, "not_ready")
            assert early.headers["retry-after"] == "5"
            loaded.touch()
            wait_until_ready(Server(url, log, process))
            assert client.post(f"{url}/tts", json={"text": "1"}).status_code == 200
    finally:
        stop(process)


def test_an_api_key_guards_what_speaks_and_nothing_else(locked: Server) -> None:
    url = locked.base_url
    before = metric(locked, 'tts_requests_total{outcome="unauthorized",route="/tts"}')
    for path in ("/health", "/readyz", "/livez", "/metrics", "/", "/docs.json"):
        assert httpx.get(url + path).status_code == 200, path
    for route in ("/tts", "/stream-tts"):
        without = httpx.post(url + route, json={"text": "да"})
        assert without.status_code == 401
        assert without.json()["error"]["code"] == "unauthorized"
        assert without.headers["www-authenticate"] == "Bearer"
        wrong = {"Authorization": "Bearer open"}
        assert httpx.post(url + route, json={"text": "да"}, headers=wrong).status_code == 401
        right = {"Authorization": f"Bearer {KEY}", "Origin": "https://good.example"}
        spoken = httpx.post(url + route, json={"text": "да"}, headers=right)
        assert spoken.status_code == 200
        assert spoken.headers["access-control-allow-origin"] == "https://good.example"
    preflight = httpx.options(
        url + "/tts",
        headers={
            "Origin": "https://good.example",
            "Access-Control-Request-Method": "POST",
            # Clients add headers of their own, as OpenAI's does in a browser.
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://good.example"
    refused = httpx.post(url + "/tts", json={}, headers={"Origin": "https://good.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://good.example"
    assert metric(locked, 'tts_requests_total{outcome="unauthorized",route="/tts"}') == before + 3
    log = locked.log.read_text()
    assert f"/tts id={refused.headers['x-request-id']}" in log
    assert KEY not in log


@dataclass(frozen=True)
class Fragile:
    """A server whose voice is ill while the file `illness` exists, and whose rate is 22,050 Hz."""

    server: Server
    illness: Path


@pytest.fixture(scope="module")
def fragile(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    illness = tmp_path_factory.mktemp("fragile") / "illness"
    settings = {"SICK_FILE": str(illness), "SAMPLING_RATE": "22050"}
    with start_server(SLOW, is_whole=True, **settings) as server:
        yield Fragile(server, illness)


def test_another_rate_is_resampled_and_one_a_format_cannot_carry_is_refused(
    fragile: Fragile,
) -> None:
    url = fragile.server.base_url + "/tts"
    wav = httpx.post(url, json={"text": "20", "seed": 1})
    assert int.from_bytes(wav.content[24:28], "little") == 22050
    assert len(wav.content) == pytest.approx(44 + 20 * 0.08 * 22050 * 2, abs=200)
    refused = httpx.post(url, json={"text": "20", "format": "opus"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "format"
    assert "24000" in refused.json()["error"]["message"]


def test_an_unhealthy_voice_makes_the_service_unhealthy(fragile: Fragile) -> None:
    url = fragile.server.base_url
    assert httpx.get(url + "/livez").status_code == 200
    fragile.illness.touch()
    try:
        assert httpx.get(url + "/health").json()["status"] == "failed"
        for path in ("/health", "/readyz", "/livez"):
            assert httpx.get(url + path).status_code == 503
        refused = httpx.post(url + "/tts", json={"text": "1"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    finally:
        fragile.illness.unlink()


def test_a_worker_that_was_killed_is_replaced_and_leaves_no_count(fragile: Fragile) -> None:
    url = fragile.server.base_url
    with httpx.stream("POST", url + "/stream-tts", json={"text": "999"}) as cut:
        assert cut.status_code == 200
        (worker,) = psutil.Process(fragile.server.pid).children()
        worker.kill()
        with pytest.raises(httpx.HTTPError):
            cut.read()
    wait_until_ready(fragile.server)
    counted = httpx.get(url + "/metrics").text.splitlines()
    assert {"tts_active_requests 0.0", "tts_slots 10.0", "tts_ready 1.0"} <= set(counted)
