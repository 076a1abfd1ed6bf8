"""service.py: worker numbers, the end of a failed start, readiness."""

import os
import signal
from types import SimpleNamespace
from typing import Any

import bentoml
import pytest
import service
from bentoml._internal.server.http import traffic
from tests.conftest import ROOT

from qwen_tts_service.api.keeper import Stage
from qwen_tts_service.api.timeouts import NoTimeout
from qwen_tts_service.errors import StartupError
from qwen_tts_service.settings import load_settings


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Codes and signals instead of an end; the process lives on."""
    done: list[Any] = []

    def end(code: int) -> None:
        done.append(code)
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(os, "kill", lambda pid, what: done.append((pid, what)))
    return done


def as_worker(monkeypatch: pytest.MonkeyPatch, index: int | None) -> None:
    monkeypatch.setattr(bentoml, "server_context", SimpleNamespace(worker_index=index))


@pytest.mark.parametrize(("index", "worker"), [(None, 0), (1, 0), (2, 1), (3, 2)])
def test_workers_are_numbered_from_0_and_bounded_before_they_load(
    index: int | None, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    as_worker(monkeypatch, index)
    monkeypatch.setenv("STALL_TIMEOUT_S", "9.5")
    monkeypatch.setattr(service, "bound_connections", done.append)
    monkeypatch.setattr(service.runtime, "open", lambda *args: done.append(args))
    service.QwenTTS.inner()
    stall_s, (settings, build, on_failure, release) = done
    assert stall_s == 9.5
    assert settings == load_settings()
    assert (build.func, build.args, build.keywords) == (service.build, (), {"worker": worker})
    assert on_failure is service._give_up
    assert (release.func, release.args) == (service.release, (settings,))


@pytest.mark.parametrize(("index", "signals"), [(None, []), (1, [(os.getppid(), signal.SIGUSR1)])])
def test_a_worker_that_gives_up_signals_its_supervisor_and_ends(
    index: int | None, signals: list[Any], ends: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_worker(monkeypatch, index)
    with pytest.raises(Ended):
        service._give_up()
    assert ends == [*signals, 1]


def test_a_supervisor_ends_its_workers_and_then_itself(
    ends: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [SimpleNamespace(terminate=lambda n=n: ends.append(f"worker {n}")) for n in (1, 2)]
    process = SimpleNamespace(children=lambda: workers)
    monkeypatch.setattr(service.psutil, "Process", lambda: process)
    with pytest.raises(Ended):
        service._end_with_failure(signal.SIGUSR1, None)
    assert ends == ["worker 1", "worker 2", 1]


def test_settings_that_cannot_be_served_end_the_process_with_one_message(
    ends: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_settings: Any) -> None:
        raise StartupError("no such voice")

    listening: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda *args: listening.append(args))
    monkeypatch.setattr(service, "check", refuse)
    with pytest.raises(Ended):
        service.QwenTTS.inner.check_settings()
    assert ends == [1]
    assert capsys.readouterr().err == "error: no such voice\n"
    assert listening == [(signal.SIGUSR1, service._end_with_failure)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param(
            {"MODEL_NAME": "espeak-ng", "MAX_QUEUE": "many"}, ["MAX_QUEUE"], id="wrong-setting"
        ),
        pytest.param(
            {"DEVICE": "cuda", "MODEL_PATH": str(ROOT / "tests/data/tiny_1b7")},
            ["DEVICE=cuda", "DEVICE=cpu"],
            id="no-cuda",
        ),
    ],
)
def test_a_wrong_setting_and_a_missing_device_end_the_process_with_one_message(
    settings: dict[str, str],
    words: list[str],
    ends: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(Ended):
        service.QwenTTS.inner.check_settings()
    said = capsys.readouterr().err
    assert (ends, said.count("error: ")) == ([1], 1)
    assert all(word in said for word in words)


def test_settings_that_can_be_served_are_let_pass(
    ends: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(service, "check", checked.append)
    service.QwenTTS.inner.check_settings()
    assert checked == [load_settings()]
    assert ends == []


@pytest.mark.parametrize(
    ("status", "is_ready", "is_alive"),
    [
        ("starting", False, True),
        ("ready", True, True),
        ("unloaded", True, True),
        ("loading", True, True),
        ("failed", False, False),
        ("stopping", False, True),
    ],
)
async def test_readiness_and_life_are_two_questions(
    status: Any, is_ready: bool, is_alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.runtime, "_keeper", SimpleNamespace(stage=Stage(status)))
    made = object.__new__(service.QwenTTS.inner)
    assert await made.__is_ready__() is is_ready
    assert await made.__is_alive__() is is_alive


def test_the_end_of_the_server_closes_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(service.runtime, "close", lambda: closed.append(1))
    object.__new__(service.QwenTTS.inner).close()
    assert closed == [1]


def test_bentoml_has_no_timer_of_its_own_and_no_lines_in_log_and_metrics() -> None:
    config = service.QwenTTS.config
    assert traffic.TimeoutMiddleware is NoTimeout
    assert config["http"]["port"] == 8188
    assert config["metrics"]["enabled"] is False
    assert config["logging"]["access"]["enabled"] is False
    batches = service.QwenTTS.apis["tts"]
    assert (batches.batchable, batches.max_batch_size) == (True, 64)
    assert batches.max_latency_ms == 24 * 3600 * 1000
