"""service.py: worker numbers, the end of a failed start, readiness."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import service
from bentoml._internal.server.http import traffic
from tests.conftest import ROOT

from qwen_tts_service.api.keeper import Stage
from qwen_tts_service.api.supervisor import CANNOT_LIVE
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


@pytest.mark.parametrize("place", [1, 2, 3])
def test_workers_are_numbered_from_0_and_bounded_before_they_load(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(service, "PLACE", place)
    monkeypatch.setenv("STALL_TIMEOUT_S", "9.5")
    monkeypatch.setattr(service, "bound_connections", done.append)
    monkeypatch.setattr(service.runtime, "open", lambda *args: done.append(args))
    service.QwenTTS.inner()
    stall_s, (settings, build, on_failure, release) = done
    assert stall_s == 9.5
    assert settings == load_settings()
    assert (build.func, build.args, build.keywords) == (service.build, (), {"worker": place - 1})
    assert on_failure is service._give_up
    assert (release.func, release.args) == (service.release, (settings,))


def test_a_worker_that_gives_up_says_so_by_its_exit_code(ends: list[Any]) -> None:
    with pytest.raises(Ended):
        service._give_up()
    assert ends == [CANNOT_LIVE]


def test_settings_that_cannot_be_served_end_the_process_with_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_settings: Any) -> None:
        raise StartupError("no such voice")

    monkeypatch.setattr(service, "check", refuse)
    with pytest.raises(SystemExit, match=r"^error: no such voice$"):
        service.QwenTTS.inner.check_settings()


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
    settings: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r"^error: ") as ended:
        service.QwenTTS.inner.check_settings()
    assert all(word in str(ended.value) for word in words)


def test_settings_that_can_be_served_are_let_pass(
    ends: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
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
