"""Tiny checkpoints and the scripts that the model's tests share."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.checkpoints import write_tiny_checkpoint

from qwen_tts_service.model.qwen3_tts import Qwen3TTS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
VOICES = DATA / "voices"
TINY_VOICES = ("base_1b7", "base_0b6", "design_1b7", "finetuned_0b6")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tiny matrices gain nothing from threads, and waiting for them costs much on a busy machine.
    torch.set_num_threads(1)


def load_script(name: str) -> ModuleType:
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def parity() -> ModuleType:
    return load_script("parity")


@pytest.fixture(scope="session")
def verify_weights() -> ModuleType:
    return load_script("verify_weights")


@pytest.fixture(scope="session")
def random_checkpoint() -> ModuleType:
    return load_script("make_random_checkpoint")


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA


@pytest.fixture(scope="session")
def model() -> Qwen3TTS:
    return Qwen3TTS.load(DATA / "tiny_1b7")


@pytest.fixture(scope="session")
def small_model() -> Qwen3TTS:
    return Qwen3TTS.load(DATA / "tiny_0b6")


@pytest.fixture(scope="session")
def tiny_voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the checkpoints TINY_VOICES, as tiny_base_1b7 and so on."""
    folder = tmp_path_factory.mktemp("voices")
    for name in TINY_VOICES:
        write_tiny_checkpoint(folder / f"tiny_{name}", f"tiny_{name}")
    return folder


@pytest.fixture(scope="session")
def base_model(tiny_voices: Path) -> Qwen3TTS:
    return Qwen3TTS.load(tiny_voices / "tiny_base_1b7")


@pytest.fixture(scope="session")
def design_model(tiny_voices: Path) -> Qwen3TTS:
    return Qwen3TTS.load(tiny_voices / "tiny_design_1b7")
