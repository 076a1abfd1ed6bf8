"""Triton where it is installed; elsewhere a stand-in with which kernels are defined and never run.

A fused operation is made of a plain torch function, which says what it computes and runs on every
device without Triton, and of a function that launches the Triton kernel on CUDA. With
TRITON_INTERPRET=1, set before Python starts, the kernels also run on the CPU, slowly, by Triton's
interpreter: so they are compared with their definitions where there is no device.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

try:
    import triton
    import triton.language as tl

    jit: Any = triton.jit
    is_installed = True
    is_interpreted = bool(triton.knobs.runtime.interpret)
except (ImportError, AttributeError):  # the latter before version 3.4, which has no knobs

    class _Missing:
        """Stand-in for every name that kernels use in their definitions."""

        def __getattr__(self, _name: str) -> "_Missing":
            return self

    tl = triton = _Missing()
    is_installed = is_interpreted = False

    def jit(function: Any) -> Any:
        """Leave a kernel as it is: nothing runs it."""
        return function


P = ParamSpec("P")
R = TypeVar("R")

__all__ = [
    "KERNELS",
    "FusedOperation",
    "fused",
    "is_installed",
    "is_interpreted",
    "jit",
    "next_power_of_2",
    "rounded",
    "tl",
]

_LIBRARY = "qwen_tts"
KERNELS: dict[str, int] = {}
"""How many kernels each fused operation launches."""


class FusedOperation(Generic[P, R]):
    """A custom operation of torch; `plain` is its definition in plain torch."""

    def __init__(self, plain: Callable[P, R], operation: Callable[..., R]) -> None:
        self.plain = plain
        self._operation = operation

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the Triton kernel on CUDA, and the plain definition elsewhere."""
        return self._operation(*args, **kwargs)


def fused(
    launch: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    changes: tuple[str, ...] = (),
    strided: tuple[str, ...] = (),
    kernels: int = 1,
) -> Callable[[Callable[P, R]], FusedOperation[P, R]]:
    """Make a plain definition a custom operation that runs `launch` on CUDA.

    fake: returns outputs of the right shapes without computing them
    changes: names of the arguments that are written to
    strided: names of those that need not be contiguous; kernels compute addresses from shapes
    kernels: how many `launch` launches
    """

    def decorate(plain: Callable[P, R]) -> FusedOperation[P, R]:
        name = plain.__name__
        operation = torch.library.custom_op(f"{_LIBRARY}::{name}", plain, mutates_args=changes)
        operation.register_fake(_of_contiguous(fake, plain, strided))
        if is_installed:
            device = "cpu" if is_interpreted else "cuda"
            operation.register_kernel(device)(_of_contiguous(launch, plain, strided))
        KERNELS[name] = kernels
        return FusedOperation(plain, operation)

    return decorate


def _of_contiguous(
    function: Callable[..., Any], plain: Callable[..., Any], strided: tuple[str, ...]
) -> Callable[..., Any]:
    """Check the arguments of a launch or fake: what is not contiguous would be read elsewhere."""
    names = list(inspect.signature(plain).parameters)

    @functools.wraps(function)
    def checked(*args: Any) -> Any:
        for name, value in zip(names, args, strict=False):
            is_dense = not isinstance(value, torch.Tensor) or value.is_contiguous()
            assert is_dense or name in strided, f"{plain.__name__}: {name} is not contiguous"
        return function(*args)

    return checked


def next_power_of_2(number: int) -> int:
    """Return the smallest power of 2 that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()


@jit
def rounded(x, dtype: tl.constexpr):
    """Round float32 as torch does where it stores `dtype`: to nearest, ties to even.

    Written out for bfloat16, which Triton's interpreter would cut off.
    """
    if dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return bits.to(tl.float32, bitcast=True)
    return x.to(dtype).to(tl.float32)
