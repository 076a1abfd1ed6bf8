"""scripts/test_api.py, run as a new user would."""

import subprocess
import sys

from tests.conftest import ROOT, Server, free_port

COMMAND = [sys.executable, "scripts/test_api.py"]


def test_a_good_server_passes_every_check(server: Server) -> None:
    done = subprocess.run(
        [*COMMAND, server.base_url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok  ") == 27
    assert "FAIL" not in done.stdout


def test_a_server_that_is_not_there_is_one_line_and_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run([*COMMAND, url], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MODEL_NAME=espeak-ng ./scripts/serve" in done.stdout
