"""What several unit tests need: the embedded voice, the package's log, cheap collections."""

import gc
import logging
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from qwen_tts_service.api import keeper
from qwen_tts_service.espeak.voice import EspeakVoice


@pytest.fixture(scope="module")
def voice() -> Iterator[EspeakVoice]:
    """The embedded voice; files about other voices have a fixture `voice` of their own."""
    with closing(EspeakVoice()) as voice:
        yield voice


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What the package logs, from `info` on."""
    monkeypatch.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)
    caplog.set_level(logging.INFO, "qwen_tts_service")
    return caplog


@pytest.fixture
def modules_stay_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper's collections see what the test made: all modules of a full run take 2 s each."""
    quick = SimpleNamespace(unfreeze=lambda: None, collect=gc.collect)
    monkeypatch.setattr(keeper, "gc", quick)
