"""The supervisor with workers that are a line of Python each, as processes of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

from tests.conftest import clean_environment

RUN = dedent("""
    import os, sys
    from types import SimpleNamespace
    from qwen_tts_service.api import supervisor
    from qwen_tts_service.telemetry import logs

    supervisor.PAUSE_S = 0.0
    supervisor.MOST_SILENT_S = 2
    logs.configure("info")
    watcher = SimpleNamespace(
        args=["-c", sys.argv[1], "$(CIRCUS.WID)"],
        numprocesses=int(sys.argv[2]),
        working_dir=".",
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": sys.argv[3]},
    )
    supervisor.Supervisor(watcher, [], grace_s=60).start()
""")
IGNORES_SIGTERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
print("runs", flush=True)
while True:
    time.sleep(60)
"""


STANDS_STILL = """
import os, signal, time
from qwen_tts_service.api.roster import Roster
from qwen_tts_service.settings import inherited_roster
roster = Roster(*inherited_roster())
roster.note_ready(1)
if not roster.deaths(1):
    for _ in range(20):  # for longer than it may be silent
        roster.beat(1)
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGSTOP)
print("replaced", flush=True)
time.sleep(60)
"""


def start(worker: str, home: Path, workers: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, worker, str(workers), str(home / "metrics")],
        env=clean_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_worker_that_cannot_live_ends_the_server_with_one_message(tmp_path: Path) -> None:
    out, _ = (server := start("import os; os.kill(os.getpid(), 7)", tmp_path)).communicate(
        timeout=60
    )
    assert server.returncode == 1
    assert out.count("worker 1 died: signal 7 (Bus error)") == 5
    assert out.count("the server ends") == 1
    assert "Traceback" not in out


def test_a_worker_that_says_that_it_cannot_live_is_not_tried_again(tmp_path: Path) -> None:
    stays = "import sys, time; sys.exit(78) if sys.argv[1] == '2' else time.sleep(60)"
    out, _ = (server := start(stays, tmp_path, workers=2)).communicate(timeout=60)
    assert server.returncode == 1
    assert out.count("died") == out.count("worker 2 died: exit code 78") == 1


def test_a_single_worker_that_stands_still_is_killed_and_replaced(tmp_path: Path) -> None:
    server = start(STANDS_STILL, tmp_path)
    assert server.stdout is not None
    lines = list(iter(server.stdout.readline, "replaced\n"))
    server.terminate()
    server.wait(60)
    server.stdout.close()
    assert "worker 1 is killed: its event loop stands" in lines[-2]
    assert "worker 1 died: signal 9" in lines[-1]
    assert len(lines) == 2


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    server = start(IGNORES_SIGTERM, tmp_path)
    assert server.stdout is not None
    lines = iter(server.stdout)
    assert next(lines) == "runs\n"
    began_s = time.monotonic()
    server.send_signal(signal.SIGTERM)
    while next(lines) != "asked to stop\n":
        pass
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 1
    assert time.monotonic() - began_s < 30
    server.stdout.close()
