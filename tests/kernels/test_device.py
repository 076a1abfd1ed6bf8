"""Workers share out the GPUs, torch's switches are set, and zeros are zeros."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from qwen_tts_service.kernels import device as device_module
from qwen_tts_service.kernels.device import choose_device, free_memory, prepare, upload


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


@pytest.mark.parametrize(("sharers", "free"), [(1, 700), (2, 500), (3, 333)])
def test_free_memory_of_a_gpu_is_shared_alike(
    monkeypatch: pytest.MonkeyPatch, sharers: int, free: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 1000 + device.index))
    assert free_memory(torch.device("cuda", 0), sharers=sharers) == free


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with 900 bytes of 1000 free, and the folder of a container's limits."""
    memory = SimpleNamespace(available=900, total=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    groups = tuple((str(tmp_path), *names) for _, *names in device_module._CGROUPS)
    monkeypatch.setattr(device_module, "_CGROUPS", groups)
    return tmp_path


@pytest.mark.parametrize(("sharers", "free"), [(1, 900), (4, 250)])
@pytest.mark.usefixtures("container")
def test_free_memory_of_the_cpu_is_the_machines(sharers: int, free: int) -> None:
    assert free_memory(torch.device("cpu"), sharers=sharers) == free


@pytest.mark.parametrize(
    ("limit", "used", "cache"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_container_has_what_its_limit_leaves(
    container: Path, limit: str, used: str, cache: str
) -> None:
    (container / limit).write_text("600\n")
    (container / used).write_text("250\n")
    (container / "memory.stat").write_text(f"anon 100\n{cache} 50\n")
    assert free_memory(torch.device("cpu")) == 400
    assert free_memory(torch.device("cpu"), sharers=2) == 300
    (container / limit).write_text("max\n")
    assert free_memory(torch.device("cpu")) == 900
