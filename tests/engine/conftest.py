"""One quick checkpoint for all tests of the engine."""

from pathlib import Path

import pytest
import torch

from qwen_tts_service.engine import engine as engine_module
from qwen_tts_service.model.qwen3_tts import Qwen3TTS


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tiny matrices gain nothing from threads, and waiting for them costs much on a busy machine.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _a_thread_that_hangs_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "STOP_S", 5.0)


@pytest.fixture(scope="session")
def model(quick_checkpoint: Path) -> Qwen3TTS:
    return Qwen3TTS.load(quick_checkpoint)
