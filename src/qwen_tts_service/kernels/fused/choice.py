"""The choice between the fused kernels and torch's own."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import jit
from .silu import silu_mul

logger = logging.getLogger(__name__)

_COMPILERS = ("cc", "gcc", "clang")
_INSTALL = "on Debian run apt install gcc libc6-dev python3-dev"
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


def try_kernel(device: torch.device) -> None:
    """Run one fused kernel; raises RuntimeError for a wrong result, and whatever Triton raises."""
    x = torch.linspace(-4, 4, 256, device=device).view(2, 128)
    if not torch.allclose(silu_mul(x), silu_mul.plain(x), atol=1e-5):
        raise RuntimeError("a kernel has computed something else than torch")


def choose_kernels(
    device: torch.device,
    *,
    asked: bool | None,
    trial: Callable[[torch.device], object] = try_kernel,
) -> KernelChoice:
    """Choose the fused kernels on CUDA where Triton can run; `asked` decides if it is given.

    trial: runs one of them on the device, and raises where that fails
    """
    if asked is not None:
        return KernelChoice(asked, "asked for")
    if device.type != "cuda":
        return KernelChoice(is_fused=False, reason=f"on {device.type}")
    reason = _obstacle(device, trial)
    if reason is None:
        return KernelChoice(is_fused=True, reason="tried on this device")
    logger.warning("fused kernels do not run, so speech is made more slowly: %s", reason)
    return KernelChoice(is_fused=False, reason=reason)


def _obstacle(device: torch.device, trial: Callable[[torch.device], object]) -> str | None:
    """Say why the fused kernels cannot run and, where something helps, what."""
    if not jit.is_installed:
        return "Triton is missing; run pip install triton"
    if torch.version.hip is not None:
        return "never tried on ROCm"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return "needs compute capability 8.0 or higher"
    if not any(map(shutil.which, _COMPILERS)):
        return f"Triton needs a C compiler; {_INSTALL}"
    try:
        trial(device)
    except Exception as error:  # noqa: BLE001 - a compiler's, a driver's, or Triton's own
        first = next(iter(str(error).splitlines()), "")
        return (
            f"Triton failed with {type(error).__name__}: {first[:200]}; if a file is missing, "
            f"{_INSTALL}"
        )
    return None
