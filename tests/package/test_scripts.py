"""The commands of scripts/, run in a copy of the repository with a stand-in for Python.

The stand-in writes down how it was called, so that what would be installed and served is seen
without installing or serving it.
"""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMANDS = [
    ROOT / "scripts" / name for name in ("serve", "test", "check", "setup", "release_check")
]

# Makes a .venv that holds itself, and appends every other call to the file `calls`.
STAND_IN = """#!/usr/bin/env bash
case "$*" in
    "-V") echo "Python 3.11.99" ;;
    "-c import socket"*) exit "${IS_TAKEN:-0}" ;;
    "-c "*) exit "${TOO_OLD:-0}" ;;
    "-m venv"*"--without-pip .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m venv"*) [ -z "${NO_ENSUREPIP:-}" ] && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip --version") exit 0 ;;
    "-m pip --quiet --python"*) exit "${NO_PIP:-0}" ;;
    "-m ${FAILS_AT:-nothing}"*) exit 1 ;;
    *) echo "$*" >>"$CALLS"; echo "pid $$"; exit "${FAILS:-0}" ;;
esac
"""


class Checkout:
    """A copy of what the scripts need, with `bin/python3` as the only Python they can find."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "scripts").mkdir()
        for command in COMMANDS:
            (folder / "scripts" / command.name).write_bytes(command.read_bytes())
            (folder / "scripts" / command.name).chmod(0o755)
        for name in ("pyproject.toml", "constraints.txt"):
            (folder / name).write_bytes((ROOT / name).read_bytes())
        (folder / "bin" / "python3").write_text(STAND_IN)
        (folder / "bin" / "python3").chmod(0o755)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command of the copy from another folder, as people do."""
        fixed = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "CALLS": str(self.folder / "calls"),
        }
        return subprocess.Popen(
            [self.folder / command[0], *command[1:]],
            cwd="/",
            env={"PYTHON": "python3", **fixed, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """Run a command to its end; returns its code and what it printed."""
        with self.start(*command, **environment) as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def calls(self) -> list[str]:
        """How Python was called since the last time this was asked."""
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def install_of(extras: str) -> str:
    return f"-m pip install --editable .[{extras}] --constraint constraints.txt"


def test_setup_installs_what_was_asked_with_locked_versions(checkout: Checkout) -> None:
    code, _ = checkout.run("scripts/setup", "espeak", "aac")
    assert code == 0
    assert checkout.calls() == [install_of("espeak,aac")]


def test_setup_without_extras_only_makes_the_environment(checkout: Checkout) -> None:
    assert checkout.run("scripts/setup")[0] == 0
    assert (checkout.folder / ".venv/bin/python").exists()
    assert checkout.calls() == []


def test_setup_does_nothing_the_second_time(checkout: Checkout) -> None:
    checkout.run("scripts/setup", "espeak", "aac")
    checkout.calls()
    assert checkout.run("scripts/setup", "espeak") == (0, "")
    assert checkout.calls() == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_setup_installs_again_when_versions_change(checkout: Checkout, name: str) -> None:
    checkout.run("scripts/setup", "espeak")
    checkout.calls()
    with (checkout.folder / name).open("a") as file:
        file.write("# changed\n")
    checkout.run("scripts/setup", "espeak")
    assert checkout.calls() == [install_of("espeak")]


def test_setup_adds_what_is_new(checkout: Checkout) -> None:
    checkout.run("scripts/setup", "espeak")
    checkout.calls()
    checkout.run("scripts/setup", "espeak", "qwen")
    assert checkout.calls() == [install_of("espeak,qwen")]


def test_a_failed_install_is_reported_and_tried_again(checkout: Checkout) -> None:
    code, output = checkout.run("scripts/setup", "espeak", FAILS="1")
    assert code == 1
    assert "Installing failed" in output
    assert checkout.run("scripts/setup", "espeak")[0] == 0
    assert len(checkout.calls()) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_release_is_checked_for_known_vulnerabilities(checkout: Checkout, fails: bool) -> None:
    code, output = checkout.run("scripts/release_check", FAILS_AT="pip_audit" if fails else "")
    assert code == int(fails)
    files = ("requirements-image.txt", "constraints.txt")
    assert [f"Known vulnerabilities in {file}:" in output for file in files] == [True, True]
    audits = [f"-m pip_audit --requirement {file} --no-deps --disable-pip" for file in files]
    assert checkout.calls() == [install_of("audit"), *([] if fails else audits)]


def test_without_ensurepip_the_pip_that_is_there_is_used(checkout: Checkout) -> None:
    code, _ = checkout.run("scripts/setup", "espeak", NO_ENSUREPIP="1")
    assert code == 0
    assert checkout.calls() == [install_of("espeak")]


def test_without_venv_and_pip_one_command_is_named(checkout: Checkout) -> None:
    code, output = checkout.run("scripts/setup", "espeak", NO_ENSUREPIP="1", NO_PIP="1")
    assert code == 1
    assert "sudo apt install python3-venv" in output
    assert not (checkout.folder / ".venv").exists()
    assert checkout.calls() == []


def test_an_old_python_is_refused(checkout: Checkout) -> None:
    code, output = checkout.run("scripts/setup", "espeak", TOO_OLD="1")
    assert code == 1
    assert "Python 3.11 or newer" in output


def test_serve_with_the_embedded_voice_installs_no_torch(checkout: Checkout) -> None:
    code, _ = checkout.run("scripts/serve", MODEL_NAME="espeak-ng")
    assert code == 0
    serve = "-m bentoml serve service:QwenTTS --host 127.0.0.1 --port 8188"
    assert checkout.calls() == [install_of("espeak"), serve]


def test_serve_takes_host_port_and_arguments(checkout: Checkout) -> None:
    checkout.run("scripts/serve", "--reload", MODEL_NAME="espeak-ng", HOST="0.0.0.0", PORT="9000")
    assert checkout.calls()[-1].endswith("--host 0.0.0.0 --port 9000 --reload")


def test_serve_without_a_model_name_says_what_that_means(checkout: Checkout) -> None:
    _, output = checkout.run("scripts/serve")
    assert checkout.calls()[0] == install_of("qwen")
    assert "MODEL_NAME=espeak-ng ./scripts/serve" in output


def test_serve_names_another_port_when_its_own_is_taken(checkout: Checkout) -> None:
    code, output = checkout.run("scripts/serve", MODEL_NAME="espeak-ng", IS_TAKEN="1")
    assert code == 1
    assert "PORT=8189" in output.splitlines()[-1]
    assert not any("bentoml" in call for call in checkout.calls())


def test_serve_becomes_the_server(checkout: Checkout) -> None:
    with checkout.start("scripts/serve", MODEL_NAME="espeak-ng") as process:
        output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == f"pid {process.pid}"


def test_test_runs_the_checks_beside_the_tests_and_hands_its_arguments_on(
    checkout: Checkout,
) -> None:
    code, _ = checkout.run("scripts/test", "-k", "voice")
    assert code == 0
    first, *others = checkout.calls()
    assert first == install_of("dev,espeak,qwen,aac")
    assert "-m pytest -k voice" in others
    checks = [call.split()[1] for call in others if call != "-m pytest -k voice"]
    assert checks == ["ruff", "ruff", "mypy", "pytest"]


@pytest.mark.parametrize("failing", ["ruff", "mypy", "pytest -q", "pytest -k"])
def test_test_fails_when_a_check_or_a_test_does(checkout: Checkout, failing: str) -> None:
    assert checkout.run("scripts/test", "-k", "voice", FAILS_AT=failing)[0] == 1


def test_all_tests_run_in_two_processes(checkout: Checkout) -> None:
    checkout.run("scripts/test")
    parallel = "--numprocesses 2 --dist loadfile --no-loadscope-reorder"
    rules = "tests/package/test_import_rules.py"  # among the checks
    calls = checkout.calls()
    assert f"-m pytest {parallel} --ignore {rules}" in calls
    assert f"-m pytest -q {rules}" in calls


@pytest.mark.parametrize("command", [*COMMANDS, ROOT / ".ci" / "run"], ids=lambda c: c.name)
def test_every_command_is_short_and_can_be_run(command: Path) -> None:
    assert os.access(command, os.X_OK)
    assert len(command.read_text().splitlines()) <= 40
