"""Real servers for tests: `bentoml serve` in a process of its own, on a free loopback port.

Most are its worker alone, forked from a process that has imported everything: see tests/forked.py.
Servers that several files need are shared by the whole run.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest
from tests.forked import fork_server

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any test imports torch; see below

ROOT = Path(__file__).parent.parent
SLOW = "tests.api.slow_service:QwenTTS"
KEY = "secret=key/1"
READY_S = 120.0
WARMS_UP = "starting: warm-up"
WARM_UP_S = 20.0
"""How long the first utterance of a loaded voice may take; that of a broken engine never ends."""
STOP_S = 60.0


def pytest_configure() -> None:
    """End as Ctrl-C does when told to terminate, so that no server outlives the tests."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # An example has no deadline: how long it takes depends on what else the machine does.
    hypothesis.settings.register_profile("tests", deadline=None)
    hypothesis.settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Spare garbage collection the modules: with torch imported, a full run takes half a second."""
    gc.freeze()


class Process(Protocol):
    """What tests need of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def send_signal(self, number: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: `base_url` has no slash at its end, `log` holds stdout and stderr."""

    base_url: str
    log: Path
    process: Process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2])


class StartServer(Protocol):
    """Start a server with these settings; it is ready inside the `with` and stopped after it.

    is_whole: `bentoml serve` with its supervisor, which starts a worker and restarts it
    command: what to run instead
    """

    def __call__(
        self,
        service: str = ...,
        *,
        is_whole: bool = False,
        command: list[str] | None = None,
        **settings: str,
    ) -> AbstractContextManager[Server]: ...


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(home: Path, **settings: str) -> dict[str, str]:
    """This process's environment without settings of ours or of BentoML, and then `settings`."""
    from qwen_tts_service.settings import Settings

    ours = {name.upper() for name in Settings.model_fields} | {"HOST", "PORT"}
    foreign = ("BENTOML_", "PROMETHEUS_")
    kept = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith(foreign)}
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    # A second thread gains a tiny model nothing, and on busy cores it costs it a hundredfold.
    return {**kept, **quiet, "OMP_NUM_THREADS": "1", **settings}


def wait_until_ready(server: Server, timeout_s: float = READY_S) -> None:
    """Return once /readyz answers 200; fail with the log if the server ends or takes too long."""
    deadline_s = time.monotonic() + timeout_s
    before = server.log.read_text().count(WARMS_UP)  # of a worker that was killed
    is_loaded = False
    while time.monotonic() < deadline_s:
        if server.process.poll() is not None:
            break
        if not is_loaded and server.log.read_text().count(WARMS_UP) > before:
            is_loaded, deadline_s = True, min(deadline_s, time.monotonic() + WARM_UP_S)
        try:
            with urllib.request.urlopen(f"{server.base_url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    state = server.process.poll()
    late = "has loaded and cannot speak" if is_loaded else f"not ready in {timeout_s:.0f} s"
    what = f"ended with code {state}" if state is not None else late
    pytest.fail(f"server {what}; its log ends:\n{server.log.read_text()[-4000:]}")


def stop(process: Process, timeout_s: float = STOP_S) -> int:
    """End a server politely, its whole process group by force if need be; returns its code."""
    process.terminate()
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        return process.wait()


def start_process(command: list[str], environment: dict[str, str], log: Path) -> Process:
    """Run a command from the repository's root, in a process group of its own."""
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop that runs tests and fixtures which are coroutines."""
    return "asyncio"


@pytest.fixture(scope="session")
def quick_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a checkpoint that speaks quickly: see tests/checkpoints.py."""
    from tests.checkpoints import write_quick_checkpoint

    directory = tmp_path_factory.mktemp("models") / "quick"
    write_quick_checkpoint(directory)
    return directory


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> StartServer:
    """A function that starts a server of one's own: `with start_server(API_KEY="k") as server`."""

    @contextmanager
    def start(
        service: str = "service:QwenTTS",
        *,
        is_whole: bool = False,
        command: list[str] | None = None,
        **settings: str,
    ) -> Iterator[Server]:
        home = tmp_path_factory.mktemp("server")
        port, log = free_port(), home / "server.log"
        given = {"MODEL_NAME": "espeak-ng", "PORT": str(port), **settings}
        environment = clean_environment(home, **given)
        if is_whole:
            command = [sys.executable, "-m", "bentoml", "serve", service]
            command += ["--host", "127.0.0.1", "--port", str(port)]
        process: Process
        if command:
            process = start_process(command, environment, log)
        else:
            process = fork_server(service, port, environment, log)
        server = Server(f"http://127.0.0.1:{port}", log, process)
        try:
            wait_until_ready(server)
            yield server
        finally:
            stop(process)

    return start


class ShareServer(Protocol):
    """Return the server with these settings, started when it is first asked for."""

    def __call__(self, service: str = ..., **settings: str) -> Server: ...


@pytest.fixture(scope="session")
def share_server(start_server: StartServer) -> Iterator[ShareServer]:
    """A function that returns servers which all tests of the run share, by their settings."""
    with ExitStack() as stack:

        @cache
        def share(service: str = "service:QwenTTS", **settings: str) -> Server:
            return stack.enter_context(start_server(service, **settings))

        yield share


@pytest.fixture(scope="session")
def server(share_server: ShareServer) -> Server:
    """A server with the embedded voice and default settings."""
    return share_server()


@pytest.fixture(scope="session")
def locked(share_server: ShareServer) -> Server:
    """A server with the embedded voice, the key KEY and an origin that may call it."""
    return share_server(API_KEY=KEY, CORS_ORIGINS="https://good.example")


@pytest.fixture(scope="session")
def slow(share_server: ShareServer) -> Server:
    """A server with the voice that takes its time, two slots and no queue."""
    return share_server(SLOW, MAX_CONCURRENT_REQUESTS="2", MAX_QUEUE="0")


@pytest.fixture(scope="session")
def qwen(share_server: ShareServer, quick_checkpoint: Path) -> Server:
    """A server with the Qwen3-TTS voice and the quick checkpoint."""
    path = str(quick_checkpoint.parent)
    return share_server(MODEL_NAME="quick", MODEL_PATH=path, DEVICE="cpu")
