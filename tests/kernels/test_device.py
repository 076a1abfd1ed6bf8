"""Device choice per worker, torch's switches, zeroed memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from qwen_tts_service.errors import StartupError
from qwen_tts_service.kernels import device as device_module
from qwen_tts_service.kernels.device import (
    choose_device,
    free_memory,
    network_dtype,
    prepare,
    replay_seconds,
    tf32,
    upload,
)


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
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    cudnn = SimpleNamespace(allow_tf32=True, deterministic=False)
    matmul = SimpleNamespace(allow_tf32=True)
    cuda = SimpleNamespace(matmul=matmul, enable_cudnn_sdp=asked.append)
    monkeypatch.setattr(torch, "backends", SimpleNamespace(cudnn=cudnn, cuda=cuda))
    prepare(torch.device(device))
    assert cudnn.allow_tf32 is not is_set
    assert matmul.allow_tf32 is not is_set
    assert cudnn.deterministic is is_set
    assert asked == ([False] if is_set else [])
    assert current == ([torch.device(device)] if is_set else [])


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


@pytest.mark.parametrize(
    ("device", "build", "dtype", "has_tf32"),
    [
        pytest.param("cuda", ((8, 0), None), torch.bfloat16, True, id="Ampere"),
        pytest.param("cuda", ((12, 0), None), torch.bfloat16, True, id="Blackwell"),
        pytest.param("cuda", ((7, 5), None), torch.float32, False, id="Turing"),
        pytest.param("cuda", ((7, 0), None), torch.float32, False, id="Volta"),
        pytest.param("cuda", ((9, 4), "6.2"), torch.bfloat16, False, id="ROCm"),
        pytest.param("cpu", (None, None), torch.float32, False, id="CPU"),
    ],
)
def test_number_formats_are_those_that_a_device_has(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    build: tuple[tuple[int, int] | None, str | None],
    dtype: torch.dtype,
    has_tf32: bool,
) -> None:
    capability, hip = build

    def capability_of(_device: torch.device) -> tuple[int, int]:
        assert capability, "only CUDA is asked"
        return capability

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability_of)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert network_dtype(torch.device(device)) == dtype
    if has_tf32:
        device_module._require(torch.device(device), fuse=False, tf32=True)
    else:
        with pytest.raises(StartupError, match=f"CODEC_DTYPE=tf32 needs .* this is {device}"):
            device_module._require(torch.device(device), fuse=False, tf32=True)


def tf32_switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def set_tf32_switches(is_on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_on


@pytest.fixture
def _own_switches() -> Iterator[None]:
    before = tf32_switches()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("is_allowed", [True, False])
@pytest.mark.usefixtures("_own_switches")
def test_tf32_is_allowed_within_its_block_and_no_longer(before: bool, is_allowed: bool) -> None:
    set_tf32_switches(before)
    with tf32(is_allowed=is_allowed):
        assert tf32_switches() == (before or is_allowed,) * 2
    with pytest.raises(ZeroDivisionError), tf32(is_allowed=is_allowed):
        _ = 1 / 0
    assert tf32_switches() == (before, before)


class FakeCuda:
    """Streams, graphs and events whose clock goes on by a millisecond with every call of work."""

    def __init__(self) -> None:
        self.calls = self.recorded = 0
        self.is_recording = False
        self.ms = 0.0

    def Stream(self) -> "FakeCuda":  # noqa: N802 - torch's name
        return self

    CUDAGraph = Stream

    def Event(self, *, enable_timing: bool) -> "FakeEvent":  # noqa: N802 - torch's name
        assert enable_timing
        return FakeEvent(self)

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        assert stream is self
        yield

    @contextmanager
    def graph(self, graph: object) -> Iterator[None]:
        assert graph is self
        assert self.calls == 1, "what is compiled must not be recorded"
        self.is_recording = True
        yield
        self.is_recording = False

    def synchronize(self) -> None:
        pass

    def work(self) -> None:
        self.calls += 1
        self.recorded += self.is_recording

    def replay(self) -> None:
        self.ms += self.recorded


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def record(self) -> None:
        self.ms = self.cuda.ms

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.ms - self.ms


def test_a_call_is_timed_within_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    for name in ("Stream", "CUDAGraph", "Event", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    assert replay_seconds(cuda.work) == pytest.approx(0.001)
    assert cuda.calls == 11
