"""Workers of `bentoml serve`, forked from a process that has imported the service already.

Starting the true command costs several seconds of imports, half of them in the supervisor. What a
test sees over HTTP is the work of the worker alone, which is started here as the supervisor would.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORTED = "tests.forked_imports"
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload([IMPORTED])


class ForkedServer:
    """A forked worker with the methods of `subprocess.Popen` that tests need."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        process.start()
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(IMPORTED, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def fork_server(service: str, port: int, environment: dict[str, str], log: Path) -> ForkedServer:
    """Start a worker that serves `service` on a loopback port."""
    log.touch()
    process = FORKS.Process(target=_serve, args=(service, port, environment, log))
    return ForkedServer(process)


def _serve(service: str, port: int, environment: dict[str, str], log: Path) -> None:
    """Become the worker that `bentoml serve` would start with this environment."""
    from _bentoml_impl.worker.service import main

    os.setsid()
    os.chdir(ROOT)
    with log.open("wb") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(out.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # as service.py does when it is imported
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(dir=log.parent)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again at its end
    listening = socket.create_server(("127.0.0.1", port), backlog=2048)
    main(["--fd", str(listening.detach()), "--worker-id", "1", service])
