"""Which kernels run, and the reason that people get."""

import logging
import shutil
from typing import Any

import pytest
import torch

from qwen_tts_service.kernels.fused import choice as choice_module
from qwen_tts_service.kernels.fused import jit
from qwen_tts_service.kernels.fused.choice import choose_kernels, try_kernel
from qwen_tts_service.kernels.fused.silu import silu_mul

CUDA = torch.device("cuda", 0)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CUDA device with all that the fused kernels need."""
    monkeypatch.setattr(jit, "is_installed", True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    return monkeypatch


def works(device: torch.device) -> None:
    assert device == CUDA


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)])
def test_fused_kernels_run_where_triton_can(
    able: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    able.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    choice = choose_kernels(CUDA, asked=None, trial=works)
    assert choice.is_fused
    assert choice.name == "fused (Triton)"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((jit, "is_installed", False), "pip install triton"),
        ((torch.version, "hip", "6.0"), "ROCm"),
        ((torch.cuda, "get_device_capability", lambda _device: (7, 5)), "8.0"),
        ((shutil, "which", lambda _name: None), "C compiler"),
    ],
)
def test_torchs_own_kernels_run_elsewhere_and_the_reason_says_what_is_missing(
    able: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: Any, reason: str
) -> None:
    able.setattr(logging.getLogger("qwen_tts_service"), "propagate", True)
    able.setattr(*change)
    choice = choose_kernels(CUDA, asked=None, trial=lambda _device: pytest.fail("not tried"))
    assert not choice.is_fused
    assert choice.name == "torch"
    assert reason in choice.reason
    assert [record.getMessage() for record in caplog.records] == [
        f"fused kernels do not run, so speech is made more slowly: {choice.reason}"
    ]


@pytest.mark.parametrize("error", [RuntimeError("no kernel image\nmore"), OSError("Python.h")])
@pytest.mark.usefixtures("able")
def test_a_kernel_that_fails_on_the_device_is_a_reason_with_what_to_install(
    error: Exception,
) -> None:
    def fails(_device: torch.device) -> None:
        raise error

    choice = choose_kernels(CUDA, asked=None, trial=fails)
    assert not choice.is_fused
    said = f"Triton failed with {type(error).__name__}: {str(error).splitlines()[0]}; "
    assert choice.reason.startswith(said)
    assert "apt install gcc" in choice.reason


def test_the_trial_compares_a_kernel_with_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    try_kernel(cpu)
    monkeypatch.setattr(choice_module, "silu_mul", Doubled(silu_mul.plain))
    with pytest.raises(RuntimeError, match="something else"):
        try_kernel(cpu)


class Doubled:
    """A kernel whose results are twice what they should be."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __call__(self, x: torch.Tensor) -> Any:
        return 2 * self.plain(x)


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_for_decides(asked: bool) -> None:
    assert choose_kernels(torch.device("cpu"), asked=asked).is_fused is asked


def test_a_cpu_has_no_use_for_them() -> None:
    choice = choose_kernels(torch.device("cpu"), asked=None)
    assert (choice.is_fused, choice.reason) == (False, "on cpu")
