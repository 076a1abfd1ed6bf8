"""The choice between the fused kernels and torch's own."""

import shutil
from dataclasses import dataclass

import torch

from . import jit

_COMPILERS = ("cc", "gcc", "clang")
LEAST_CAPABILITY = (8, 0)
"""The oldest compute capability that has bfloat16."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """Which kernels run, and for people why."""

    is_fused: bool
    reason: str

    @property
    def name(self) -> str:
        """For /health."""
        return "fused (Triton)" if self.is_fused else "torch"


def choose_kernels(device: torch.device, *, asked: bool | None) -> KernelChoice:
    """Choose the fused kernels on CUDA where Triton can run; `asked` decides if it is given."""
    if asked is not None:
        return KernelChoice(asked, "asked for")
    if device.type != "cuda":
        return KernelChoice(is_fused=False, reason=f"on {device.type}")
    if not jit.is_installed:
        return KernelChoice(is_fused=False, reason="Triton is missing; run pip install triton")
    if torch.version.hip is not None:
        return KernelChoice(is_fused=False, reason="never tried on ROCm")
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return KernelChoice(is_fused=False, reason="needs compute capability 8.0 or higher")
    if not any(map(shutil.which, _COMPILERS)):
        return KernelChoice(
            is_fused=False,
            reason="Triton needs a C compiler; on Debian run apt install gcc libc6-dev",
        )
    return KernelChoice(is_fused=True, reason="Triton is installed")
