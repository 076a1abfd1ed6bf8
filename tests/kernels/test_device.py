"""Workers share out the GPUs."""

import pytest
import torch

from qwen_tts_service.kernels.device import choose_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("asked", [None, "cuda"])
def test_workers_take_the_gpus_in_turn(asked: str | None) -> None:
    chosen = [str(choose_device(asked, worker)) for worker in range(4)]
    assert chosen == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("asked", ["cpu", "cuda:1"])
def test_a_device_asked_for_by_name_is_taken(asked: str) -> None:
    assert str(choose_device(asked, 3)) == asked


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(choose_device(None, 0)) == "cpu"
