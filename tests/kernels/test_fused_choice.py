"""Which kernels run, and the reason that people get."""

import shutil

import pytest
import torch

from qwen_tts_service.kernels.fused import jit
from qwen_tts_service.kernels.fused.choice import choose_kernels

CUDA = torch.device("cuda", 0)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CUDA device with all that the fused kernels need."""
    monkeypatch.setattr(jit, "is_installed", True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    return monkeypatch


def test_fused_kernels_run_where_triton_can(able: pytest.MonkeyPatch) -> None:
    choice = choose_kernels(CUDA, asked=None)
    assert choice.is_fused
    assert choice.name == "fused (Triton)"


@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (jit, "is_installed", False, "pip install triton"),
        (torch.version, "hip", "6.0", "ROCm"),
        (torch.cuda, "get_device_capability", lambda _device: (7, 5), "8.0"),
        (shutil, "which", lambda _name: None, "C compiler"),
    ],
)
def test_torchs_own_kernels_run_elsewhere_and_the_reason_says_what_is_missing(
    able: pytest.MonkeyPatch, owner: object, name: str, value: object, reason: str
) -> None:
    able.setattr(owner, name, value)
    choice = choose_kernels(CUDA, asked=None)
    assert not choice.is_fused
    assert choice.name == "torch"
    assert reason in choice.reason


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_for_decides(asked: bool) -> None:
    assert choose_kernels(torch.device("cpu"), asked=asked).is_fused is asked


def test_a_cpu_has_no_use_for_them() -> None:
    choice = choose_kernels(torch.device("cpu"), asked=None)
    assert (choice.is_fused, choice.reason) == (False, "on cpu")
