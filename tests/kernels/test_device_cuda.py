"""What is set and called for a CUDA device, on a machine that may have none."""

from collections.abc import Iterator

import pytest
import torch

from qwen_tts_service.kernels.device import (
    choose_device,
    dtype_named,
    prepare,
    upload,
    with_number,
    zeros,
)

CUDA = torch.device("cuda")


def switches() -> list[bool]:
    return [
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.backends.cuda.cudnn_sdp_enabled(),
    ]


def turn(tf32_cudnn: bool, tf32: bool, is_deterministic: bool, has_cudnn_sdp: bool) -> None:
    torch.backends.cudnn.allow_tf32 = tf32_cudnn
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = is_deterministic
    torch.backends.cuda.enable_cudnn_sdp(has_cudnn_sdp)


@pytest.fixture
def _all_turned_the_other_way() -> Iterator[None]:
    before = switches()
    turn(True, True, False, True)
    yield
    turn(*before)


@pytest.mark.usefixtures("_all_turned_the_other_way")
@pytest.mark.parametrize(
    ("device", "expected"),
    [("cuda", [False, False, True, False]), ("cpu", [True, True, False, True])],
)
def test_switches_are_set_for_cuda_alone(
    device: str, expected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    prepare(torch.device(device))
    assert switches() == expected


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_a_device_without_a_number_gets_that_of_the_current_one(
    monkeypatch: pytest.MonkeyPatch, device: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert str(with_number(torch.device(device))) == expected


def test_an_upload_is_pinned_and_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def to(tensor: torch.Tensor, *where: object, **how: object) -> torch.Tensor:
        calls.append((where, how))
        return tensor

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        calls.append("pinned")
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    upload(torch.ones(2), CUDA)
    assert calls == ["pinned", ((CUDA,), {"non_blocking": True})]
    calls.clear()
    upload(torch.ones(2), torch.device("cpu"))
    assert calls == [((torch.device("cpu"),), {})]


def test_dtypes_have_their_names() -> None:
    assert dtype_named("float32") is torch.float32
    assert dtype_named("bfloat16") is torch.bfloat16


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_zeros_have_shape_dtype_and_device(device: str, dtype: torch.dtype) -> None:
    made = zeros(3, 5, dtype=dtype, device=torch.device(device))
    assert (made.shape, made.dtype, made.device.type) == ((3, 5), dtype, device)
    if device == "cpu":
        assert torch.equal(made, torch.zeros(3, 5, dtype=dtype))


def test_cuda_without_a_gpu_is_its_first_whatever_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert str(choose_device("cuda", 3)) == "cuda:0"
