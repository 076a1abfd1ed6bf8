"""Device choice per worker, torch's switches, zeroed memory."""

from types import SimpleNamespace

import pytest
import torch

from qwen_tts_service.kernels.device import choose_device, prepare, upload


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


def test_a_gpu_asked_for_where_there_is_none_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert str(choose_device("cuda", 3)) == "cuda:0"


@pytest.mark.parametrize(("device", "is_set"), [("cuda", True), ("cpu", False)])
def test_cuda_is_exact_and_deterministic_and_without_cudnn_attention(
    monkeypatch: pytest.MonkeyPatch, device: str, is_set: bool
) -> None:
    asked: list[bool] = []
    cudnn = SimpleNamespace(allow_tf32=True, deterministic=False)
    matmul = SimpleNamespace(allow_tf32=True)
    cuda = SimpleNamespace(matmul=matmul, enable_cudnn_sdp=asked.append)
    monkeypatch.setattr(torch, "backends", SimpleNamespace(cudnn=cudnn, cuda=cuda))
    prepare(torch.device(device))
    assert cudnn.allow_tf32 is not is_set
    assert matmul.allow_tf32 is not is_set
    assert cudnn.deterministic is is_set
    assert asked == ([False] if is_set else [])


def test_an_upload_to_the_host_is_the_tensor() -> None:
    assert upload(torch.arange(3), torch.device("cpu")).tolist() == [0, 1, 2]
