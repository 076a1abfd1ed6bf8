"""Tiny checkpoints and the scripts that the model's tests share."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from qwen_tts_service.model.qwen3_tts import Qwen3TTS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Tiny matrices gain nothing from threads, and waiting for them costs much on a busy machine.
    torch.set_num_threads(1)


def load_script(name):
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def parity():
    return load_script("parity")


@pytest.fixture(scope="session")
def verify_weights():
    return load_script("verify_weights")


@pytest.fixture(scope="session")
def random_checkpoint():
    return load_script("make_random_checkpoint")


@pytest.fixture(scope="session")
def data():
    return DATA


@pytest.fixture(scope="session")
def model():
    return Qwen3TTS.load(DATA / "tiny_1b7")


@pytest.fixture(scope="session")
def small_model():
    return Qwen3TTS.load(DATA / "tiny_0b6")
